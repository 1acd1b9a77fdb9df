//! One local run: what a worker does with a model, its data and a plan.
//!
//! The trait stands between the job and the engine, so that the simulator and the tests can train toy
//! objectives under the same sessions, states and transfers.

mod details;
mod device;
mod examples;
mod local;
mod outgoing;
mod private;
mod shares;
mod steps;
mod turn;
mod update;

pub use details::details;
pub use local::{EngineTrainer, local_run, scores, steps_due};
pub use outgoing::{Outgoing, Way, outgoing, packing_seed};
pub use private::{Private, Promise, Seal, clip_upload, clips_layers, draw_key};
pub use shares::ShareMaker;
pub use steps::NoisySteps;
pub use turn::{Engine, Trained, Turn, personal_model, steps_of_round};
pub use update::finish;

use algorithms::{LocalRun, Vector, evaluation::Details, local::LocalPlan};
use proto::{spec::RunSpec, v1::DeclineReason};
use serde::{Deserialize, Serialize};
use std::{ops::ControlFlow, sync::Arc};

/// A local run to be done.
#[derive(Debug, Clone)]
pub struct TrainJob {
    /// Model, data and local training.
    pub spec: Arc<RunSpec>,
    /// The round: seeds derive from it.
    pub round: u64,
    /// Learning rate of this round.
    pub lr: f32,
    /// The received model, of `prepare`'s length; the plan may start elsewhere.
    pub model: Vector,
    /// How a local step differs from plain SGD.
    pub plan: LocalPlan,
    /// What this worker does itself for a run's promise of privacy.
    pub private: Option<Private>,
}

impl TrainJob {
    /// What makes the steps private, if they are: DP-SGD.
    pub fn noisy_steps(&self) -> Option<&Private> {
        self.private.as_ref().filter(|private| private.promise().noises_steps())
    }
}

/// A local run that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalResult {
    /// Start, end and steps, at least 1.
    pub run: LocalRun,
    /// Training examples that the worker holds: its weight.
    pub examples: u64,
    /// Mean loss over the steps; finite.
    pub loss: f64,
}

/// An evaluation to be done.
#[derive(Debug, Clone)]
pub struct EvaluateJob {
    /// Model and data.
    pub spec: Arc<RunSpec>,
    /// The model, of `prepare`'s length.
    pub model: Vector,
}

/// A run's model before anybody trained it.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Names and shapes, in the order in which the tensors lie in the flat vector.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// The first weights, a function of the run's seed.
    pub initial: Vec<f32>,
    /// On how many examples this worker trains.
    pub examples: u64,
}

/// What an evaluation measured: counts and a sum, never data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Predictions made.
    pub predictions: u64,
    /// How many were right.
    pub correct: u64,
    /// Sum of the losses over the predictions.
    pub loss_sum: f64,
}

/// What a worker tells of its evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judged {
    /// The committed model.
    pub shared: Scores,
    /// The worker's personal model, in a run that has them.
    pub personal: Option<Scores>,
    /// What the run asks for beyond that.
    pub details: Option<Details>,
}

/// Steps done and due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// Due.
    pub due: u64,
}

/// Called after each step; `Break` cancels before the next.
pub type Report<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Why a local run did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// No such data set here, or it cannot be read or divided.
    #[error("{0}")]
    Data(String),
    /// The model cannot be built for the data.
    #[error("{0}")]
    Model(String),
    /// Training failed.
    #[error("{0}")]
    Training(String),
    /// The report said so.
    #[error("cancelled")]
    Cancelled,
}

impl TrainError {
    /// What the coordinator is told; `None`: nothing, it is the one who cancelled.
    pub fn decline(&self) -> Option<DeclineReason> {
        match self {
            Self::Data(_) => Some(DeclineReason::Data),
            Self::Model(_) => Some(DeclineReason::Model),
            Self::Training(_) => Some(DeclineReason::Training),
            Self::Cancelled => None,
        }
    }
}

/// Trains and evaluates; a function of its arguments and of the worker's data: the same job gives the
/// same bytes. Runs on a thread that may block.
pub trait Train: Send {
    /// Loads what the run needs and says how many scalars its model has, before anything is fetched.
    ///
    /// # Errors
    /// If the data set or the model is not possible here.
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError>;

    /// Name and dimensions of the model's tensors, in the order in which they lie in the flat vector.
    ///
    /// # Errors
    /// As for [`Self::prepare`].
    fn tensors(&mut self, spec: &RunSpec) -> Result<Vec<(String, Vec<usize>)>, TrainError> {
        Ok(vec![("w".to_owned(), vec![self.prepare(spec)?])])
    }

    /// Does one local run.
    ///
    /// # Errors
    /// If the loss or the weights become infinite, or `report` cancels.
    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError>;

    /// A run's model before anybody trained it: what peers begin with, whom no coordinator tells.
    ///
    /// # Errors
    /// If the data set or the model is not possible here, or this trainer only trains what it is given.
    fn open(&mut self, spec: &RunSpec) -> Result<Opened, TrainError> {
        Err(TrainError::Model(format!("this trainer cannot begin the run `{}` by itself", spec.name)))
    }

    /// Lengths of the model's layers in its vector, for runs that clip them apart.
    ///
    /// # Errors
    /// If the model is not possible here, or this trainer knows none.
    fn layers(&mut self, spec: &RunSpec) -> Result<Vec<usize>, TrainError> {
        Err(TrainError::Model(format!("this trainer knows no layers of the run `{}`", spec.name)))
    }

    /// Takes a vector that is not needed any more, whose memory the next local run may use.
    fn reuse(&mut self, vector: Vec<f32>) {
        drop(vector);
    }

    /// Evaluates on the worker's held-out data.
    ///
    /// # Errors
    /// If there is none, or `report` cancels.
    fn evaluate(&mut self, job: &EvaluateJob, report: Report<'_>) -> Result<Scores, TrainError>;

    /// Which held-out examples are taken for what, and what calibration follows from; nothing where there is
    /// nothing to tell.
    ///
    /// # Errors
    /// As for [`Self::evaluate`].
    fn details(&mut self, _job: &EvaluateJob, _report: Report<'_>) -> Result<Details, TrainError> {
        Ok(Details::default())
    }
}
