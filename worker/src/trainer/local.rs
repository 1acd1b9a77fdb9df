//! The local run with the engine: epochs over the worker's examples, one generic step a batch.
//!
//! What is drawn (order, augmentation) is a function of run seed, round, worker and epoch, so that a
//! worker that restarts in the middle of a round uploads the bytes that it would have uploaded.

use super::{
    EvaluateJob, LocalResult, NoisySteps, Opened, Private, Progress, Report, Scores, Train, TrainError,
    TrainJob, details, device::Place, device::scores_on_device, examples::Examples,
};
use crate::{
    Config,
    data::{Batch, DataInfo, Dataset, Rng, epoch_order, stream},
    engine::{Model, TensorSpec},
};
use algorithms::{
    LocalRun, axpy,
    evaluation::Details,
    local::{Probe, StepSize, Walk},
    seed,
};
use privacy::spec::MechanismKind;
use proto::spec::{ClipMode, LocalSpec, ModelSpec, RunSpec};
use std::sync::Arc;

/// Examples in a batch of an evaluation: results do not depend on it, memory does.
const EVALUATION_BATCH: usize = 128;
/// Scalars of a `flat` model of which one changes.
const FLAT_BLOCK: usize = 4_096;
/// Largest change of a `flat` model in a round.
const FLAT_CHANGE: f64 = 1e-3;

/// Trains with the engine on the configured data.
#[derive(Debug)]
pub struct EngineTrainer {
    worker: u64,
    threads: usize,
    examples: Examples,
    /// The last model that was built, for the next round of the same run.
    model: Option<(ModelSpec, DataInfo, Model)>,
    placement: Place,
    /// Memory of an earlier result.
    spare: Vec<f32>,
}

impl EngineTrainer {
    /// For a worker's data, on its threads.
    pub fn new(config: &Config) -> Self {
        let worker = seed::word(config.name.as_str());
        Self {
            worker,
            threads: config.training_threads(),
            examples: Examples::new(config),
            model: None,
            placement: Place::Chosen(config.device, config.precision),
            spare: Vec::new(),
        }
    }

    fn model(&mut self, spec: &ModelSpec, info: &DataInfo) -> Result<&Model, TrainError> {
        let known = self.model.as_ref().is_some_and(|(built, of, _)| built == spec && of == info);
        if !known {
            let model = Model::new(spec, info).map_err(|error| TrainError::Model(error.to_string()))?;
            let placement = self.placement.open().map_err(TrainError::Model)?;
            self.model =
                Some((spec.clone(), info.clone(), model.with_threads(self.threads).placed(&placement)));
        }
        let (_, _, model) = self.model.as_ref().expect("was just built");
        Ok(model)
    }
}

/// `flat`: no data and no gradient. One scalar of each block moves by a seeded amount, so that a round
/// costs what moving and folding vectors costs, and no round's model equals another's, which a worker
/// would then not have to fetch.
fn flat(job: &TrainJob, worker: u64, mut end: Vec<f32>) -> LocalResult {
    end.clear();
    end.reserve_exact(job.model.len());
    end.extend_from_slice(&job.model);
    let key = seed::derive(job.spec.seed, "flat", &[job.round, worker]);
    for (block, values) in end.chunks_mut(FLAT_BLOCK).enumerate() {
        values[0] += (FLAT_CHANGE * seed::unit(seed::mix(key ^ block as u64))) as f32;
    }
    let run = LocalRun::new(Arc::clone(&job.model), end, 1, job.lr);
    LocalResult { run, examples: 1, loss: 0.0 }
}

/// One local run of the worker of that name on the given examples, for drivers that keep data and
/// models themselves: the bytes that [`EngineTrainer`] gives for the same examples.
///
/// # Errors
/// If there is no example, the loss or a weight becomes infinite, or `report` cancels.
pub fn local_run(
    model: &Model,
    examples: &Dataset,
    job: &TrainJob,
    worker: &str,
    report: Report<'_>,
) -> Result<LocalResult, TrainError> {
    let worker = seed::word(worker);
    if let ModelSpec::Flat { .. } = job.spec.model {
        return Ok(flat(job, worker, Vec::new()));
    }
    Loop { model, examples, job, worker }.run(report)
}

