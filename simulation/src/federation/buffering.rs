//! The virtual coordinator's part in runs without rounds, as `coordinator::run::flow` has it: an update is
//! durable before the machine hears of it, and a version is made of what the disk names.

use super::{Federation, receiving::Call, storing::Disk};
use crate::{Mutation, invariants};
use algorithms::{
    MODEL, Vector, Vectors,
    fold::{accumulators, fold_into},
    staleness::mix,
};
use coordinator::machine::{Action, Buffered, Event, Facts, Kept, Ongoing};
use proto::{digest::Digest, spec::AsyncSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is seen of a run without rounds over all lives of the coordinator.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Updates of committed versions.
    pub(super) counted: invariants::Counted,
    /// Updates whose workers were told that they count.
    told: invariants::Counted,
}

impl Disk {
    /// As `RunRecord::keep_versions`.
    pub(super) fn keep_versions(&mut self) {
        let buffered = self.ongoing.buffer.iter().map(|one| one.version);
        let used: BTreeSet<u64> = self.ongoing.tasks.values().copied().chain(buffered).collect();
        self.versions.insert(self.round, self.vectors[MODEL]);
        self.versions.retain(|version, _| used.contains(version));
    }

    /// As `RunRecord::digests`.
    fn digests(&self) -> BTreeSet<Digest> {
        let updates = self.ongoing.buffer.iter().map(|one| one.kept.digest);
        let recalled = self.recalled.values().flat_map(BTreeMap::values).copied();
        self.vectors
            .values()
            .copied()
            .chain(self.versions.values().copied())
            .chain(updates)
            .chain(recalled)
            .collect()
    }
}

impl Federation {
    pub(super) fn flow(&self) -> Option<AsyncSpec> {
        self.spec.asynchronous
    }

    /// Takes over what a machine without rounds must find again.
    pub(super) fn follow(&self, disk: &mut Disk, committed: bool) {
        let Some(machine) = self.server.machine.as_ref() else { return };
        let Some(ongoing) = machine.ongoing() else { return };
        disk.ongoing = ongoing.clone();
        disk.committed.clone_from(machine.committed());
        if committed && self.schedule.mutation != Mutation::BufferTwice {
            disk.ongoing.buffer.clear();
        }
        if self.schedule.mutation == Mutation::LoseBuffer {
            disk.ongoing.buffer.clear();
        }
        disk.keep_versions();
        if self.schedule.mutation == Mutation::DropVersions {
            disk.versions.clear();
        }
    }

    /// A vetted update that is wanted: its values go to the disk, then the machine hears of it.
    pub(super) fn store(&mut self, call: &Call, facts: Facts) -> Event {
        let values = Arc::new(call.upload.values.clone());
        let digest = Digest::of_vector(&values);
        self.server.blobs.insert(digest, values);
        self.server.kept[0].insert(digest);
        let header = &call.upload.header;
        let kept = Kept { digest, steps: header.steps, lr: header.lr };
        let worker = self.nodes[call.worker].name.clone();
        Event::Stored { worker, round: header.round, facts, kept }
    }

    /// The mean of the buffer, and whose updates are in it.
    pub(super) fn mean_of_buffer(&mut self, rules: &AsyncSpec, round: u64) -> (Vectors, Vec<String>) {
        let ongoing = self.server.machine.as_ref().and_then(|machine| machine.ongoing().cloned());
        let mut buffer = ongoing.map(|ongoing| ongoing.buffer).unwrap_or_default();
        let before = (&self.seen.counted, rules.max_staleness());
        let checked = invariants::counted(round, &buffer, before);
        self.report.require("counted", self.now, checked);
        if self.schedule.mutation == Mutation::FreshWeight {
            for one in &mut buffer {
                one.staleness = 0;
            }
        }
        let participants = buffer.iter().map(|one| one.worker.clone()).collect();
        let mean = match rules {
            AsyncSpec::FedBuff { .. } => self.folded(rules, &buffer),
            AsyncSpec::FedAsync { .. } => self.mixed(rules, &buffer[0]),
        };
        let checked = self.by_definition(rules, &buffer, (round, &mean));
        self.report.require("aggregate", self.now, checked);
        (mean, participants)
    }

    fn update(&self, digest: Digest) -> Vector {
        self.server.fetch(&digest).expect("an update of the buffer is on the disk")
    }

    fn base(&self, one: &Buffered) -> Vector {
        let record = &self.server.record;
        let present = (one.version == record.round).then_some(&record.vectors[MODEL]);
        let digest = record.versions.get(&one.version).or(present);
        self.update(*digest.expect("the model of a buffered update is kept"))
    }

    fn folded(&self, rules: &AsyncSpec, buffer: &[Buffered]) -> Vectors {
        let mut mean = Vectors::new();
        for mut accumulator in accumulators(self.algorithm.as_ref(), self.schedule.dimension) {
            for one in buffer {
                let weight = rules.weight(one.staleness);
                let (sum, scale) = accumulator.parts(&one.fold_facts());
                fold_into(sum, &self.update(one.kept.digest), scale * weight);
            }
            let name = accumulator.fold().into.to_owned();
            mean.extend(accumulator.mean().map(|vector| (name, Arc::new(vector))));
        }
        mean
    }

