//! The actor's and the commit's part in runs without rounds: an update is a file before the machine hears
//! of it, and a version is a function of the record, which names them all.

use super::{
    Delivery, Shared,
    actor::{Actor, decision_in},
    aggregate::fold_by,
    commit::Job,
};
use crate::{
    health::Part,
    machine::{Buffered, Decision, Event, Kept, Ongoing},
    store::RunRecord,
};
use algorithms::{
    MODEL, Vectors,
    fold::{UploadFacts, accumulators_of},
    staleness::mix,
};
use proto::{
    digest::Digest,
    event::Asynchrony,
    spec::{AsyncSpec, RunSpec},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::oneshot;

const RETRY: Duration = Duration::from_secs(1);

/// What a commit makes a version of.
#[derive(Debug)]
pub(crate) struct Batch {
    rules: AsyncSpec,
    updates: Vec<Buffered>,
    /// The models that they were trained on.
    bases: BTreeMap<u64, Digest>,
}

impl Buffered {
    /// The scalars that a fold needs.
    pub fn fold_facts(&self) -> UploadFacts {
        UploadFacts { examples: self.facts.examples, steps: self.kept.steps, lr: self.kept.lr }
    }
}

/// What a line of the metrics says of a version's updates; `training`: how many were at work when it was
/// committed, `seconds`: how long it was open.
pub fn asynchrony(updates: &[Buffered], training: usize, seconds: f64) -> Asynchrony {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for update in updates {
        *counts.entry(update.staleness).or_default() += 1;
    }
    let sum: u64 = updates.iter().map(|update| update.staleness).sum();
    Asynchrony {
        mean_staleness: sum as f64 / updates.len().max(1) as f64,
        max_staleness: counts.keys().copied().max().unwrap_or(0),
        staleness: counts.into_iter().collect(),
        training,
        updates_per_s: if seconds > 0.0 { updates.len() as f64 / seconds } else { 0.0 },
    }
}

impl Actor {
    /// Makes an update of a run without rounds durable, and tells the machine.
    pub(super) async fn deliver_to_buffer(&mut self, upload: Delivery, reply: oneshot::Sender<Decision>) {
        if self.machine.holds_back() {
            return self.held.push((Box::new(upload), reply));
        }
        let Delivery { worker, round, facts, fold_facts, values } = upload;
        let digest = if self.machine.offer(&worker, round) == Decision::Accept {
            match self.put_update(values).await {
                Ok(Some(digest)) => digest,
                // The coordinator stops, and the worker offers the update to the next one.
                Ok(None) => return,
                Err(reason) => return self.handle(Event::Failed { reason }).await,
            }
        } else {
            self.shared.buffers.give(values);
            Digest([0; 32])
        };
        let kept = Kept { digest, steps: fold_facts.steps, lr: fold_facts.lr };
        let actions = self.decide(Event::Stored { worker, round, facts, kept });
        let decision = decision_in(&actions);
        self.act(actions).await;
        // Said when it is durable.
        let _ = reply.send(decision);
    }

    /// Updates that came during a commit.
    pub(super) async fn deliver_held(&mut self) {
        for (upload, reply) in std::mem::take(&mut self.held) {
            self.deliver_to_buffer(*upload, reply).await;
        }
    }

    /// A disk that fails is tried again until it is mended; `None` when the coordinator stops before.
    async fn put_update(&mut self, values: Vec<f32>) -> Result<Option<Digest>, String> {
        let (store, shared) = (Arc::clone(&self.parts.store), Arc::clone(&self.shared));
        let (health, stop) = (self.parts.health.clone(), self.parts.stop.clone());
        let put = tokio::task::spawn_blocking(move || {
            let values = Arc::new(values);
            loop {
                match store.blobs().put(&values) {
                    Ok(digest) => {
                        health.works(Part::Store);
                        shared.reuse([values]);
                        return Some(digest);
                    }
                    Err(error) => {
                        tracing::error!(%error, "an update cannot be kept; trying again in {RETRY:?}");
                        health.failed(Part::Store, &error.to_string());
                    }
                }
                std::thread::sleep(RETRY);
                if stop.is_cancelled() {
                    return None;
                }
            }
        });
        let digest = put.await.map_err(|error| format!("keeping an update failed: {error}"))?;
        if let Some(digest) = digest {
            self.parts.fleet.keep_also(&self.shared.id, digest);
        }
        Ok(digest)
    }

    /// What is to be committed.
    pub(super) fn batch(&self) -> Option<Batch> {
        let (rules, ongoing) = (self.shared.spec.asynchronous?, self.machine.ongoing()?);
        let updates = ongoing.buffer.clone();
        let base = |one: &Buffered| Some((one.version, self.record.model_of(one.version)?));
        Some(Batch { rules, bases: updates.iter().filter_map(base).collect(), updates })
    }

    /// The line's part about the version that is being committed.
    pub(super) fn asynchrony(&self, seconds: f64) -> Option<Asynchrony> {
        let Ongoing { tasks, buffer } = self.machine.ongoing()?;
        Some(asynchrony(buffer, tasks.len(), seconds))
    }
}

impl RunRecord {
    /// Takes over what a machine without rounds must find again. `committed`: its buffer is a version now.
    pub(super) fn follow(&mut self, ongoing: &Ongoing, committed: bool) {
        let mut ongoing = ongoing.clone();
        if committed {
            ongoing.buffer.clear();
        }
        self.ongoing = Some(ongoing);
        self.keep_versions();
    }
}

impl Job {
    /// The mean of a buffer; `None` when the coordinator stops.
    pub(super) fn of_buffer(&mut self, batch: &Batch) -> Option<Result<Vectors, String>> {
        match batch.rules {
            AsyncSpec::FedBuff { .. } => self.folded(batch).map(Ok),
            AsyncSpec::FedAsync { .. } => self.mixed(batch),
        }
    }

    fn folded(&mut self, batch: &Batch) -> Option<Vectors> {
        let shared = Arc::clone(&self.shared);
        let mut accumulators = std::mem::take(&mut self.accumulators);
        if accumulators.is_empty() {
            accumulators = accumulators_of(shared.folds.clone(), &shared.upload);
        }
        for update in &batch.updates {
            let values = self.update(update.kept.digest)?;
            let how = (shared.spec.combiner, batch.rules.weight(update.staleness));
            fold_by(how, &mut accumulators, &shared.upload, (&values, &update.fold_facts()));
            shared.reuse([values]);
        }
        self.accumulators = accumulators;
        self.means()
    }

    fn mixed(&mut self, batch: &Batch) -> Option<Result<Vectors, String>> {
        let Some(update) = batch.updates.first() else { return Some(Ok(Vectors::new())) };
        let missing = || format!("the model of version {} is missing", update.version);
        let Some(base) = batch.bases.get(&update.version) else { return Some(Err(missing())) };
        let (base, w) = (self.update(*base)?, self.update(self.record.vectors[MODEL])?);
        let mut change = Arc::unwrap_or_clone(self.update(update.kept.digest)?);
        mix(&mut change, &base, &w, batch.rules.weight(update.staleness) as f32);
        self.shared.reuse([base, w]);
        let into =
            |spec: &RunSpec| spec.folds(self.algorithm.as_ref()).first().map(|fold| fold.into.to_owned());
        let named = into(&self.shared.spec).map(|name| (name, Arc::new(change)));
        Some(Ok(named.into_iter().collect()))
    }

    fn update(&self, digest: Digest) -> Option<algorithms::Vector> {
        let length = self.record.length as usize;
        self.retry(|job| job.store.blobs().get(digest, || job.shared.buffers.take(length)))
    }
}

impl Shared {
    /// Whether the run has no rounds.
    pub(super) fn is_asynchronous(&self) -> bool {
        self.spec.asynchronous.is_some()
    }
}