/// Loss and hits of `w` on the given examples, in batches, one after the other.
///
/// # Errors
/// If the model does not suit the examples, or `report` cancels.
pub fn scores(
    model: &Model,
    examples: &Dataset,
    w: &[f32],
    report: Report<'_>,
) -> Result<Scores, TrainError> {
    if let Some(scores) = scores_on_device(model, examples, w, report) {
        return scores;
    }
    let mut scores = Scores::default();
    let indices: Vec<usize> = (0..examples.len()).collect();
    for batch in indices.chunks(EVALUATION_BATCH) {
        let outcome = model.evaluate(w, &examples.batch(batch, None)).map_err(training)?;
        scores.predictions += outcome.predictions;
        scores.correct += outcome.correct;
        scores.loss_sum += outcome.loss * outcome.predictions as f64;
        let done = batch.last().map_or(0, |last| *last as u64 + 1);
        if report(Progress { done, due: examples.len() as u64 }).is_break() {
            return Err(TrainError::Cancelled);
        }
    }
    Ok(scores)
}

impl Train for EngineTrainer {
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError> {
        if let ModelSpec::Flat { parameters } = spec.model {
            return Ok(parameters);
        }
        let steps = spec.privacy.as_ref().is_some_and(|p| p.mechanism() == MechanismKind::DpSgd);
        if steps && self.examples.are_measured(&spec.data) {
            return Err(TrainError::Data(format!(
                "the inputs of `{0}` would be normalised by what is measured on them, which `dp_sgd` does not pay \
                 for; give `mean` and `std` in `[data.{0}]`",
                spec.data.name
            )));
        }
        let info = self.examples.training(spec)?.info().clone();
        Ok(self.model(&spec.model, &info)?.parameters())
    }

    fn tensors(&mut self, spec: &RunSpec) -> Result<Vec<(String, Vec<usize>)>, TrainError> {
        if let ModelSpec::Flat { parameters } = spec.model {
            return Ok(vec![("flat".to_owned(), vec![parameters])]);
        }
        let info = self.examples.training(spec)?.info().clone();
        Ok(self.model(&spec.model, &info)?.named_shapes())
    }

    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError> {
        if let ModelSpec::Flat { .. } = job.spec.model {
            return Ok(flat(job, self.worker, std::mem::take(&mut self.spare)));
        }
        let examples = self.examples.training(&job.spec)?;
        let worker = self.worker;
        let model = self.model(&job.spec.model, examples.info())?;
        Loop { model, examples: &examples, job, worker }.run(report)
    }

    fn open(&mut self, spec: &RunSpec) -> Result<Opened, TrainError> {
        let (info, examples) = if let ModelSpec::Flat { .. } = spec.model {
            // A bare vector has no input; any shape will do.
            (DataInfo::Features { dimension: 1, classes: 2 }, 1)
        } else {
            let data = self.examples.training(spec)?;
            (data.info().clone(), data.len() as u64)
        };
        let model = self.model(&spec.model, &info)?;
        let tensor = |spec: &TensorSpec| (spec.name.clone(), spec.shape.iter().map(|n| *n as u64).collect());
        Ok(Opened {
            tensors: model.tensors().iter().map(tensor).collect(),
            initial: model.initial(spec.seed),
            examples,
        })
    }

    fn layers(&mut self, spec: &RunSpec) -> Result<Vec<usize>, TrainError> {
        if let ModelSpec::Flat { parameters } = spec.model {
            return Ok(vec![parameters]);
        }
        let info = self.examples.training(spec)?.info().clone();
        Ok(self.model(&spec.model, &info)?.layers())
    }

