//! The virtual coordinator: the real round machine, driven as `coordinator::run::Actor` drives it:
//! one input after the other, each action in order, nothing past a write that the disk did not take.

use super::{
    Federation, Happening, private,
    receiving::Call,
    sessions::Session,
    storing::{Disk, Journal},
};
use crate::{Millis, Mutation, Schedule};
use algorithms::{Algorithm, MODEL, Vector, Vectors, fold::Accumulator};
use coordinator::{
    machine::{Action, End, Event, Machine, Phase, Rules, Token},
    private::{Guard, Sum},
};
use proto::{digest::Digest, event::RunEvent, names::RunId, spec::RunSpec};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use worker::message::{Command, Evaluation, Wanted};

/// What waits for the run's task.
#[derive(Debug)]
pub(super) enum Input {
    /// For the machine.
    Event(Event),
    /// A timer of the machine, and for when it was armed.
    Timer(Millis, Token),
    /// An upload's header.
    Offer(Box<Call>),
    /// An upload's payload.
    Payload(Box<Call>),
    /// The disk has a commit.
    Committed(Box<Disk>),
}

/// The virtual coordinator.
#[derive(Debug)]
pub(super) struct Server {
    /// Counts deaths.
    pub(super) life: u32,
    /// The round in which the present life began.
    pub(super) began: u64,
    /// It dies after so many more actions.
    pub(super) fuse: Option<u64>,
    /// Updates that came during a commit, in a run without rounds.
    pub(super) held: Vec<Call>,
    /// Vectors that are needed, and that were before the last commit.
    pub(super) kept: [BTreeSet<Digest>; 2],
    pub(super) store_fails_until: Millis,
    /// What survives a death: the record, the vectors by content, the quarantine, the log.
    pub(super) disk: Disk,
    pub(super) blobs: BTreeMap<Digest, Vector>,
    pub(super) quarantine: BTreeSet<String>,
    pub(super) journal: Journal,
    /// `None`: dead.
    pub(super) machine: Option<Machine>,
    pub(super) record: Disk,
    pub(super) accumulators: Vec<Accumulator>,
    /// In a run that promises privacy, and the sum of its open round.
    pub(super) guard: Option<Guard>,
    pub(super) sum: Option<Sum>,
    /// Secrets that were lent to the machine.
    pub(super) secrets: u64,
    pub(super) sessions: BTreeMap<usize, Session>,
    pub(super) timers: BTreeSet<(Millis, Token)>,
    pub(super) committing: bool,
    /// Actions that wait for the disk, and what came after them.
    due: VecDeque<Action>,
    inbox: VecDeque<Input>,
    pause: Millis,
    pub(super) observed: Observed,
    rules: Rules,
    pub(super) run: RunId,
}

/// What the checks remember of the present life.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Accepted updates of the open round, and in which order they came.
    pub(super) accepted: BTreeMap<String, Call>,
    pub(super) arrivals: Vec<String>,
    /// Rejections in a row for a fault.
    pub(super) strikes: BTreeMap<String, u32>,
    /// When a worker was last asked or moved on.
    pub(super) moved: BTreeMap<String, Millis>,
    /// The deadline that was armed last.
    pub(super) deadline: Millis,
    /// What is missing was said.
    pub(super) waiting: bool,
}

impl Server {
    pub(super) fn new(algorithm: &dyn Algorithm, spec: &RunSpec, schedule: &Schedule) -> Self {
        let dimension = schedule.dimension;
        let vectors = algorithms::fresh_server(algorithm, Arc::new(vec![0.0; dimension]));
        let named = |(name, vector): (&String, &Vector)| (name.clone(), Digest::of_vector(vector));
        let disk = Disk { vectors: vectors.iter().map(named).collect(), ..Disk::default() };
        let mut rules = Rules::from(spec);
        if schedule.mutation == Mutation::FewShares {
            rules.min_updates = 1;
        }
        let mut server = Self {
            life: 0,
            began: 0,
            fuse: None,
            held: Vec::new(),
            kept: Default::default(),
            store_fails_until: 0,
            record: disk.clone(),
            disk,
            blobs: vectors.into_values().map(|vector| (Digest::of_vector(&vector), vector)).collect(),
            quarantine: BTreeSet::new(),
            journal: Journal::default(),
            machine: None,
            accumulators: Vec::new(),
            guard: private::guard(spec, algorithm, dimension),
            sum: None,
            secrets: 0,
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            committing: false,
            due: VecDeque::new(),
            inbox: VecDeque::new(),
            pause: 0,
            observed: Observed::default(),
            rules,
            run: "r-1".parse().expect("r-1 is a name"),
        };
        server.promise(spec, schedule);
        server
    }

