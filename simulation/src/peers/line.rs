//! A line of `metrics.jsonl` of simulated peers: what a federation's has, with means over the peers, and what
//! tells how far they are apart.

use proto::event::Metrics;
use serde::{Deserialize, Serialize};

/// One round of all peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `participants` are the peers, loss and accuracy of evaluation are means over the peers' own models on the
    /// whole held-out set, `bytes_up` is what all of them sent, `model_digest` is the consensus model's, seconds
    /// are virtual.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Accuracy of the worst peer's model.
    pub worst_accuracy: Option<f64>,
    /// Accuracy of the consensus model, `Σ w z / Σ w`.
    pub consensus_accuracy: Option<f64>,
    /// Its mean loss.
    pub consensus_loss: Option<f64>,
    /// `(1/n) Σ‖z_i − z̄‖²`, from sketches, as peers estimate it; of large models only near evaluated rounds.
    pub consensus_distance: Option<f64>,
    /// What the topology makes of the changes of the last rounds.
    pub consensus_predicted: Option<f64>,
    /// Σ w.
    pub mass: f64,
    /// The least mass of a peer.
    pub w_min: f64,
    /// The largest.
    pub w_max: f64,
}
