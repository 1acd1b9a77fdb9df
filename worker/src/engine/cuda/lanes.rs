//! What a model does on a GPU: gradients, evaluations and whole local runs.

use super::device::Device;
use super::feed::{Records, Resident};
use super::lane::Lane;
use super::placement::{Placement, Precision, Shared};
use super::session::{Session, Task};
use super::walk::task;
use crate::data::{Batch, Dataset, Rng};
use crate::engine::{EngineError, Model, Outcome};
use algorithms::local::{LocalPlan, StepSize};
use algorithms::{LocalRun, Vector, axpy};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

/// Examples in a batch of an evaluation.
const EVALUATION_BATCH: usize = 512;

/// The lanes of a GPU for one model: as many as threads have called at a time.
#[derive(Debug)]
pub(in crate::engine) struct Lanes {
    idle: Mutex<Vec<Session>>,
    shared: Arc<Shared>,
    device: Arc<Device>,
    precision: Precision,
}

/// The batches of a local run.
#[derive(Debug, Default)]
pub struct Batches {
    records: Records,
    sizes: Vec<usize>,
}

impl Batches {
    /// Appends one; draws what [`Dataset::batch`] draws.
    pub fn push(&mut self, examples: &Dataset, indices: &[usize], augment: Option<&mut Rng>) {
        self.records.push(examples, indices, augment);
        self.sizes.push(indices.len());
    }
}

/// A local run on a device.
#[derive(Debug)]
pub struct DeviceJob<'a> {
    /// Of whom the batches are.
    pub examples: &'a Dataset,
    /// The received model.
    pub model: &'a Vector,
    /// How a step differs from plain SGD.
    pub plan: &'a LocalPlan,
    /// Step size and regularisation.
    pub size: StepSize,
    /// What to train on, step by step.
    pub batches: Batches,
    /// Step by step instead of by captured graphs: for checks, the results are the same.
    pub eager: bool,
}

/// What came of it: the run, and the mean loss of each step.
pub type DeviceRun = (LocalRun, Vec<f64>);

impl Lanes {
    /// `None`: the placement is the CPU.
    pub(in crate::engine) fn new(placement: &Placement) -> Option<Self> {
        let Placement { device, precision, shared } = placement.clone();
        Some(Self { idle: Mutex::default(), shared, device: device?, precision })
    }

    pub(in crate::engine) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Gives `f` a session; one in which something failed is not used again.
    fn with<T>(
        &self,
        model: &Model,
        f: impl FnOnce(&mut Session) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle().pop();
        let mut session = match waiting {
            Some(session) => session,
            None => Session::new(self.lane()?, model.parameters())?,
        };
        let result = f(&mut session)?;
        idle().push(session);
        Ok(result)
    }

    fn lane(&self) -> Result<Arc<Lane>, EngineError> {
        let waiting = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.map_or_else(|| Ok(Lane::new(&self.device, self.precision)?), Ok)
    }

    /// The data set's examples on the device; uploaded once for all subsets of it.
    fn resident(&self, session: &Session, examples: &Dataset) -> Result<Arc<Resident>, EngineError> {
        let parts = examples.parts();
        let mut data = self.shared.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.retain(|(of, _)| of.strong_count() > 0);
        if let Some((_, known)) = data.iter().find(|(of, _)| of.as_ptr() == Arc::as_ptr(parts)) {
            return Ok(Arc::clone(known));
        }
        let resident = Arc::new(Resident::of(&session.lane, parts)?);
        data.push((Arc::downgrade(parts), Arc::clone(&resident)));
        Ok(resident)
    }

    pub(in crate::engine) fn gradient(
        &self,
        model: &Model,
        (w, batch): (&[f32], &Batch),
        grad: &mut [f32],
    ) -> Result<Outcome, EngineError> {
        self.with(model, |session| {
            session.place_weights(w)?;
            let feed = session.feed(model, batch)?;
            session.backward(model, (&session.weights, &feed), true)?;
            session.lane.download(grad, &session.gradient)?;
            Ok(outcome(session.first_tally()?, batch))
        })
    }

    pub(in crate::engine) fn evaluate(
        &self,
        model: &Model,
        w: &[f32],
        batch: &Batch,
    ) -> Result<Outcome, EngineError> {
        self.with(model, |session| {
            session.place_weights(w)?;
            Ok(outcome(session.evaluate_batch(model, batch)?, batch))
        })
    }

    pub(in crate::engine) fn logits(
        &self,
        model: &Model,
        w: &[f32],
        batch: &Batch,
    ) -> Result<Vec<f32>, EngineError> {
        self.with(model, |session| {
            session.place_weights(w)?;
            let feed = session.feed(model, batch)?;
            let logits = session.forward(model, &feed)?;
            let mut values = vec![0.0; logits.len()];
            session.lane.download(&mut values, logits.array()?)?;
            Ok(values)
        })
    }

