//! Closing a round durably: means, server rule, vectors to disk, record to the store. Runs on a
//! blocking thread; a store that fails is tried again until it is mended, with nothing lost.

use super::{Shared, aggregate::BLOCK, combine::keep_centres, flow::Batch, private::Noise};
use crate::{
    health::{Health, Part},
    spool::Spool,
    store::{Payment, Release, RunRecord, Store, StoreError, StoredEvent},
};
use algorithms::{
    Algorithm, RoundFacts, Vector, Vectors,
    average::Average,
    fold::{Accumulator, drain_into},
};
use proto::{digest::Digest, event::Metrics};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a commit needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<Store>,
    pub(crate) health: Health,
    pub(crate) stop: CancellationToken,
    pub(crate) algorithm: Arc<dyn Algorithm>,
    pub(crate) accumulators: Vec<Accumulator>,
    /// Instead of them, where the combiner needs all updates.
    pub(crate) spool: Option<Spool>,
    /// Instead of both, in a run without rounds.
    pub(crate) batch: Option<Batch>,
    pub(crate) facts: RoundFacts,
    /// In a run that promises privacy and adds the noise here: instead of the accumulators.
    pub(crate) noise: Option<Noise>,
    /// In a run that promises privacy: what the release costs.
    pub(crate) payment: Option<Payment>,
    /// The record after the round, but for the new digests.
    pub(crate) record: RunRecord,
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) metrics: Metrics,
}

/// A committed round.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) record: RunRecord,
    pub(crate) metrics: Metrics,
    pub(crate) model: Vector,
    /// Its averages that there are so far.
    pub(crate) averages: Vec<(Average, Vector)>,
    /// Empty, for the next round.
    pub(crate) accumulators: Vec<Accumulator>,
    /// Why the privacy budget has no room for another round.
    pub(crate) last: Option<String>,
}

/// A round that was not released. Nothing was written of it.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Whether the privacy budget has no room for it; its noise cannot be made otherwise.
    pub(crate) spent: bool,
    /// What exactly.
    pub(crate) reason: String,
    /// The log's lines that were to be written with it.
    pub(crate) events: Vec<StoredEvent>,
}

impl Job {
    /// Computes and writes; `None` when the coordinator stops before the disk could take it (the
    /// round is then done again from the last commit).
    pub(crate) fn run(mut self) -> Option<Result<Done, Refused>> {
        let mean = match (self.noise.take(), self.batch.take()) {
            (Some(noise), _) => match noise.means(&mut self.record) {
                Ok((mean, told)) => {
                    if let Some(told) = told {
                        self.metrics.participants = told.participants as usize;
                        self.metrics.train_loss = told.train_loss;
                    }
                    mean
                }
                Err(reason) => return Some(Err(self.refused(false, reason))),
            },
            (None, Some(batch)) => match self.of_buffer(&batch)? {
                Ok(mean) => mean,
                Err(reason) => return Some(Err(self.refused(false, reason))),
            },
            (None, None) => match self.shared.spec.spooled() {
                Some(combiner) => match self.combined(combiner)? {
                    Ok(mean) => mean,
                    Err(reason) => return Some(Err(self.refused(false, reason))),
                },
                None => self.means()?,
            },
        };
        let mut server = self.retry(Self::load)?;
        self.algorithm.apply(&mut server, &mean, &self.facts);
        keep_centres(self.shared.spec.combiner, &mut server, &mean);
        self.shared.reuse(mean.into_values());
        if let Some(averages) = self.shared.spec.average {
            averages.take(&mut server, self.metrics.round);
        }
        let digests = self.retry(|job| job.put(&server))?;
        self.record.name(&server, digests);
        self.record.recall(self.metrics.round, self.algorithm.as_ref());
        let model = server.remove(algorithms::MODEL).expect("a run has a model");
        let averages =
            Average::ALL.iter().filter_map(|which| Some((*which, server.remove(&which.vector())?)));
        let averages = averages.collect();
        self.metrics.model_digest = self.record.vectors[algorithms::MODEL];
        let last = match self.retry(Self::save)? {
            (Release::Refused(reason), _) => return Some(Err(self.refused(true, reason))),
            (Release::Done { last, .. }, metrics) => {
                self.metrics = metrics;
                last
            }
        };
        self.shared.reuse(server.into_values());
        let Self { record, metrics, accumulators, .. } = self;
        Some(Ok(Done { record, metrics, model, averages, accumulators, last }))
    }

    fn refused(self, spent: bool, reason: String) -> Refused {
        Refused { spent, reason, events: self.events }
    }

    /// The record, and in a private run its payment, in one transaction.
    fn save(&self) -> Result<(Release, Metrics), StoreError> {
        let mut metrics = self.metrics.clone();
        let release = if let Some(payment) = &self.payment {
            self.store.release(&self.record, &self.events, Some(&mut metrics), payment)?
        } else {
            self.store.save(&self.record, &self.events, Some(&metrics))?;
            Release::Done { epsilon: 0.0, last: None }
        };
        Ok((release, metrics))
    }

    pub(super) fn means(&mut self) -> Option<Vectors> {
        let mut means = Vectors::new();
        for accumulator in &mut self.accumulators {
            let name = accumulator.fold().into.to_owned();
            let (sum, unit) = accumulator.drain()?;
            let mut mean = self.shared.buffers.take(sum.len());
            mean.par_chunks_mut(BLOCK)
                .zip(sum.par_chunks_mut(BLOCK))
                .for_each(|(mean, sum)| drain_into(mean, sum, unit));
            means.insert(name, Arc::new(mean));
        }
        Some(means)
    }

    /// Writes the server's vectors. Two that are equal are one file, which the record names once.
    fn put(&self, server: &Vectors) -> Result<BTreeMap<String, Digest>, StoreError> {
        let (blobs, mut digests) = (self.store.blobs(), BTreeMap::new());
        for (name, vector) in server {
            let digest = blobs.put(vector)?;
            if digests.values().any(|known| *known == digest) {
                blobs.named(&BTreeSet::from([digest]));
            }
            digests.insert(name.clone(), digest);
        }
        Ok(digests)
    }

    /// Reads the server's vectors.
    fn load(&self) -> Result<Vectors, StoreError> {
        let read = |digest: &Digest| {
            let buffer = || self.shared.buffers.take(self.record.length as usize);
            self.store.blobs().get(*digest, buffer)
        };
        self.record.vectors.iter().map(|(name, digest)| Ok((name.clone(), read(digest)?))).collect()
    }

    pub(super) fn retry<T>(&self, mut step: impl FnMut(&Self) -> Result<T, StoreError>) -> Option<T> {
        let mut pause = RETRY_FIRST;
        loop {
            match step(self) {
                Ok(value) => {
                    self.health.works(Part::Store);
                    return Some(value);
                }
                Err(error) => {
                    tracing::error!(run = self.record.id, %error, "the store failed; trying again in {pause:?}");
                    self.health.failed(Part::Store, &error.to_string());
                }
            }
            std::thread::sleep(pause);
            if self.stop.is_cancelled() {
                return None;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}
