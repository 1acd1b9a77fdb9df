//! What a peer's own trainer does, on a thread that may block: look at the model that mixing gave (sketch,
//! digest, evaluation), then train on from it.

use super::private::Private;
use crate::trainer::{EvaluateJob, LocalResult, Scores, Train, TrainError, TrainJob};
use algorithms::local::{LocalPlan, Probe, Update};
use gossip::{
    rule::Local,
    sketch::{BUCKETS, sketch},
};
use proto::{digest::Digest, spec::RunSpec};
use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// A model after a round.
pub(super) struct Measured {
    pub(super) sketch: Vec<f32>,
    pub(super) digest: Digest,
    /// `None` when this round is not evaluated, or there is nothing to evaluate on.
    pub(super) scores: Option<Scores>,
}

/// A local run.
pub(super) struct Trained {
    /// End minus model.
    pub(super) change: Vec<f32>,
    pub(super) sketch: Vec<f32>,
    /// The end, if the local rule wants it.
    pub(super) end: Option<Vec<f32>>,
    pub(super) loss: f64,
}

/// What comes back; `life` tells work for an earlier incarnation from this one's.
pub(super) enum Outcome {
    /// The round before `step` was measured.
    Measured { life: u64, step: u64, measured: Measured },
    /// `step` was trained, or there was nothing to train; the trainer comes back.
    Done { life: u64, step: u64, trained: Result<Option<Trained>, TrainError>, trainer: Box<dyn Train> },
}

/// What is to be done.
pub(super) struct Job {
    pub(super) spec: Arc<RunSpec>,
    pub(super) local: Local,
    pub(super) life: u64,
    /// The machine's round.
    pub(super) step: u64,
    pub(super) model: Vec<f32>,
    /// Whether a round ended with this model, and whether it is evaluated.
    pub(super) measure: Option<bool>,
    /// The training round; `None` when the run is over.
    pub(super) train: Option<u64>,
    pub(super) last_end: Option<Vec<f32>>,
    pub(super) cancel: CancellationToken,
    pub(super) private: Option<Arc<Mutex<Private>>>,
}

impl Job {
    /// Does it, telling what was measured before it trains.
    pub(super) fn run(mut self, mut trainer: Box<dyn Train>, tell: impl Fn(Outcome)) -> Outcome {
        let model = Arc::new(std::mem::take(&mut self.model));
        if let Some(evaluate) = self.measure {
            let scores = evaluate.then(|| self.evaluate(trainer.as_mut(), &model)).flatten();
            let measured = Measured {
                sketch: sketch(self.spec.seed, &model),
                digest: Digest::of_vector(&model),
                scores,
            };
            tell(Outcome::Measured { life: self.life, step: self.step, measured });
        }
        let trained = self.train.map(|round| self.train(trainer.as_mut(), round, &model)).transpose();
        Outcome::Done { life: self.life, step: self.step, trained, trainer }
    }

    fn evaluate(&self, trainer: &mut dyn Train, model: &Arc<Vec<f32>>) -> Option<Scores> {
        let job = EvaluateJob { spec: Arc::clone(&self.spec), model: Arc::clone(model) };
        match trainer.evaluate(&job, &mut |_| self.flow()) {
            Ok(scores) => Some(scores).filter(|scores| scores.predictions > 0),
            Err(TrainError::Cancelled) => None,
            Err(error) => {
                tracing::warn!(%error, "the model was not evaluated");
                None
            }
        }
    }

    fn train(
        &self,
        trainer: &mut dyn Train,
        round: u64,
        model: &Arc<Vec<f32>>,
    ) -> Result<Trained, TrainError> {
        if let Some(reason) = self.private.as_ref().and_then(|private| lock(private).spent()) {
            tracing::warn!(
                reason,
                "the privacy budget is used up: this peer goes on mixing and trains no more"
            );
            let (change, sketch) = (vec![0.0; model.len()], vec![0.0; BUCKETS]);
            return Ok(Trained { change, sketch, end: None, loss: f64::NAN });
        }
        let offset =
            self.last_end.as_ref().filter(|last| self.local.relax != 0.0 && last.len() == model.len());
        let relaxed = |last: &Vec<f32>| {
            let beta = self.local.relax as f32;
            Arc::new(model.iter().zip(last).map(|(z, last)| beta * (z - last)).collect())
        };
        let plan = LocalPlan { offset: offset.map(relaxed), ..plan(&self.local) };
        let spec = Arc::clone(&self.spec);
        let job = TrainJob { lr: spec.lr(round), spec, round, model: Arc::clone(model), plan, private: None };
        let LocalResult { run, loss, .. } = trainer.train(&job, &mut |_| self.flow())?;
        let mut change: Vec<f32> = run.end.iter().zip(model.iter()).map(|(end, z)| end - z).collect();
        if let Some(private) = &self.private {
            let released = lock(private).release(round, &mut change);
            released.map_err(|why| TrainError::Training(format!("privacy: {why}")))?;
        }
        let sketch = sketch(self.spec.seed, &change);
        let end = (self.local.relax != 0.0).then_some(run.end);
        Ok(Trained { change, sketch, end, loss })
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(super) fn lock(private: &Mutex<Private>) -> MutexGuard<'_, Private> {
    private.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The local rule of a decentralised algorithm as the local plan of the federated ones.
fn plan(local: &Local) -> LocalPlan {
    LocalPlan {
        prox: local.prox as f32,
        probe: Probe::ascent(local.rho as f32),
        update: match local.momentum as f32 {
            0.0 => Update::Sgd,
            momentum => Update::HeavyBall { momentum },
        },
        ..LocalPlan::default()
    }
}