    /// Sums of loss and hits over all examples, at `w` or (`None`) at the session's weights.
    fn scores(
        &self,
        session: &mut Session,
        model: &Model,
        (w, examples): (Option<&[f32]>, &Dataset),
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Outcome>, EngineError> {
        let data = self.resident(session, examples)?;
        let indices: Vec<usize> = (0..examples.len()).collect();
        let mut batches = Batches::default();
        indices.chunks(EVALUATION_BATCH).for_each(|batch| batches.push(examples, batch, None));
        let Batches { records, sizes } = batches;
        session.prepare(model, &data, (&sizes, Task::Evaluate))?;
        if let Some(w) = w {
            session.place_weights(w)?;
        }
        let mut seen = |steps: usize| report((steps * EVALUATION_BATCH).min(indices.len()));
        let steps = (sizes.as_slice(), Task::Evaluate, false, &records);
        let Some(tallies) = session.run(model, &data, steps, &mut seen)? else { return Ok(None) };
        let predictions = indices.len() * model.predictions();
        let loss: f64 = tallies.iter().map(|(loss, _)| loss).sum();
        let correct = tallies.iter().map(|(_, hits)| u64::from(*hits)).sum();
        Ok(Some(Outcome { loss: loss / predictions.max(1) as f64, correct, predictions: predictions as u64 }))
    }

    fn local(
        &self,
        model: &Model,
        job: &DeviceJob<'_>,
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<DeviceRun>, EngineError> {
        let DeviceJob { examples, plan, size, batches, .. } = job;
        let start = match &plan.offset {
            None => Arc::clone(job.model),
            Some(offset) => {
                let mut start = job.model.as_ref().clone();
                axpy(&mut start, 1.0, offset);
                Arc::new(start)
            }
        };
        self.with(model, |session| {
            let data = self.resident(session, examples)?;
            let (task, shape) = task(plan, size);
            session.make_vectors(shape)?;
            session.prepare(model, &data, (&batches.sizes, task))?;
            let mut start_loss = None;
            if plan.start_loss {
                let go = &mut |_| ControlFlow::Continue(());
                let found = self.scores(session, model, (Some(&start), examples), go)?;
                start_loss = found.map(|outcome| outcome.loss);
                // An evaluation of more examples may have moved the records.
                session.prepare(model, &data, (&batches.sizes, task))?;
            }
            session.begin(&start, plan, size)?;
            let steps = (batches.sizes.as_slice(), task, job.eager, &batches.records);
            let Some(tallies) = session.run(model, &data, steps, report)? else {
                return Ok(None);
            };
            let mut end = vec![0.0; start.len()];
            session.lane.download(&mut end, &session.weights)?;
            let per_example = model.predictions();
            let mean = |((loss, _), size): ((f64, u32), &usize)| loss / (size * per_example) as f64;
            let losses = tallies.into_iter().zip(&batches.sizes).map(mean).collect();
            let run = LocalRun {
                carried: session.carried(plan)?,
                start_loss,
                ..LocalRun::new(Arc::clone(&start), end, batches.sizes.len() as u32, size.lr)
            };
            Ok(Some((run, losses)))
        })
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut lanes = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.extend(idle.into_iter().map(Session::into_lane));
    }
}

fn outcome((loss, hits): (f64, u32), batch: &Batch) -> Outcome {
    let predictions = batch.labels.len();
    Outcome { loss: loss / predictions as f64, correct: hits.into(), predictions: predictions as u64 }
}

impl Model {
    /// Loss and hits of `w` on all examples, if the model trains on a GPU. `report` is called with the number
    /// of examples so far; the inner `None`: it has cancelled.
    ///
    /// # Errors
    /// If the GPU fails, or the examples do not suit the model.
    pub fn scores_on_device(
        &self,
        w: &[f32],
        examples: &Dataset,
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Option<Result<Option<Outcome>, EngineError>> {
        let gpu = self.gpu.as_ref()?;
        Some(
            self.check_length("weights", w.len()).and_then(|()| {
                gpu.with(self, |session| gpu.scores(session, self, (Some(w), examples), report))
            }),
        )
    }

    /// The logits of `w` on all examples, if the model trains on a GPU.
    ///
    /// # Errors
    /// If the GPU fails, or the examples do not suit the model.
    pub fn logits_on_device(&self, w: &[f32], examples: &Dataset) -> Option<Result<Vec<f32>, EngineError>> {
        let gpu = self.gpu.as_ref()?;
        let found = self.check_length("weights", w.len()).and_then(|()| {
            gpu.with(self, |session| {
                let data = gpu.resident(session, examples)?;
                let mut records = Records::default();
                records.push(examples, &(0..examples.len()).collect::<Vec<_>>(), None);
                session.place_weights(w)?;
                session.logits(self, &data, (EVALUATION_BATCH, &records))
            })
        });
        Some(found)
    }

    /// A local run, if the model trains on a GPU. `report` is called with the number of steps so far; the
    /// inner `None`: it has cancelled.
    ///
    /// # Errors
    /// If the GPU fails, or the examples do not suit the model.
    pub fn run_on_device(
        &self,
        job: &DeviceJob<'_>,
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Option<Result<Option<DeviceRun>, EngineError>> {
        let gpu = self.gpu.as_ref()?;
        Some(self.check_length("weights", job.model.len()).and_then(|()| gpu.local(self, job, report)))
    }
}
