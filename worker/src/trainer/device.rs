//! The local run on a GPU: batches are drawn as on the CPU, then all steps are done there.

use super::{LocalResult, Progress, Report, Scores, TrainError, local::Loop, local::training};
use crate::{
    data::Dataset,
    engine::Model,
    engine::cuda::{Batches, Choice, DeviceJob, Placement, Precision},
};
use std::ops::ControlFlow;

/// Where a trainer works. A GPU is opened when the first model is built: a worker that only ever answers
/// questions needs none.
#[derive(Debug)]
pub(super) enum Place {
    Chosen(Choice, Precision),
    Open(Placement),
}

impl Place {
    /// # Errors
    /// Why the GPU that was asked for cannot be used.
    pub(super) fn open(&mut self) -> Result<Placement, String> {
        if let Self::Chosen(choice, precision) = *self {
            *self = Self::Open(Placement::open(choice, precision)?);
        }
        match self {
            Self::Open(placement) => Ok(placement.clone()),
            Self::Chosen(..) => Err("the device was not opened".into()),
        }
    }
}

impl Loop<'_> {
    /// `due` steps on the model's GPU.
    pub(super) fn run_on_device(&self, due: u32, report: Report<'_>) -> Result<LocalResult, TrainError> {
        let batch = self.job.spec.batch(self.job.round);
        if self.job.spec.local.accumulate > 1 {
            tracing::info!("`local.accumulate`: a GPU computes each mini-batch whole");
        }
        let (mut batches, mut left) = (Batches::default(), due as usize);
        for epoch in 0.. {
            let mut augment = self.augment(epoch);
            let order = self.order(epoch);
            let taken = order.chunks(batch).take(left);
            left -= taken.len();
            taken.for_each(|batch| batches.push(self.examples, batch, augment.as_mut()));
            if left == 0 {
                break;
            }
        }
        let job = DeviceJob {
            examples: self.examples,
            model: &self.job.model,
            plan: &self.job.plan,
            size: self.size(),
            batches,
            eager: false,
        };
        let mut told = |done: usize| report(Progress { done: done as u64, due: due.into() });
        let Some(run) = self.model.run_on_device(&job, &mut told) else {
            return Err(TrainError::Training("the model is not on a GPU".into()));
        };
        let (run, losses) = run.map_err(training)?.ok_or(TrainError::Cancelled)?;
        match losses.iter().position(|loss| !loss.is_finite()) {
            Some(step) => Err(self.diverged("the loss", step as u32 + 1)),
            None => self.finished(run, losses.iter().sum::<f64>() / f64::from(due)),
        }
    }
}

/// Loss and hits of `w` on the given examples, if the model is on a GPU.
pub(super) fn scores_on_device(
    model: &Model,
    examples: &Dataset,
    w: &[f32],
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Option<Result<Scores, TrainError>> {
    let due = examples.len() as u64;
    let mut told = |done: usize| report(Progress { done: done as u64, due });
    let found = model.scores_on_device(w, examples, &mut told)?;
    Some(found.map_err(training).and_then(|outcome| {
        let outcome = outcome.ok_or(TrainError::Cancelled)?;
        Ok(Scores {
            predictions: outcome.predictions,
            correct: outcome.correct,
            loss_sum: outcome.loss * outcome.predictions as f64,
        })
    }))
}
