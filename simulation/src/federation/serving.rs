//! The virtual coordinator: the real round machine, driven as `coordinator::run::Actor` drives it,
//! with a disk that survives a crash, and sessions, accumulators and timers that do not.

use super::{Federation, Happening, network::Parcel, sessions::Session};
use crate::{Committed, Millis, Mutation, invariants};
use algorithms::{
    Algorithm, MODEL, RoundFacts, Vector, Vectors,
    fold::{Accumulator, UploadFacts, accumulators},
};
use coordinator::machine::{Action, Counted, Decision, End, Event, Facts, Machine, Opening, Restored, Rules};
use proto::{digest::Digest, event::RunEvent, names::RunId, spec::RunSpec};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use worker::{
    client_state::Pending,
    message::{Assignment, Command, Evaluation, Wanted},
    session::JobId,
};

/// What the coordinator's disk has of the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    round: u64,
    opening: Option<Opening>,
    pub(super) members: std::collections::BTreeSet<String>,
    population_before: usize,
    pub(super) committed: BTreeMap<String, u64>,
    paused: bool,
    vectors: BTreeMap<String, Digest>,
    /// By round, as far as the algorithm recalls them.
    recalled: BTreeMap<u64, BTreeMap<String, Digest>>,
    ended: Option<End>,
}

/// A commit on its way to the disk.
#[derive(Debug)]
pub(super) struct Commit {
    disk: Disk,
    accumulators: Vec<Accumulator>,
    facts: RoundFacts,
    participants: Vec<String>,
}

/// The virtual coordinator.
#[derive(Debug)]
pub(super) struct Server {
    /// Counts deaths.
    pub(super) life: u32,
    /// It dies after so many more actions.
    pub(super) fuse: Option<u64>,
    pub(super) disk: Disk,
    /// Vectors by content; durable.
    blobs: BTreeMap<Digest, Vector>,
    /// `None`: dead.
    machine: Option<Machine>,
    record: Disk,
    accumulators: Vec<Accumulator>,
    pub(super) sessions: BTreeMap<usize, Session>,
    rules: Rules,
    run: RunId,
}

