//! FedLESAM: the ascent direction of sharpness-aware minimisation is estimated by the difference between the
//! model that a worker received last time and the one it receives now: one gradient a step (Fan et al.,
//! "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated
//! Sharpness-aware Minimization", 2024). See `parts/estimated.rs` for what the public code does instead.
//!
//! Traffic: d down, d up. Client state: the model received last (d); without it a round has no
//! perturbation, which is harmless. Server state: w. With `rho = 0` it is FedAvg, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        estimated,
        mean::{DELTA, delta_fold, move_model, upload_delta},
    },
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Fan et al., ICML 2024, arXiv:2405.18890", ..Rule::of::<FedLesam>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedLesam {
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedLesam {
    fn default() -> Self {
        Self { rho: 0.1, weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedLesam {
    const NAME: &'static str = "fedlesam";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "rho", self.rho)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedLesam {
    fn has_client_state(&self) -> bool {
        true
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.weighting)]
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan { probe: estimated::probe(down, state, self.rho), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        estimated::keep(upload_delta(run), down)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        move_model(server, S::of(self.server_lr), &mean[DELTA]);
    }
}
