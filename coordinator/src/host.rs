//! What the coordinator needs of a training engine, as a trait: it knows models as flat vectors only,
//! so that the same coordinator serves real networks and the simulator's toy problems.

use proto::spec::RunSpec;

/// A model as the coordinator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostedModel {
    /// Names and shapes of the tensors, in their order in the flat vector.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Initial weights.
    pub initial: Vec<f32>,
}

/// Sums over held-out predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Right predictions.
    pub correct: u64,
    /// Predictions made.
    pub predictions: u64,
}

/// Opens and evaluates models. Called on blocking threads.
pub trait ModelHost: Send + Sync + 'static {
    /// The model of a run with its initial weights, or why it cannot be built.
    fn open(&self, spec: &RunSpec) -> Result<HostedModel, String>;

    /// Evaluates weights on the held-out set; `None` when there is none for the run's data here.
    fn evaluate(&self, spec: &RunSpec, w: &[f32]) -> Result<Option<Evaluation>, String>;
}
