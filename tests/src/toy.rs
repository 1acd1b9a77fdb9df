//! A trainer without data: shrinks the weights and honours the plan's shift, so that client state
//! matters. For tests of rounds, transfers and faults, where real training would only cost time.

use crate::host::flat_tensors;
use algorithms::{
    LocalRun,
    local::{StepSize, Walk},
};
use proto::spec::{ModelSpec, RunSpec};
use std::{convert::Infallible, sync::Arc, thread, time::Duration};
use worker::trainer::{
    EvaluateJob, LocalResult, Opened, Progress, Report, Scores, Train, TrainError, TrainJob,
};

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

fn length(spec: &RunSpec) -> Result<usize, TrainError> {
    match spec.model {
        ModelSpec::Flat { parameters } => Ok(parameters),
        _ => Err(TrainError::Model("a toy trains `flat` models only".into())),
    }
}

/// Takes its time, and ends early when it is told to.
fn wait(pause: Duration, report: Report<'_>) -> Result<(), TrainError> {
    let due = pause.as_millis() as u64;
    for done in 0..due {
        if report(Progress { done, due }).is_break() {
            return Err(TrainError::Cancelled);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Train for Toy {
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError> {
        length(spec)
    }

    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError> {
        wait(self.pause, report)?;
        let shift = |at: usize| job.plan.shift.as_ref().map_or(0.0, |shift| shift[at]);
        let end = job.model.iter().enumerate().map(|(at, w)| w * (1.0 - self.shrink) - job.lr * shift(at));
        let run = LocalRun::new(Arc::clone(&job.model), end.collect(), 1, job.lr);
        Ok(LocalResult { run, examples: 10, loss: 0.5 })
    }

    fn evaluate(&mut self, job: &EvaluateJob, _: Report<'_>) -> Result<Scores, TrainError> {
        Ok(Scores { predictions: job.model.len() as u64, correct: 1, loss_sum: 1.0 })
    }
}

/// A toy whose steps are the plan's, as those of real training are: for rules whose state comes from what a
/// local run carries. Goes down a parabola
/// around `centre` in each element; with another centre each worker drifts another way.
#[derive(Debug, Clone, Copy)]
pub struct Bowl {
    /// Where this worker's loss is least, about.
    pub centre: f32,
    /// How long a local run takes.
    pub pause: Duration,
}

const STEPS: u32 = 3;

impl Train for Bowl {
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError> {
        length(spec)
    }

    fn tensors(&mut self, spec: &RunSpec) -> Result<Vec<(String, Vec<usize>)>, TrainError> {
        Ok(flat_tensors(length(spec)?))
    }

    fn open(&mut self, spec: &RunSpec) -> Result<Opened, TrainError> {
        let length = length(spec)?;
        Ok(Opened {
            tensors: vec![("w".to_owned(), vec![length as u64])],
            initial: vec![0.0; length],
            examples: 1,
        })
    }

    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError> {
        wait(self.pause, report)?;
        let size = StepSize { lr: job.lr, weight_decay: 0.0, clip: None, compat: false };
        let mut walk = Walk::new(&job.model, &job.plan, size);
        let gap = |w: &[f32], k: usize| w[k] - self.centre * (1.0 + (k % 7) as f32 * 0.1);
        let w = walk.weights();
        let loss = (0..w.len()).map(|k| 0.5 * f64::from(gap(w, k)).powi(2)).sum::<f64>() / w.len() as f64;
        for _ in 0..STEPS {
            let Ok(()) = walk.step(|w, gradient| {
                for (k, g) in gradient.iter_mut().enumerate() {
                    *g = gap(w, k);
                }
                Ok::<_, Infallible>(())
            });
        }
        let run = LocalRun { start_loss: job.plan.start_loss.then_some(loss), ..walk.finish() };
        Ok(LocalResult { run, examples: 10, loss })
    }

    fn evaluate(&mut self, job: &EvaluateJob, _: Report<'_>) -> Result<Scores, TrainError> {
        Ok(Scores { predictions: job.model.len() as u64, correct: 1, loss_sum: 1.0 })
    }
}
