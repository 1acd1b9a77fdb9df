//! A trainer without data: shrinks the weights and honours the plan's shift, so that client state
//! matters. For tests of rounds, transfers and faults, where real training would only cost time.

use algorithms::LocalRun;
use proto::spec::{ModelSpec, RunSpec};
use std::{sync::Arc, thread, time::Duration};
use worker::trainer::{EvaluateJob, LocalResult, Progress, Report, Scores, Train, TrainError, TrainJob};

/// Trains `flat` models: `w ← (1 − shrink) · w − lr · shift`.
#[derive(Debug, Clone, Copy)]
pub struct Toy {
    /// 0 leaves the model as it is.
    pub shrink: f32,
    /// How long a local run takes.
    pub pause: Duration,
}

impl Default for Toy {
    fn default() -> Self {
        Self { shrink: 0.01, pause: Duration::ZERO }
    }
}

impl Train for Toy {
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError> {
        match spec.model {
            ModelSpec::Flat { parameters } => Ok(parameters),
            _ => Err(TrainError::Model("a toy trains `flat` models only".into())),
        }
    }

    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError> {
        let due = self.pause.as_millis() as u64;
        for done in 0..due {
            if report(Progress { done, due }).is_break() {
                return Err(TrainError::Cancelled);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let shift = |at: usize| job.plan.shift.as_ref().map_or(0.0, |shift| shift[at]);
        let end = job.model.iter().enumerate().map(|(at, w)| w * (1.0 - self.shrink) - job.lr * shift(at));
        let run = LocalRun::new(Arc::clone(&job.model), end.collect(), 1, job.lr);
        Ok(LocalResult { run, examples: 10, loss: 0.5 })
    }

    fn evaluate(&mut self, job: &EvaluateJob, _: Report<'_>) -> Result<Scores, TrainError> {
        Ok(Scores { predictions: job.model.len() as u64, correct: 1, loss_sum: 1.0 })
    }
}