impl Server {
    pub(super) fn new(algorithm: &dyn Algorithm, spec: &RunSpec, dimension: usize) -> Self {
        let server = algorithms::fresh_server(algorithm, Arc::new(vec![0.0; dimension]));
        let named = |(name, vector): (&String, &Vector)| (name.clone(), Digest::of_vector(vector));
        let disk = Disk { vectors: server.iter().map(named).collect(), ..Disk::default() };
        Self {
            life: 0,
            fuse: None,
            record: disk.clone(),
            disk,
            blobs: server.into_values().map(|vector| (Digest::of_vector(&vector), vector)).collect(),
            machine: None,
            accumulators: Vec::new(),
            sessions: BTreeMap::new(),
            rules: Rules::from(spec),
            run: "r-1".parse().expect("r-1 is a name"),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(super) fn die(&mut self) {
        self.life += 1;
        (self.machine, self.fuse) = (None, None);
        self.accumulators.clear();
        self.sessions.clear();
    }

    pub(super) fn fetch(&self, digest: &Digest) -> Option<Vector> {
        self.blobs.get(digest).cloned()
    }

    /// The server's vectors as the disk has them.
    pub(super) fn vectors(&self) -> Vectors {
        let named = |(name, digest): (&String, &Digest)| Some((name.clone(), self.fetch(digest)?));
        self.disk.vectors.iter().filter_map(named).collect()
    }

    fn wanted(&self, name: &str) -> Option<Wanted> {
        self.named(name, *self.record.vectors.get(name)?)
    }

    fn named(&self, name: &str, digest: Digest) -> Option<Wanted> {
        let length = self.blobs.get(&digest)?.len() as u64;
        Some(Wanted { name: name.to_owned(), digest, length })
    }
}

impl Federation {
    pub(super) fn coordinator_up(&mut self) {
        let Disk { round, opening, members, population_before, committed, paused, .. } =
            self.server.disk.clone();
        let opening = opening.filter(|opening| opening.round == round);
        let restored = Restored { round, opening, members, population_before, committed, paused };
        self.note(&format!("the coordinator starts in round {round}"));
        self.server.record = self.server.disk.clone();
        self.server.machine = Some(Machine::new(self.server.rules.clone(), restored));
        self.machine(Event::Start);
    }

    pub(super) fn machine(&mut self, event: Event) {
        let now = self.now;
        if let Some(machine) = &mut self.server.machine {
            let actions = machine.handle(event, now);
            self.act(actions);
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            if self.is_calm() {
                self.server.fuse = None;
            }
            match &mut self.server.fuse {
                Some(0) => return self.coordinator_down(),
                Some(left) => *left -= 1,
                None => {}
            }
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let run = self.server.run.clone();
        match action {
            Action::Persist => self.persist(),
            Action::Publish(event) => self.publish(&event),
            Action::Arm { token, at } => {
                let life = self.server.life;
                self.queue.push(at, Happening::Timer { life, token });
            }
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
                    let evaluation = Evaluation { run, round, spec: Arc::clone(&self.spec), model };
                    self.tell(&worker, Command::Evaluate(Box::new(evaluation)));
                }
            }
            Action::DropUploads => self.server.accumulators.clear(),
            Action::Commit { round, counted, population, population_before, .. } => {
                self.commit(round, &counted, (population, population_before));
            }
            Action::End(end) => self.over(end),
            Action::FederatedDone { .. } | Action::Quarantine { .. } | Action::Verdict { .. } => {}
        }
    }

    fn publish(&mut self, event: &RunEvent) {
        self.note(&format!("run: {event:?}"));
        if matches!(event, RunEvent::WorkerDeclined { .. } | RunEvent::Quarantined { .. }) {
            self.report.require("nobody refuses", self.now, Err(format!("{event:?}")));
        }
    }

    fn persist(&mut self) {
        let Server { machine: Some(machine), record, disk, .. } = &mut self.server else { return };
        record.members.clone_from(machine.members());
        record.paused = machine.is_paused();
        let cohort: Vec<String> = machine.cohort().keys().cloned().collect();
        record.opening = (!cohort.is_empty()).then(|| Opening { round: machine.round(), cohort });
        *disk = record.clone();
    }

    fn assign(&mut self, worker: &str, round: u64, committed: Option<u64>, remaining_ms: Millis) {
        let names = std::iter::once(MODEL).chain(self.algorithm.down().iter().copied());
        let now = names.filter_map(|name| self.server.wanted(name));
        let then = committed.and_then(|round| self.server.record.recalled.get(&round));
        let again = then.into_iter().flat_map(|then| {
            let named = |(name, under): &(&str, &str)| self.server.named(under, *then.get(*name)?);
            self.algorithm.recalled().iter().filter_map(named)
        });
        let assignment = Assignment {
            run: self.server.run.clone(),
            round,
            spec: Arc::clone(&self.spec),
            lr: self.spec.lr(round),
            committed,
            vectors: now.chain(again).collect(),
            remaining: Duration::from_millis(remaining_ms),
        };
        self.tell(worker, Command::Assign(Box::new(assignment)));
    }

    /// An upload arrives: asked, folded, told to the machine, answered; then the rest.
    pub(super) fn deliver(&mut self, connection: u64, worker: usize, job: JobId, pending: &Pending) {
        let Some(machine) = &mut self.server.machine else { return };
        let (worker, round) = (self.nodes[worker].name.clone(), pending.round);
        let offer = machine.offer(&worker, round);
        let twice = self.schedule.mutation == Mutation::CountTwice && offer == Decision::Duplicate;
        if offer == Decision::Accept || twice {
            if self.server.accumulators.is_empty() {
                self.server.accumulators = accumulators(self.algorithm.as_ref(), self.schedule.dimension);
            }
            let worker::client_state::Facts { examples, steps, lr, .. } = pending.facts;
            for accumulator in &mut self.server.accumulators {
                let from = accumulator.fold().from;
                accumulator.accumulate(&pending.upload[from], &UploadFacts { examples, steps, lr });
            }
        }
        let facts = Facts {
            examples: pending.facts.examples,
            train_loss: Some(pending.facts.train_loss),
            seconds: pending.facts.seconds,
        };
        let actions = machine.handle(Event::Update { worker, round, facts }, self.now);
        let decision = actions.iter().find_map(|action| match action {
            Action::Verdict { decision, .. } => Some(decision.clone()),
            _ => None,
        });
        if let Some(decision) = decision {
            self.send(connection, &Parcel::Verdict(job, decision));
        }
        self.act(actions);
    }

    fn commit(&mut self, round: u64, counted: &[Counted], (population, population_before): (usize, usize)) {
        let Server { machine: Some(machine), record, accumulators, life, .. } = &mut self.server else {
            return;
        };
        let mut disk = record.clone();
        disk.round = round + 1;
        disk.opening = None;
        disk.members.clone_from(machine.members());
        disk.population_before = population;
        disk.committed.extend(counted.iter().map(|counted| (counted.worker.clone(), round)));
        let commit = Commit {
            disk,
            accumulators: std::mem::take(accumulators),
            facts: RoundFacts { included: counted.len(), population, population_before },
            participants: counted.iter().map(|counted| counted.worker.clone()).collect(),
        };
        let life = *life;
        let folded: Vec<usize> = commit.accumulators.iter().map(Accumulator::count).collect();
        self.report.require("once", self.now, invariants::once(&commit.participants, &folded));
        if self.schedule.mutation == Mutation::ConfirmBeforeDisk {
            for worker in &commit.participants {
                let run = self.server.run.clone();
                self.tell(worker, Command::Closed { run, round, included: true });
            }
        }
        let at = self.now + self.dice.between(5, 400);
        self.queue.push(at, Happening::Written { life, commit: Box::new(commit) });
    }

    /// The disk takes a commit, whole; the coordinator may die before it hears of it.
    pub(super) fn written(&mut self, commit: Commit) {
        let Commit { mut disk, accumulators, facts, participants } = commit;
        let mut mean = Vectors::new();
        for accumulator in accumulators {
            let name = accumulator.fold().into.to_owned();
            mean.extend(accumulator.mean().map(|vector| (name, Arc::new(vector))));
        }
        let mut server = self.server.vectors();
        self.algorithm.apply(&mut server, &mean, &facts);
        for (name, vector) in &server {
            let digest = Digest::of_vector(vector);
            disk.vectors.insert(name.clone(), digest);
            self.server.blobs.insert(digest, Arc::clone(vector));
        }
        let round = disk.round - 1;
        let recalled = |(name, _): &(&str, &str)| Some(((*name).to_owned(), *disk.vectors.get(*name)?));
        disk.recalled.insert(round, self.algorithm.recalled().iter().filter_map(recalled).collect());
        self.report.require("monotone", self.now, invariants::monotone(&self.report.rounds, round));
        let (digests, model) = (disk.vectors.clone(), Arc::clone(&server[MODEL]));
        self.note(&format!("disk: round {round} with {participants:?}, model {}", digests[MODEL]));
        self.report.rounds.push(Committed { round, at: self.now, participants, digests, model });
        self.server.disk = disk.clone();
        self.check_balance();
        let (life, at) = (self.server.life, self.now + self.dice.between(0, 200));
        self.queue.push(at, Happening::Committed { life, disk: Box::new(disk) });
    }

    pub(super) fn committed(&mut self, disk: Disk) {
        let (round, digest) = (disk.round - 1, disk.vectors[MODEL]);
        self.server.record = disk;
        self.machine(Event::Committed { round, digest });
    }

    fn over(&mut self, end: End) {
        self.note(&format!("the run is over: {end:?}"));
        if end == End::Finished {
            self.check_balance();
        } else {
            self.report.require("bounded", self.now, Err(format!("the run ended as {end:?}")));
        }
        self.server.record.ended = Some(end);
        self.persist();
        self.report.finished = Some(self.now);
    }
}
