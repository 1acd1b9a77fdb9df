//! The loop: the next thing on the virtual clock happens, the machine says what follows, it is done.

mod delivery;
mod pause;

pub(super) use pause::Paused;

use super::{
    Line, Notice, Outcome, STEP_MS, Setup, SimulationError, client_index, client_name,
    desk::{Desk, Key},
    lane::{Ground, Order, Report},
    server::{Opened, Server, clear},
};
use crate::snapshot::Pace;
use algorithms::{MODEL, Vector};
use coordinator::{
    asynchrony,
    machine::{Action, End, Event, Federated, Machine, Millis, Ongoing, Rules, Token},
};
use proto::{
    event::{ClientScores, RunEvent},
    v1::Phase,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    thread,
};

/// Runs a simulation to its end, from where it was interrupted.
///
/// # Errors
/// If it cannot be set up, a file fails, or the run fails; what was committed stays.
pub fn run(setup: &Setup, watch: &mut dyn FnMut(Notice<'_>)) -> Result<Outcome, SimulationError> {
    std::fs::create_dir_all(&setup.folder).map_err(|error| SimulationError::file(&setup.folder, error))?;
    let paused = Paused::read(setup)?;
    let opened = Opened::new(setup, paused.as_ref())?;
    let server = opened.server(setup)?;
    let desk = Desk::new(server.threads);
    let ground = Ground {
        spec: Arc::clone(&server.spec),
        algorithm: server.algorithm,
        packing: opened.packing.as_ref(),
        own: opened.own.as_ref(),
        model: server.model,
        shares: server.shares,
        states: server.states,
        blobs: server.store.blobs(),
        desk: &desk,
        maker: server.maker,
        promise: opened.promise.clone(),
        secrets: &opened.secrets,
    };
    let outcome = thread::scope(|scope| {
        let _closing = Closing(&desk);
        for _ in 0..server.threads {
            scope.spawn(|| ground.serve());
        }
        Drive::new(server, &desk, watch, Pace::new(setup.checkpoint)).go(paused)
    })?;
    drop(opened);
    clear(&setup.folder)?;
    Ok(outcome)
}

/// Lets the lanes go, however the loop ends.
struct Closing<'a>(&'a Desk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A client that trains.
#[derive(Debug)]
struct Awaited {
    worker: String,
    round: u64,
    since: Millis,
    /// What it trains on, in a run without rounds.
    base: Option<Vector>,
}

struct Drive<'a, 'w> {
    server: Server<'a>,
    machine: Machine,
    desk: &'a Desk,
    watch: &'w mut dyn FnMut(Notice<'_>),
    now: Millis,
    timers: BTreeSet<(Millis, Token)>,
    awaited: BTreeMap<Key, Awaited>,
    keys: BTreeMap<String, Key>,
    orders: u64,
    due: VecDeque<Action>,
    evaluating: Vec<(String, u64)>,
    /// Committed, and perhaps still to be evaluated by the clients.
    line: Option<Line>,
    ended: Option<End>,
    /// Of the snapshots of a run without rounds.
    pace: Pace,
}

type Step = Result<(), SimulationError>;

