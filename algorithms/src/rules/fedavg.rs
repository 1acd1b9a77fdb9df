//! FedAvg: the mean of the local changes (McMahan et al., "Communication-Efficient Learning of Deep
//! Networks from Decentralized Data", 2017, Algorithm 1).
//!
//! Traffic: d down, d up. Client state: none. Server state: w.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::mean::{DELTA, delta_fold, move_model, upload_delta},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "McMahan et al., AISTATS 2017, arXiv:1602.05629", ..Rule::of::<FedAvg>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAvg {
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedAvg {
    fn default() -> Self {
        Self { weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedAvg {
    const NAME: &'static str = "fedavg";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedAvg {
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
        move_model(server, S::of(self.server_lr), &mean[DELTA]);
    }
}
