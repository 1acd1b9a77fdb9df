//! What the virtual coordinator writes, and what of it survives: the record of the run, the vectors,
//! the event log. As in `coordinator::run::{journal, commit}`: a store that fails is tried again, and
//! a commit is two writes, the vectors and then the record, between which the process may die.

use super::{Federation, Happening, serving::Input};
use crate::{Committed, Millis, Mutation, invariants};
use algorithms::{MODEL, RoundFacts, Vectors, fold::Accumulator};
use coordinator::{
    machine::{Counted, End, Event, Ongoing, Opening, Restored},
    private::Standing,
};
use proto::{digest::Digest, event::RunEvent};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the coordinator's disk has of the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) round: u64,
    pub(super) opening: Option<Opening>,
    pub(super) members: BTreeSet<String>,
    pub(super) population_before: usize,
    pub(super) committed: BTreeMap<String, u64>,
    pub(super) paused: bool,
    pub(super) vectors: BTreeMap<String, Digest>,
    /// By round, as far as the algorithm recalls them.
    pub(super) recalled: BTreeMap<u64, BTreeMap<String, Digest>>,
    pub(super) ended: Option<End>,
    /// What changes from round to round of a private run.
    pub(super) standing: Option<Standing>,
    /// Tasks and buffer of a run without rounds, and the older models that they refer to.
    pub(super) ongoing: Ongoing,
    pub(super) versions: BTreeMap<u64, Digest>,
    /// Rounds that counted each worker.
    pub(super) participations: BTreeMap<String, u64>,
    /// The privacy ledger of the data set.
    pub(super) ledger: Option<privacy::Journal>,
}

impl Disk {
    /// As `RunRecord::restored`.
    pub(super) fn restored(&self) -> Restored {
        Restored {
            round: self.round,
            opening: self.opening.clone().filter(|opening| opening.round == self.round),
            members: self.members.clone(),
            population_before: self.population_before,
            committed: self.committed.clone(),
            participations: self.participations.clone(),
            paused: self.paused,
            ongoing: self.ongoing.clone(),
            ..Restored::default()
        }
    }
}

/// The event log: lines that a crash keeps, lines that it may take, lines that are in memory only.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) stored: Vec<(u64, RunEvent)>,
    durable: usize,
    buffer: Vec<(u64, RunEvent)>,
    next: u64,
}

impl Journal {
    fn push(&mut self, event: RunEvent) {
        self.buffer.push((self.next, event));
        self.next += 1;
    }

    fn append(&mut self) {
        self.stored.append(&mut self.buffer);
    }

    fn sync(&mut self) {
        self.durable = self.stored.len();
    }

    pub(super) fn crash(&mut self) {
        self.stored.truncate(self.durable);
        self.buffer.clear();
        self.next = self.stored.last().map_or(0, |(sequence, _)| sequence + 1);
    }
}

/// A commit on its way to the disk.
#[derive(Debug)]
pub(super) struct Commit {
    disk: Disk,
    mean: Vectors,
    facts: RoundFacts,
    participants: Vec<String>,
    /// The vectors after the round, once they are written.
    written: Option<Vectors>,
    pause: Millis,
}

impl Federation {
    pub(super) fn store_fails(&self) -> bool {
        self.now < self.server.store_fails_until
    }

    pub(super) fn publish(&mut self, event: RunEvent) {
        self.note(&format!("run: {event:?}"));
        self.check_event(&event);
        self.server.journal.push(event);
    }

    /// Writes events without a sync. Not while a commit holds earlier ones: the log would get a gap.
    pub(super) fn flush(&mut self) {
        if !self.server.is_up() || self.server.committing {
            return;
        }
        if !self.store_fails() {
            self.server.journal.append();
        } else if self.schedule.mutation == Mutation::LoseEvents {
            self.server.journal.buffer.clear();
        }
        self.check_log();
    }

    /// After a restart: says what the one who died did not say any more.
    pub(super) fn catch_up(&mut self) {
        let Some(last) = self.report.rounds.last() else { return };
        let (round, participants) = (last.round, last.participants.len());
        let model_digest = last.digests[MODEL];
        let said = |(_, event): &(u64, RunEvent)| matches!(event, RunEvent::RoundCommitted { round: said, .. } if *said == round);
        if !self.server.journal.stored.iter().any(said) {
            self.publish(RunEvent::RoundCommitted { round, participants, model_digest });
        }
    }

    pub(super) fn persist(&mut self) {
        if !self.server.is_up() {
            return;
        }
        let mut record = std::mem::take(&mut self.server.record);
        self.follow(&mut record, false);
        self.server.record = record;
        let Some(machine) = &self.server.machine else { return };
        let record = &mut self.server.record;
        record.members.clone_from(machine.members());
        record.paused = machine.is_paused();
        record.opening = machine.opening();
        if self.schedule.mutation == Mutation::AssignBeforeDisk {
            // Later, when everybody has been asked.
            return;
        }
        self.server.disk = record.clone();
        self.server.journal.append();
        self.server.journal.sync();
    }