    pub(super) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    /// Whether it waits for its disk.
    pub(super) fn is_stalled(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn die(&mut self) {
        self.life += 1;
        (self.machine, self.fuse, self.committing) = (None, None, false);
        self.observed = Observed::default();
        self.accumulators.clear();
        self.held.clear();
        self.sum = None;
        self.sessions.clear();
        self.timers.clear();
        self.due.clear();
        self.inbox.clear();
        self.journal.crash();
    }

    pub(super) fn fetch(&self, digest: &Digest) -> Option<Vector> {
        self.blobs.get(digest).cloned()
    }

    /// The server's vectors as the disk has them.
    pub(super) fn vectors(&self) -> Vectors {
        let named = |(name, digest): (&String, &Digest)| Some((name.clone(), self.fetch(digest)?));
        self.disk.vectors.iter().filter_map(named).collect()
    }

    pub(super) fn wanted(&self, name: &str) -> Option<Wanted> {
        self.named(name, *self.record.vectors.get(name)?)
    }

    pub(super) fn named(&self, name: &str, digest: Digest) -> Option<Wanted> {
        let length = self.blobs.get(&digest)?.len() as u64;
        Some(Wanted { name: name.to_owned(), digest, length })
    }
}

impl Federation {
    pub(super) fn coordinator_up(&mut self) {
        let (mut restored, round) = (self.server.disk.restored(), self.server.disk.round);
        if self.schedule.mutation == Mutation::ForgetParticipations {
            restored.participations.clear();
        }
        self.note(&format!("the coordinator starts in round {round}"));
        self.server.record = self.server.disk.clone();
        self.server.began = round;
        self.server.guard = self.server.guard.as_ref().map(Guard::restarted);
        self.keep_at_start();
        self.server.machine = Some(Machine::new(self.server.rules.clone(), restored));
        self.catch_up();
        self.machine(Event::Start);
        if self.schedule.mutation != Mutation::ForgetQuarantine {
            for worker in self.server.quarantine.clone() {
                self.machine(Event::Quarantine { worker, on: true });
            }
        }
    }

    pub(super) fn machine(&mut self, event: Event) {
        self.input(Input::Event(event));
    }

