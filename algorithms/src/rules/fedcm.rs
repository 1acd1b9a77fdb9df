//! FedCM: local gradients are mixed with the mean direction of the last round (Xu et al., "FedCM:
//! Federated Learning with Client-level Momentum", 2021, Algorithm 2). See `parts/momentum.rs`.
//!
//! Traffic: 2d down, d up. Client state: none, so nothing can be lost: robust for workers that come and
//! go. Server state: w, M (2d). With `alpha = 1` it is uniform FedAvg, exactly. The first round moves
//! by `α η` only, for M is still 0.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::Fold,
    local::LocalPlan,
    parts::{
        mean::upload_delta,
        momentum::{self, MOMENTUM},
    },
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Xu et al., 2021, arXiv:2106.10874", ..Rule::of::<FedCm>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedCm {
    /// Share α of the local gradient, above 0 and at most 1.
    pub alpha: f64,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedCm {
    fn default() -> Self {
        Self { alpha: 0.1, server_lr: 1.0 }
    }
}

impl Settings for FedCm {
    const NAME: &'static str = "fedcm";

    fn check(&self) -> Result<(), ParamError> {
        momentum::check(Self::NAME, self.alpha)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedCm {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MOMENTUM]
    }

    fn down(&self) -> &'static [&'static str] {
        &[MOMENTUM]
    }

    fn folds(&self) -> Vec<Fold> {
        momentum::folds()
    }

    fn plan(&self, down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan {
            grad_scale: S::of(self.alpha),
            shift: Some(momentum::shift(down, self.alpha)),
            ..LocalPlan::default()
        }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        momentum::apply(server, mean, self.server_lr);
    }
}
