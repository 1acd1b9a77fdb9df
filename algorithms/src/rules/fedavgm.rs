//! FedAvgM: the server adds momentum to the mean change (Hsu, Qi and Brown, "Measuring the Effects of
//! Non-Identical Data Distribution for Federated Visual Classification", 2019, §4):
//! `v ← β v + Δ̄`, `w ← w + η_g v`.
//!
//! Traffic: d down, d up. Client state: none. Server state: w, v (2d). With `momentum = 0` it is
//! FedAvg, exactly. The limit of a constant mean change is `η_g / (1 − β)` of it in each round: with a
//! large β choose η_g below 1.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    axpy,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::mean::{DELTA, delta_fold, move_model, server_vector, upload_delta},
    rule::{Settings, decay, non_negative},
    scale,
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Hsu, Qi and Brown, 2019, arXiv:1909.06335", ..Rule::of::<FedAvgM>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAvgM {
    /// Momentum β, at least 0 and below 1.
    pub momentum: f64,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedAvgM {
    fn default() -> Self {
        Self { momentum: 0.9, weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedAvgM {
    const NAME: &'static str = "fedavgm";

    fn check(&self) -> Result<(), ParamError> {
        decay(Self::NAME, "momentum", self.momentum)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedAvgM {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[VELOCITY]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.weighting)]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan::default()
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        let velocity = server_vector(server, VELOCITY);
        scale(velocity, S::of(self.momentum));
        axpy(velocity, S::ONE, &mean[DELTA]);
        let velocity = server[VELOCITY].clone();
        move_model(server, S::of(self.server_lr), &velocity);
    }
}

const VELOCITY: &str = "v";
