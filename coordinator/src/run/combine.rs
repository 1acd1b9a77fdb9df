//! How the updates of a round are taken in: folded as they come, or kept until the commit where the combiner
//! must see all of them at once.

use super::{
    actor::Actor,
    aggregate::{Refusal, fold_by},
    commit::Job,
};
use crate::{
    health::Part,
    spool::{Spool, SpoolError},
    store::StoreError,
};
use algorithms::{
    Vectors,
    combine::Combiner,
    fold::{UploadFacts, accumulators_of},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Under the data directory.
const FOLDER: &str = "spool";
/// What a centre's name begins with, among the run's vectors.
const CENTRE: &str = "combined.";
const RETRY: Duration = Duration::from_secs(1);

/// The name under which the last aggregate of a fold is kept, for combiners that start from it.
pub fn centre_name(fold: &str) -> String {
    [CENTRE, fold].concat()
}

/// Keeps the aggregates of a round among the server's vectors, if the combiner starts from them.
pub fn keep_centres(combiner: Option<Combiner>, server: &mut Vectors, means: &Vectors) {
    if let Some(Combiner::CentredClipping { .. }) = combiner {
        server.extend(means.iter().map(|(name, mean)| (centre_name(name), Arc::clone(mean))));
    }
}

impl Actor {
    /// Writes an update to the round's file. A disk that fails is tried again until it is mended.
    pub(super) async fn keep(
        &mut self,
        worker: &str,
        values: Vec<f32>,
        (facts, draws): (UploadFacts, usize),
    ) -> Result<Option<Refusal>, String> {
        let (mut spool, shared) = (self.spool.take(), Arc::clone(&self.shared));
        let (health, stop) = (self.parts.health.clone(), self.parts.stop.clone());
        let (folder, worker) = (self.parts.config.data_dir.join(FOLDER), worker.to_owned());
        let kept = tokio::task::spawn_blocking(move || {
            let attempt = |spool: &mut Option<Spool>| {
                let to = match spool {
                    Some(to) => to,
                    None => spool.insert(Spool::create(&folder, shared.upload.clone())?),
                };
                to.add(&worker, (facts, draws), &[&values])
            };
            while let Err(error) = attempt(&mut spool) {
                tracing::error!(%error, "an update cannot be kept; trying again in {RETRY:?}");
                health.failed(Part::Store, &error.to_string());
                std::thread::sleep(RETRY);
                if stop.is_cancelled() {
                    // Without the file the round is not committed; it is collected again.
                    return None;
                }
            }
            health.works(Part::Store);
            shared.buffers.give(values);
            spool
        });
        self.spool = kept.await.map_err(|error| format!("keeping an update failed: {error}"))?;
        Ok(None)
    }

    /// Adds an update to the means, as often as its worker was drawn.
    pub(super) async fn fold(
        &mut self,
        values: Vec<f32>,
        (facts, draws): (UploadFacts, usize),
    ) -> Result<Option<Refusal>, String> {
        let mut accumulators = std::mem::take(&mut self.accumulators);
        let shared = Arc::clone(&self.shared);
        let folded = tokio::task::spawn_blocking(move || {
            if accumulators.is_empty() {
                accumulators = accumulators_of(shared.folds.clone(), &shared.upload);
            }
            let combiner = shared.spec.combiner;
            for _ in 0..draws {
                fold_by((combiner, 1.0), &mut accumulators, &shared.upload, (&values, &facts));
            }
            shared.buffers.give(values);
            accumulators
        });
        self.accumulators = folded.await.map_err(|error| format!("folding failed: {error}"))?;
        Ok(None)
    }
}

impl Job {
    /// The means of a round by a combiner that sees all of it; `None` when the coordinator stops.
    pub(super) fn combined(&mut self, combiner: Combiner) -> Option<Result<Vectors, String>> {
        let spool = self.spool.take()?;
        let mut centres = Vectors::new();
        for fold in &self.shared.folds {
            if let Some(digest) = self.record.vectors.get(&centre_name(fold.into)) {
                let centre = self.retry(|job| job.store.blobs().get(*digest, Vec::new))?;
                centres.insert(fold.into.to_owned(), centre);
            }
        }
        let centre = |fold: &str| centres.get(fold).cloned();
        self.retry(|job| match spool.combine(&combiner, &job.shared.folds, centre) {
            Ok(means) => Ok(Ok(means)),
            Err(SpoolError::File(error)) => {
                Err(StoreError::Directory { path: PathBuf::from(FOLDER), detail: error.to_string() })
            }
            Err(error) => Ok(Err(error.to_string())),
        })
    }
}
