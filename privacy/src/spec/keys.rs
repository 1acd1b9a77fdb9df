//! What a section says, key by key.

use super::{AdaptiveSpec, Cap, Clipping, MechanismKind, Noise, PrivacySpec};
use crate::{Adjacency, ClipNorm, Sampling, Unit, metrics::MetricsSpec};

impl MechanismKind {
    /// Whether whoever holds the data adds the noise, before anything leaves.
    pub fn is_local(self) -> bool {
        matches!(self, Self::LocalGaussian | Self::DpSgd)
    }
}

impl PrivacySpec {
    /// Whose privacy.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Against what.
    pub fn adjacency(&self) -> Adjacency {
        self.adjacency
    }

    /// By what.
    pub fn mechanism(&self) -> MechanismKind {
        self.mechanism
    }

    /// The largest norm of a contribution; where the norm adapts, that of the first round.
    pub fn clip_norm(&self) -> ClipNorm {
        self.clip_norm
    }

    /// What that norm bounds.
    pub fn clipping(&self) -> Clipping {
        self.clipping
    }

    /// How much noise, or for which ε.
    pub fn noise(&self) -> Noise {
        self.noise
    }

    /// δ.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Who takes part in a round, or in a step of DP-SGD.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// The cap on rounds of one unit.
    pub fn participation(&self) -> Option<Cap> {
        self.participation
    }

    /// How the norm adapts.
    pub fn adaptive(&self) -> Option<AdaptiveSpec> {
        self.adaptive
    }

    /// What is told of a round beside its model.
    pub fn metrics(&self) -> Option<MetricsSpec> {
        self.metrics
    }

    /// Whether nobody sees a model before the last. It never gates a run.
    pub fn hidden_state(&self) -> bool {
        self.hidden_state
    }
}
