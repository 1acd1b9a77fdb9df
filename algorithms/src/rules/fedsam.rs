//! FedSAM: local gradients are taken where the loss is worst nearby, which finds flatter minima (Qu et
//! al., "Generalized Federated Learning via Sharpness Aware Minimization", 2022, Algorithm 1; Caldarola
//! et al. 2022).
//!
//! Traffic: d down, d up. Client state: none. Server state: w. Two gradients a step. With `rho = 0` it
//! is FedAvg, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{LocalPlan, Probe},
    parts::mean::{DELTA, delta_fold, move_model, upload_delta},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Qu et al., ICML 2022, arXiv:2206.02618", ..Rule::of::<FedSam>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedSam {
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedSam {
    fn default() -> Self {
        Self { rho: 0.1, weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedSam {
    const NAME: &'static str = "fedsam";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "rho", self.rho)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedSam {
    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.weighting)]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan { probe: Probe::ascent(S::of(self.rho)), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        move_model(server, S::of(self.server_lr), &mean[DELTA]);
    }
}