    pub(super) fn commit(
        &mut self,
        round: u64,
        counted: &[Counted],
        (population, population_before): (usize, usize),
    ) {
        self.flush();
        let Some(machine) = &self.server.machine else { return };
        let mut disk = self.server.record.clone();
        self.follow(&mut disk, true);
        disk.round = round + 1;
        disk.opening = None;
        disk.members.clone_from(machine.members());
        disk.population_before = population;
        if self.flow().is_none() {
            disk.committed.extend(counted.iter().map(|counted| (counted.worker.clone(), round)));
            for counted in counted {
                *disk.participations.entry(counted.worker.clone()).or_default() += 1;
            }
        }
        let newcomers = self.schedule.mutation != Mutation::ForgetNewcomers;
        let population = if newcomers { population } else { population_before };
        let mut participants: Vec<String> = counted.iter().map(|counted| counted.worker.clone()).collect();
        let mean = if let Some(rules) = self.flow() {
            let (mean, of) = self.mean_of_buffer(&rules, round);
            participants = of;
            mean
        } else if let Some(mean) = self.released_mean(&mut disk, round, &participants) {
            mean
        } else {
            let folded: Vec<usize> = self.server.accumulators.iter().map(Accumulator::count).collect();
            self.report.require("once", self.now, invariants::once(&participants, &folded));
            let mean = self.mean();
            self.check_aggregate(&mean, &participants);
            mean
        };
        self.forget_uploads();
        self.server.committing = true;
        if self.schedule.mutation == Mutation::ConfirmBeforeDisk {
            self.confirm_early(&participants, round);
        }
        let facts = RoundFacts { included: counted.len(), population, population_before };
        let commit = Commit { disk, mean, facts, participants, written: None, pause: 500 };
        let wait = self.dice.between(5, 400);
        self.later_written(Box::new(commit), wait);
    }

    fn later_written(&mut self, commit: Box<Commit>, wait: Millis) {
        let life = self.server.life;
        self.queue.push(self.now + wait, Happening::Written { life, commit });
    }

    fn mean(&mut self) -> Vectors {
        if self.schedule.mutation == Mutation::ArrivalOrder {
            return self.mean_by_arrival();
        }
        let mut mean = Vectors::new();
        for accumulator in std::mem::take(&mut self.server.accumulators) {
            let name = accumulator.fold().into.to_owned();
            mean.extend(accumulator.mean().map(|vector| (name, Arc::new(vector))));
        }
        mean
    }

    /// A write of a commit: the vectors, or then the record.
    pub(super) fn written(&mut self, mut commit: Box<Commit>) {
        if self.store_fails() {
            let wait = commit.pause;
            commit.pause = (wait * 2).min(10_000);
            return self.later_written(commit, wait);
        }
        let Some(server) = commit.written.take() else {
            let mut server = self.server.vectors();
            self.algorithm.apply(&mut server, &commit.mean, &commit.facts);
            for (name, vector) in &server {
                let digest = Digest::of_vector(vector);
                commit.disk.vectors.insert(name.clone(), digest);
                self.server.blobs.insert(digest, Arc::clone(vector));
            }
            commit.written = Some(server);
            let wait = self.dice.between(1, 50);
            return self.later_written(commit, wait);
        };
        let Commit { mut disk, participants, .. } = *commit;
        let round = disk.round - 1;
        let recalled = |(name, _): &(&str, &str)| Some(((*name).to_owned(), *disk.vectors.get(*name)?));
        let recalled = self.algorithm.recalled().iter().filter_map(recalled).collect();
        disk.recalled.insert(round, recalled);
        if self.schedule.mutation != Mutation::ReleaseBeforeLedger {
            self.pay_for(&mut disk, round);
        }
        self.count(round);
        self.report.require("monotone", self.now, invariants::monotone(&self.report.rounds, round));
        let (digests, model) = (disk.vectors.clone(), Arc::clone(&server[MODEL]));
        self.note(&format!("disk: round {round} with {participants:?}, model {}", digests[MODEL]));
        self.report.rounds.push(Committed { round, at: self.now, participants, digests, model });
        self.server.disk = disk.clone();
        self.server.journal.append();
        self.server.journal.sync();
        self.check_paid(round);
        self.check_balance();
        let (life, at) = (self.server.life, self.now + self.dice.between(0, 200));
        self.queue.push(at, Happening::Committed { life, disk: Box::new(disk) });
    }

    /// The run's task hears of it.
    pub(super) fn committed(&mut self, mut disk: Disk) {
        let (round, digest) = (disk.round - 1, disk.vectors[MODEL]);
        self.server.committing = false;
        self.pay_for(&mut disk, round);
        self.server.disk.ledger.clone_from(&disk.ledger);
        // An operator may have paused the run meanwhile.
        disk.paused = self.server.record.paused;
        if self.schedule.mutation != Mutation::StaleRecord {
            self.server.record = disk;
        }
        let actions = self.decide(Event::Committed { round, digest });
        if self.flow().is_some() {
            self.collect();
        }
        self.act(actions);
        for call in std::mem::take(&mut self.server.held) {
            self.input(Input::Payload(Box::new(call)));
        }
    }
}