    /// Something for the run's task; it takes one after the other.
    pub(super) fn input(&mut self, input: Input) {
        if self.server.is_up() {
            self.server.inbox.push_back(input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while !self.server.is_stalled()
            && let Some(input) = self.server.inbox.pop_front()
        {
            match input {
                Input::Event(event) => {
                    if self.observe(&event) {
                        continue;
                    }
                    let actions = self.decide(event);
                    self.act(actions);
                }
                Input::Timer(at, token) => self.fire(at, token),
                Input::Offer(call) => self.offered_to_machine(*call),
                Input::Payload(call) if self.server.machine.as_ref().is_some_and(Machine::holds_back) => {
                    self.server.held.push(*call);
                }
                Input::Payload(call) => self.deliver(&call),
                Input::Committed(disk) => self.committed(*disk),
            }
        }
    }

    /// Notes a report of progress; whether the coordinator is deaf to it, as a defect.
    fn observe(&mut self, event: &Event) -> bool {
        let Event::Progress { worker, round, .. } = event else { return false };
        let open = |machine: &Machine| match machine.ongoing() {
            Some(ongoing) => ongoing.tasks.get(worker) == Some(round),
            None => machine.round() == *round && *machine.phase() == Phase::Training,
        };
        if self.server.machine.as_ref().is_some_and(open) {
            self.server.observed.moved.insert(worker.clone(), self.now);
        }
        self.schedule.mutation == Mutation::DeafToProgress
    }

    /// Asks the machine.
    pub(super) fn decide(&mut self, event: Event) -> Vec<Action> {
        let now = self.now;
        self.lend_secret();
        self.server.machine.as_mut().map(|machine| machine.handle(event, now)).unwrap_or_default()
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
        self.check_motion(&actions);
        self.server.due.extend(actions);
        self.server.pause = 500;
        self.proceed();
    }

    /// Goes on with what is due, until a write fails.
    fn proceed(&mut self) {
        while let Some(action) = self.server.due.pop_front() {
            if self.is_calm() {
                self.server.fuse = None;
            }
            match &mut self.server.fuse {
                Some(0) => return self.coordinator_down(),
                Some(left) => *left -= 1,
                None => {}
            }
            let writes = matches!(action, Action::Persist | Action::Quarantine { .. } | Action::End(_));
            if writes && self.store_fails() {
                self.server.due.push_front(action);
                let (life, pause) = (self.server.life, self.server.pause);
                self.server.pause = (pause * 2).min(10_000);
                return self.queue.push(self.now + pause, Happening::Retry { life });
            }
            self.perform(action);
        }
        self.flush();
        self.check_armed();
    }

    /// The disk is tried again.
    pub(super) fn retry(&mut self) {
        self.proceed();
        self.drain();
    }

    fn perform(&mut self, action: Action) {
        self.check_told(&action);
        let run = self.server.run.clone();
        match action {
            Action::Persist => self.persist(),
            Action::Publish(event) => self.publish(event),
            Action::Arm { token, at } => self.arm(token, at),
            Action::Assign { worker, round, committed, remaining_ms } => {
                self.assign(&worker, round, committed, remaining_ms);
            }
            Action::Abandon { worker, round, reason } => {
                self.tell(&worker, Command::Abandon { run, round, reason });
            }
            Action::Closed { worker, round, included } => {
                self.tell(&worker, Command::Closed { run, round, included });
            }
            Action::Evaluate { worker, round } => {
                if let Some(model) = self.server.wanted(MODEL) {
                    let spec = Arc::clone(&self.spec);
                    let evaluation = Evaluation { run, round, spec, model, packed: None };
                    self.tell(&worker, Command::Evaluate(Box::new(evaluation)));
                }
            }
            Action::DropUploads => {
                if self.schedule.mutation != Mutation::KeepUploads {
                    self.forget_uploads();
                }
            }
            Action::Commit { round, counted, population, population_before, .. } => {
                if self.flow().is_none() {
                    self.check_patient();
                }
                self.commit(round, &counted, (population, population_before));
            }
            Action::Quarantine { worker } => {
                self.report.incidents.quarantined += 1;
                self.server.quarantine.insert(worker.clone());
                let life = self.server.life;
                self.queue.push(self.now, Happening::Quarantine { life, worker });
            }
            Action::End(end) => self.over(end),
            Action::FederatedDone { sums, .. } => self.check_evaluation(&sums),
            Action::Verdict { .. } => {}
        }
    }

    pub(super) fn forget_uploads(&mut self) {
        self.server.accumulators.clear();
        self.server.sum = None;
        self.server.observed.accepted.clear();
        self.server.observed.arrivals.clear();
    }

    fn arm(&mut self, token: Token, mut at: Millis) {
        if matches!(token, Token::Deadline { .. }) {
            self.server.observed.deadline = at;
            if self.schedule.mutation == Mutation::EarlyDeadline {
                at -= (at - self.now) / 2;
            }
        }
        let life = self.server.life;
        self.server.timers.insert((at, token.clone()));
        // One that is armed after a stall may be due already.
        self.queue.push(at.max(self.now), Happening::Timer { life, at, token });
    }

    /// A timer goes off. One that was armed twice for the same time does so once, as in a set.
    fn fire(&mut self, at: Millis, token: Token) {
        if !self.server.timers.remove(&(at, token.clone())) {
            return;
        }
        let deaf = self.schedule.mutation == Mutation::IgnoreDeadline;
        if deaf && matches!(token, Token::Deadline { .. }) {
            return self.check_armed();
        }
        let actions = self.decide(Event::Timer(token));
        self.act(actions);
    }

    fn over(&mut self, end: End) {
        self.note(&format!("the run is over: {end:?}"));
        if end == End::Finished {
            let model_digest = self.server.record.vectors[MODEL];
            self.publish(RunEvent::Finished { rounds: self.server.record.round, model_digest });
        } else {
            self.report.require("bounded", self.now, Err(format!("the run ended as {end:?}")));
        }
        let last = self.server.record.ongoing.buffer.clone();
        self.server.record.ended = Some(end);
        self.persist();
        self.check_nothing_lost(&last);
        self.check_balance();
        self.check_log();
        self.report.finished = Some(self.now);
    }
}
