//! A line of a simulation's `metrics.jsonl`: the coordinator's, and what only a simulation can know.

use proto::event::Metrics;
use serde::{Deserialize, Serialize};

/// One round. Every field but those of [`Metrics`] is null where the round was not evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// As a coordinator writes it; `seconds` are virtual.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Top-1 ℓ2 calibration error on the held-out set, debiased.
    #[serde(default)]
    pub ece: Option<f64>,
    /// Where its 95 % confidence interval begins.
    #[serde(default)]
    pub ece_low: Option<f64>,
    /// Where it ends.
    #[serde(default)]
    pub ece_high: Option<f64>,
    /// Accuracy to expect on each client's mix of labels, mean over clients.
    #[serde(default)]
    pub client_accuracy: Option<f64>,
    /// The same, mean over the tenth of the clients that fares worst.
    #[serde(default)]
    pub client_accuracy_worst_decile: Option<f64>,
    /// The same, variance over clients.
    #[serde(default)]
    pub client_accuracy_variance: Option<f64>,
}

impl Line {
    /// A round that was not evaluated yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ece: None,
            ece_low: None,
            ece_high: None,
            client_accuracy: None,
            client_accuracy_worst_decile: None,
            client_accuracy_variance: None,
        }
    }
}