impl<'a, 'w> Drive<'a, 'w> {
    fn new(server: Server<'a>, desk: &'a Desk, watch: &'w mut dyn FnMut(Notice<'_>), pace: Pace) -> Self {
        let (mut rules, mut restored) = (Rules::from(server.spec.as_ref()), server.record.restored());
        if rules.flow.is_some() {
            // The first are asked when all are there: else the first names would be.
            (rules.min_workers, restored.members) = (server.shares.clients(), BTreeSet::new());
        }
        let mut machine = Machine::new(rules, restored);
        machine.know_labels(server.shares.label_shares(server.spec.as_ref()));
        Self {
            server,
            machine,
            desk,
            watch,
            now: 0,
            timers: BTreeSet::new(),
            awaited: BTreeMap::new(),
            keys: BTreeMap::new(),
            orders: 0,
            due: VecDeque::new(),
            evaluating: Vec::new(),
            line: None,
            ended: None,
            pace,
        }
    }

    fn go(mut self, paused: Option<Paused>) -> Result<Outcome, SimulationError> {
        (self.watch)(Notice::Started { rounds: self.server.record.round });
        match paused {
            Some(paused) => self.go_on(paused),
            None => self.begin()?,
        }
        while self.ended.is_none() {
            let stop = self.server.stop.is_due();
            self.keep(stop)?;
            if stop && self.server.spec.asynchronous.is_some() {
                return Err(SimulationError::Stopped { rounds: self.machine.round() });
            }
            self.next()?;
        }
        match self.ended.take() {
            Some(End::Finished) => self.outcome(),
            Some(End::Failed(reason)) => Err(SimulationError::Failed(reason)),
            _ => Err(SimulationError::Failed("it was cancelled".into())),
        }
    }

    /// Everybody is there.
    fn begin(&mut self) -> Step {
        self.handle(Event::Start)?;
        for worker in self.server.store.quarantined()? {
            self.handle(Event::Quarantine { worker, on: true })?;
        }
        let mut clients = 0..self.server.shares.clients();
        clients.try_for_each(|client| self.handle(Event::Joined { worker: client_name(client) }))
    }

    /// What comes next; an arrival before a timer of the same instant.
    fn next(&mut self) -> Step {
        let arrival = self.awaited.first_key_value().map(|(key, _)| key.0);
        let timer = self.timers.first().map(|(at, _)| *at);
        if arrival.is_some_and(|arrival| timer.is_none_or(|timer| arrival <= timer)) {
            let Some((key, awaited)) = self.awaited.pop_first() else { return Ok(()) };
            self.now = key.0;
            let report = self.desk.take(key);
            return self.arrived(awaited, report);
        }
        let Some((at, token)) = self.timers.pop_first() else {
            let text = format!("nothing is left to wait for in round {}", self.machine.round());
            return Err(SimulationError::Failed(text));
        };
        self.now = self.now.max(at);
        if let Token::Motion { .. } = token {
            self.report_progress()?;
        }
        self.handle(Event::Timer(token))
    }

    /// Whoever trains has said how far it is.
    fn report_progress(&mut self) -> Step {
        let mark = |awaited: &Awaited| Event::Progress {
            worker: awaited.worker.clone(),
            round: awaited.round,
            mark: (Phase::Training.into(), (self.now - awaited.since) / STEP_MS),
        };
        let events: Vec<Event> = self.awaited.values().map(mark).collect();
        events.into_iter().try_for_each(|event| self.handle(event))
    }

    fn decide(&mut self, event: Event) -> Vec<Action> {
        if self.machine.needs_secret() {
            // For the next round that opens.
            let round = self.machine.round() + u64::from(self.machine.secret().is_some());
            self.machine.lend(self.server.secrets.round(round));
        }
        self.machine.handle(event, self.now)
    }

    fn handle(&mut self, event: Event) -> Step {
        let actions = self.decide(event);
        self.due.extend(actions);
        loop {
            while let Some(action) = self.due.pop_front() {
                self.perform(action)?;
            }
            if self.evaluating.is_empty() {
                return Ok(());
            }
            self.evaluate();
        }
    }

    fn perform(&mut self, action: Action) -> Step {
        match action {
            Action::Persist => {
                self.publish_line()?;
                // A run without rounds is kept, and stopped, between two things that happen (`pause.rs`).
                let stop = self.server.stop.is_due() && self.server.spec.asynchronous.is_none();
                self.server.checkpoint(stop)?;
                if stop {
                    return Err(SimulationError::Stopped { rounds: self.machine.round() });
                }
            }
            Action::Publish(event) => self.say(&event)?,
            Action::Arm { token, at } => drop(self.timers.insert((at, token))),
            Action::Assign { worker, round, committed, .. } => self.assign(worker, round, committed),
            Action::Abandon { worker, .. } => self.forget(&worker),
            Action::Evaluate { worker, round } => self.evaluating.push((worker, round)),
            Action::FederatedDone { sums, clients, .. } => self.federated(&sums, clients)?,
            Action::DropUploads => {
                self.server.accumulators.clear();
                self.server.spool = None;
                self.server.drop_sum();
                self.server.states().give_up();
            }
            Action::Commit { .. } => return self.commit(action),
            Action::Quarantine { worker } => self.server.quarantined.push(worker),
            Action::End(end) => {
                self.publish_line()?;
                self.ended = Some(end);
            }
            Action::Verdict { .. } | Action::Closed { .. } => {}
        }
        Ok(())
    }

    fn say(&mut self, event: &RunEvent) -> Step {
        if let RunEvent::RoundOpened { .. } = event {
            self.publish_line()?;
        }
        (self.watch)(Notice::Event(event));
        Ok(())
    }

    fn assign(&mut self, worker: String, round: u64, committed: Option<u64>) {
        self.forget(&worker);
        let Some(client) = client_index(&worker) else { return };
        let (down, recalled, bytes) = self.server.payload(committed);
        self.server.bytes.0 += bytes;
        let key = (self.now + self.server.duration(client, round), self.orders);
        self.orders += 1;
        let spec = &self.server.spec;
        let standing = self.server.record.privacy.as_ref().filter(|_| spec.has_central_noise());
        let clip_norm = standing.map(|standing| standing.norm);
        let lr = spec.lr(round);
        let base = spec.asynchronous.map(|_| Arc::clone(&down[MODEL]));
        self.desk.order(key, Order { client, name: worker.clone(), round, lr, clip_norm, down, recalled });
        self.keys.insert(worker.clone(), key);
        self.awaited.insert(key, Awaited { worker, round, since: self.now, base });
    }

    /// Nobody waits for this client's present work.
    fn forget(&mut self, worker: &str) {
        if let Some(key) = self.keys.remove(worker) {
            self.awaited.remove(&key);
            self.desk.cancel(key);
        }
    }

    fn arrived(&mut self, awaited: Awaited, report: Report) -> Step {
        let Awaited { worker, round, since, base } = awaited;
        self.keys.remove(&worker);
        match report {
            Report::Broken(error) => Err(error),
            Report::Declined(error) => match error.decline() {
                Some(reason) => {
                    self.handle(Event::Declined { worker, round, reason, detail: error.to_string() })
                }
                None => Ok(()),
            },
            Report::Done(update) => self.deliver(worker, (round, since), (*update, base)),
        }
    }

    fn commit(&mut self, action: Action) -> Step {
        let flow = self.server.spec.asynchronous.zip(self.machine.ongoing());
        let opened = if let Action::Commit { opened_at, .. } = &action { *opened_at } else { self.now };
        let mut told = None;
        if let Some((rules, Ongoing { tasks, buffer })) = &flow {
            self.server.ready = Some(self.server.of_buffer(rules, buffer));
            told = Some(asynchrony(buffer, tasks.len(), self.now.saturating_sub(opened) as f64 / 1_000.0));
        }
        self.line = self.server.commit(action, self.now, self.machine.secret())?;
        let Some(line) = &mut self.line else { return Ok(()) };
        line.metrics.asynchronous = told;
        let (round, digest) = (line.metrics.round, line.metrics.model_digest);
        if flow.is_some() {
            let machine = &self.machine;
            self.timers.retain(|(_, token)| !token.is_over(round) && !machine.is_void(token));
        } else {
            // What was armed for the round is out of date, and what arrives later than its end does not count.
            self.timers.clear();
            self.keys.clear();
            for key in std::mem::take(&mut self.awaited).into_keys() {
                self.desk.cancel(key);
            }
        }
        let actions = self.decide(Event::Committed { round, digest });
        self.due.extend(actions);
        Ok(())
    }

    /// The clients evaluate the committed model, as workers do.
    fn evaluate(&mut self) {
        let asked = std::mem::take(&mut self.evaluating);
        let reports = self.server.judge_clients(&asked);
        for ((worker, round), report) in asked.into_iter().zip(reports) {
            let actions = self.decide(Event::Evaluated { worker, round, report });
            self.due.extend(actions);
        }
    }

    fn federated(&mut self, sums: &Federated, clients: Option<Box<ClientScores>>) -> Step {
        if let Some(line) = self.line.as_mut().filter(|_| sums.predictions > 0) {
            line.metrics.clients = clients;
            line.metrics.federated_loss = Some(sums.loss_sum / sums.predictions as f64);
            line.metrics.federated_accuracy = Some(sums.correct as f64 / sums.predictions as f64);
        }
        self.publish_line()
    }

    fn publish_line(&mut self) -> Step {
        let Some(line) = self.line.take() else { return Ok(()) };
        (self.watch)(Notice::Round(&line));
        self.server.metrics.append(line)
    }

    fn outcome(self) -> Result<Outcome, SimulationError> {
        Ok(Outcome {
            parameters: self.server.vectors[MODEL].len(),
            digest: self.server.record.vectors[MODEL],
            model: self.server.safetensors(MODEL, None)?,
            averages: self.server.averages()?,
            evaluation: self.server.evaluation()?,
            lines: self.server.metrics.lines,
        })
    }
}