    fn mixed(&self, rules: &AsyncSpec, one: &Buffered) -> Vectors {
        let mut change = self.update(one.kept.digest).to_vec();
        let w = self.update(self.server.record.vectors[MODEL]);
        mix(&mut change, &self.base(one), &w, rules.weight(one.staleness) as f32);
        let into = self.algorithm.folds()[0].into.to_owned();
        Vectors::from([(into, Arc::new(change))])
    }

    /// The mean against the papers' formulas in `f64`, from the versions between update and commit.
    fn by_definition(
        &self,
        rules: &AsyncSpec,
        buffer: &[Buffered],
        (round, mean): (u64, &Vectors),
    ) -> Result<(), String> {
        let mean = mean.values().next().ok_or("no mean")?;
        let w = self.history(round);
        let examples: u64 = buffer.iter().map(|one| one.facts.examples).sum();
        for (k, mean) in mean.iter().enumerate() {
            let own = |one: &Buffered| f64::from(self.update(one.kept.digest)[k]);
            let weight = |one: &Buffered| rules.weight(round - one.version);
            let exact: f64 = match rules {
                AsyncSpec::FedBuff { .. } => {
                    let sum: f64 =
                        buffer.iter().map(|one| one.facts.examples as f64 * weight(one) * own(one)).sum();
                    sum / examples as f64
                }
                AsyncSpec::FedAsync { .. } => {
                    let (one, w) = (&buffer[0], f64::from(w[k]));
                    weight(one) * (f64::from(self.history(one.version)[k]) + own(one) - w)
                }
            };
            if (f64::from(*mean) - exact).abs() > 1e-5 * (1.0 + exact.abs()) {
                return Err(format!("element {k} of version {round} moves by {mean}, expected {exact}"));
            }
        }
        Ok(())
    }

    /// A version's model, from what was seen of its commit.
    fn history(&self, version: u64) -> Vector {
        let before = version.checked_sub(1).and_then(|round| self.report.rounds.get(round as usize));
        before.map_or_else(|| Arc::new(vec![0.0; self.schedule.dimension]), |round| Arc::clone(&round.model))
    }

    /// The disk has version `round`.
    pub(super) fn count(&mut self, round: u64) {
        let Some(machine) = self.server.machine.as_ref().filter(|machine| machine.round() == round) else {
            return;
        };
        if let Some(Ongoing { buffer, .. }) = machine.ongoing() {
            self.seen.counted.extend(buffer.iter().map(|one| (one.worker.clone(), one.version)));
        }
    }

    /// Removes vectors that nobody needs, as `Fleet::collect_vectors`.
    pub(super) fn collect(&mut self) {
        let current = self.server.record.digests();
        self.server.kept.swap(0, 1);
        self.server.kept[0] = current;
        let kept = &self.server.kept;
        self.server.blobs.retain(|digest, _| kept.iter().any(|kept| kept.contains(digest)));
    }

    /// After a restart only the disk's vectors are kept.
    pub(super) fn keep_at_start(&mut self) {
        self.server.kept = [self.server.disk.digests(), BTreeSet::new()];
    }

    /// Whoever is told something about its update.
    pub(super) fn check_told(&mut self, actions: &Action) {
        let Action::Closed { worker, round, included: true } = actions else { return };
        if self.flow().is_some() {
            let checked = invariants::told(worker, *round, (&self.seen.counted, &self.server.disk.ongoing));
            self.report.require("told", self.now, checked);
            self.seen.told.insert((worker.clone(), *round));
        }
    }

    /// Between two inputs, of a run without rounds.
    pub(super) fn check_tasks(&mut self) {
        let Some((machine, ongoing)) =
            self.server.machine.as_ref().and_then(|machine| Some((machine, machine.ongoing()?)))
        else {
            return;
        };
        let state = (machine.phase(), machine.round());
        let outside = (&self.server.timers, self.server.observed.waiting);
        let checked = invariants::tasks(state, ongoing, outside);
        self.report.require("armed", self.now, checked);
        let disk = &self.server.disk;
        let checked = invariants::versions(&disk.versions, &disk.ongoing, |digest| {
            self.server.blobs.contains_key(&digest)
        });
        self.report.require("versions", self.now, checked);
    }

    /// A task is given: the disk must know of it and have its model.
    pub(super) fn is_task_known(&self, worker: &str, version: u64) -> bool {
        let disk = &self.server.disk;
        let model = disk.versions.get(&version);
        disk.ongoing.tasks.get(worker) == Some(&version)
            && model.is_some_and(|digest| self.server.blobs.contains_key(digest))
    }

    /// Nothing that was told to count is missing.
    pub(super) fn check_nothing_lost(&mut self, last: &[Buffered]) {
        let checked = invariants::nothing_lost(&self.seen.told, &self.seen.counted, last);
        self.report.require("told", self.now, checked);
    }
}