    fn reuse(&mut self, vector: Vec<f32>) {
        self.spare = vector;
    }

    fn evaluate(&mut self, job: &EvaluateJob, report: Report<'_>) -> Result<Scores, TrainError> {
        if let ModelSpec::Flat { .. } = job.spec.model {
            return Ok(Scores::default());
        }
        let examples = self.examples.held_out(&job.spec)?;
        let model = self.model(&job.spec.model, examples.info())?;
        scores(model, &examples, &job.model, report)
    }

    fn details(&mut self, job: &EvaluateJob, report: Report<'_>) -> Result<Details, TrainError> {
        if let ModelSpec::Flat { .. } = job.spec.model {
            return Ok(Details::default());
        }
        let examples = self.examples.held_out(&job.spec)?;
        let model = self.model(&job.spec.model, examples.info())?;
        details(model, &examples, &job.model, report)
    }
}

/// One local run.
pub(super) struct Loop<'a> {
    pub(super) model: &'a Model,
    pub(super) examples: &'a Dataset,
    pub(super) job: &'a TrainJob,
    worker: u64,
}

impl Loop<'_> {
    fn run(&self, report: Report<'_>) -> Result<LocalResult, TrainError> {
        if self.examples.is_empty() {
            return Err(TrainError::Data("this worker's share of the data is empty".into()));
        }
        if let Some(private) = self.job.noisy_steps() {
            return self.run_privately(private, report);
        }
        let TrainJob { spec, round, .. } = self.job;
        let due = steps_due(spec, *round, self.examples.len());
        if self.model.device().is_some() {
            return self.run_on_device(due, report);
        }
        let mut walk = self.walk();
        let mut part = Vec::new();
        let start_loss = self.job.plan.start_loss.then(|| self.loss_at(walk.weights())).transpose()?;
        let (mut done, mut loss) = (0, 0.0);
        for epoch in 0.. {
            let mut augment = self.augment(epoch);
            for batch in self.order(epoch).chunks(spec.batch(*round)) {
                let part_size = batch.len().div_ceil(spec.local.accumulate.max(1));
                let parts = batch.chunks(part_size.max(1));
                let parts: Vec<Batch> =
                    parts.map(|part| self.examples.batch(part, augment.as_mut())).collect();
                loss += walk.step(|w, grad| {
                    let loss = self.gradient(w, &parts, grad, &mut part)?;
                    if loss.is_finite() { Ok(loss) } else { Err(self.diverged("the loss", done + 1)) }
                })?;
                done += 1;
                if report(Progress { done: done.into(), due: due.into() }).is_break() {
                    return Err(TrainError::Cancelled);
                }
                if done == due {
                    let run = LocalRun { start_loss, ..walk.finish() };
                    return self.finished(run, loss / f64::from(due));
                }
            }
        }
        Err(TrainError::Training("more epochs than can be counted".into()))
    }

    /// Overwrites `grad` by the gradient of the mean loss over the parts of a mini-batch, one after the other;
    /// gives the loss. A mini-batch in one part is as if there were none.
    fn gradient(
        &self,
        w: &[f32],
        parts: &[Batch],
        grad: &mut [f32],
        part: &mut Vec<f32>,
    ) -> Result<f64, TrainError> {
        if let [whole] = parts {
            return Ok(self.model.gradient(w, whole, grad).map_err(training)?.loss);
        }
        let total: u64 = parts.iter().map(|part| part.labels.len() as u64).sum();
        part.resize(grad.len(), 0.0);
        grad.fill(0.0);
        let mut loss = 0.0;
        for batch in parts {
            let outcome = self.model.gradient(w, batch, part).map_err(training)?;
            let share = outcome.predictions as f64 / total.max(1) as f64;
            axpy(grad, share as f32, part);
            loss += share * outcome.loss;
        }
        Ok(loss)
    }

    pub(super) fn size(&self) -> StepSize {
        let local = &self.job.spec.local;
        StepSize {
            lr: self.job.lr,
            weight_decay: local.weight_decay,
            clip: local.clip,
            compat: local.clip_mode == ClipMode::Compat,
        }
    }

    fn walk(&self) -> Walk {
        Walk::new(&self.job.model, &self.job.plan, self.size())
    }

    /// DP-SGD: whatever the walk makes of the gradients is a function of what they were paid for. The loss is
    /// not, so that nobody learns it.
    fn run_privately(&self, private: &Private, report: Report<'_>) -> Result<LocalResult, TrainError> {
        let TrainJob { spec, plan, .. } = self.job;
        let Some(due) = spec.local.steps else {
            return Err(TrainError::Training("`dp_sgd` without `local.steps`".into()));
        };
        if plan.start_loss || !matches!(plan.probe, Probe::Here | Probe::Fixed(_)) {
            let kind = &spec.algorithm.kind;
            return Err(TrainError::Training(format!("`dp_sgd` does not pay for what `{kind}` asks for")));
        }
        if self.model.device().is_some() {
            tracing::warn!("`dp_sgd` trains on the CPU: clipping each example has no kernels for a GPU");
        }
        let mut steps = NoisySteps::new(private, self.model, self.examples)?;
        let mut walk = self.walk();
        for done in 1..=due {
            walk.step(|w, grad| steps.gradient(w, grad))?;
            if report(Progress { done: done.into(), due: due.into() }).is_break() {
                return Err(TrainError::Cancelled);
            }
        }
        self.finished(walk.finish(), 0.0)
    }

    pub(super) fn order(&self, epoch: u64) -> Vec<usize> {
        let parts = [self.job.round, self.worker, epoch];
        epoch_order(self.examples.len(), &[seed::derive(self.job.spec.seed, "batches", &parts)])
    }

    pub(super) fn augment(&self, epoch: u64) -> Option<Rng> {
        let parts = [self.job.spec.seed, self.job.round, self.worker, epoch];
        self.job.spec.data.augment.then(|| stream("augment", &parts))
    }

    /// Mean loss over the examples, as they are.
    fn loss_at(&self, w: &[f32]) -> Result<f64, TrainError> {
        let (mut sum, mut predictions) = (0.0, 0);
        let indices: Vec<usize> = (0..self.examples.len()).collect();
        for batch in indices.chunks(EVALUATION_BATCH) {
            let outcome = self.model.evaluate(w, &self.examples.batch(batch, None)).map_err(training)?;
            sum += outcome.loss * outcome.predictions as f64;
            predictions += outcome.predictions;
        }
        Ok(sum / predictions.max(1) as f64)
    }

    pub(super) fn finished(&self, run: LocalRun, loss: f64) -> Result<LocalResult, TrainError> {
        if !run.end.iter().all(|value| value.is_finite()) {
            return Err(self.diverged("a weight", run.steps));
        }
        Ok(LocalResult { run, examples: self.examples.len() as u64, loss })
    }

    pub(super) fn diverged(&self, what: &str, step: u32) -> TrainError {
        let TrainJob { round, lr, .. } = self.job;
        TrainError::Training(format!(
            "{what} became infinite or not a number in step {step} of round {round} (learning rate {lr}); a \
             smaller `local.lr` or a `local.clip` may help"
        ))
    }
}

/// Steps of a local run of a round: `steps`, or whole epochs. The last batch of an epoch may be smaller, no example
/// is left out.
pub fn steps_due(spec: &RunSpec, round: u64, examples: usize) -> u32 {
    let epoch = examples.div_ceil(spec.batch(round)).max(1);
    let LocalSpec { steps, epochs, .. } = spec.local;
    steps.unwrap_or_else(|| u32::try_from(epoch).unwrap_or(u32::MAX).saturating_mul(epochs)).max(1)
}

pub(super) fn training(error: impl std::fmt::Display) -> TrainError {
    TrainError::Training(error.to_string())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
