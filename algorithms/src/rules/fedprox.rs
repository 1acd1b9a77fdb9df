//! FedProx: local steps are pulled back to the round's start (Li et al., "Federated Optimization in
//! Heterogeneous Networks", 2020, Algorithm 2, with a fixed number of local steps).
//!
//! Traffic: d down, d up. Client state: none. With `prox = 0` it is FedAvg, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::mean::{DELTA, delta_fold, move_model, upload_delta},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Li et al., MLSys 2020, arXiv:1812.06127", ..Rule::of::<FedProx>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedProx {
    /// Prox coefficient λ; unstable once `lr · (prox + weight_decay) > 2`.
    pub prox: f64,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedProx {
    fn default() -> Self {
        Self { prox: 0.1, weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedProx {
    const NAME: &'static str = "fedprox";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "prox", self.prox)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedProx {
    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.weighting)]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan { prox: S::of(self.prox), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        move_model(server, S::of(self.server_lr), &mean[DELTA]);
    }
}
