//! What a peer's own trainer does, on a thread that may block: look at the model that mixing gave (sketch,
//! digest, evaluation), then train on from it.

use super::{
    private::Private,
    serve::Shared,
    turn::{Turn, answer, difference_seed},
};
use crate::trainer::{EvaluateJob, LocalResult, Scores, Train, TrainError};
use gossip::{
    machine::{Done, Errand},
    rule::Local,
    sketch::sketch,
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
    /// Of what steps are corrected by, where gradients are tracked.
    pub(super) correction: Option<Vec<f32>>,
    pub(super) digest: Digest,
    /// `None` when this round is not evaluated, or there is nothing to evaluate on.
    pub(super) scores: Option<Scores>,
}

/// A local run.
pub(super) struct Trained {
    /// What the machine gets; taken when it has it.
    pub(super) done: Option<Done<f32>>,
    /// Of the change.
    pub(super) sketch: Vec<f32>,
    /// The end, if the local rule wants it.
    pub(super) end: Option<Vec<f32>>,
    pub(super) loss: f64,
}

/// A local run as it ended.
struct Ran {
    /// End minus model.
    change: Vec<f32>,
    steps: u64,
    end: Option<Vec<f32>>,
    loss: f64,
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
    pub(super) errand: Errand<f32>,
    /// How differences are compressed, from what they are counted, and the seed of this peer for it.
    pub(super) way: Arc<Shared>,
    pub(super) origin: Arc<Vec<f32>>,
    pub(super) draw: u64,
    /// Whether a round ended with this model, and whether it is evaluated.
    pub(super) measure: Option<bool>,
    /// The training round; `None` when the run is over.
    pub(super) train: Option<u64>,
    pub(super) last_end: Option<Arc<Vec<f32>>>,
    pub(super) cancel: CancellationToken,
    pub(super) private: Option<Arc<Mutex<Private>>>,
}

impl Job {
    /// Does it, telling what was measured before it trains.
    pub(super) fn run(mut self, mut trainer: Box<dyn Train>, tell: impl Fn(Outcome)) -> Outcome {
        let model = std::mem::take(&mut self.errand.model);
        if let Some(evaluate) = self.measure {
            let scores = evaluate.then(|| self.evaluate(trainer.as_mut(), &model)).flatten();
            let measured = Measured {
                sketch: sketch(self.spec.seed, &model),
                correction: self.errand.correction().map(|off| sketch(self.spec.seed, off)),
                digest: self.way.digests.of(&model),
                scores,
            };
            tell(Outcome::Measured { life: self.life, step: self.step, measured });
        }
        let (life, step) = (self.life, self.step);
        let trained = self.train.map(|round| {
            let ran = self.train(trainer.as_mut(), round, &model)?;
            self.finish((round, &model), ran)
        });
        Outcome::Done { life, step, trained: trained.transpose(), trainer }
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

    fn train(&self, trainer: &mut dyn Train, round: u64, model: &Arc<Vec<f32>>) -> Result<Ran, TrainError> {
        if let Some(reason) = self.private.as_ref().and_then(|private| lock(private).spent()) {
            tracing::warn!(
                reason,
                "the privacy budget is used up: this peer goes on mixing and trains no more"
            );
            return Ok(Ran { change: vec![0.0; model.len()], steps: 0, end: None, loss: f64::NAN });
        }
        let last_end = self.last_end.as_deref().map(Vec::as_slice);
        let turn = Turn { spec: &self.spec, local: &self.local, round, last_end };
        let job = turn.job(model, self.errand.shift.clone());
        let LocalResult { run, loss, .. } = trainer.train(&job, &mut |_| self.flow())?;
        let end = (self.local.relax != 0.0).then(|| run.end.clone());
        let (steps, mut change) = (run.steps.into(), run.end);
        change.iter_mut().zip(model.iter()).for_each(|(end, z)| *end -= z);
        if let Some(private) = &self.private {
            let released = lock(private).release(round, &mut change);
            released.map_err(|why| TrainError::Training(format!("privacy: {why}")))?;
        }
        Ok(Ran { change, steps, end, loss })
    }

    /// What the machine needs to know of a local run; what travels is made of it alone.
    fn finish(self, (round, model): (u64, &[f32]), ran: Ran) -> Result<Trained, TrainError> {
        let Ran { mut change, steps, end, loss } = ran;
        self.errand.weigh(&mut change);
        let sketch = sketch(self.spec.seed, &change);
        let pack = |off: Vec<f32>| {
            let form = self.way.form.get().ok_or_else(|| "no vectors are expected yet".to_owned())?;
            form.pack(&off, difference_seed(self.draw, round)).map_err(|error| error.to_string())
        };
        let far = (self.spec.lr(round).into(), steps);
        let done = answer(self.errand, (model, change), far, (&self.origin, pack))?;
        Ok(Trained { done: Some(done), sketch, end, loss })
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(super) fn lock(private: &Mutex<Private>) -> MutexGuard<'_, Private> {
    private.lock().unwrap_or_else(PoisonError::into_inner)
}
