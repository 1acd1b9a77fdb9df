//! FedDyn: a dynamic regulariser makes the local optima agree with the global one (Acar et al.,
//! "Federated Learning Based on Dynamic Regularization", 2021, Algorithm 1), in the thin form of
//! `parts/dynamic.rs`.
//!
//! Traffic: d down, d up. Client state: h_i (d), which must survive restarts. Server state: w, H (2d).
//! `prox = 0` is *not* FedAvg: the server still adds H, so 0 is refused.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        dynamic::{self, MEMORY},
        mean::delta_fold,
    },
    rule::Settings,
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Acar et al., ICLR 2021, arXiv:2111.04263", ..Rule::of::<FedDyn>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedDyn {
    /// Regularisation λ (the paper's α), above 0.
    pub prox: f64,
}

impl Default for FedDyn {
    fn default() -> Self {
        Self { prox: 0.1 }
    }
}

impl Settings for FedDyn {
    const NAME: &'static str = "feddyn";

    fn check(&self) -> Result<(), ParamError> {
        dynamic::check(Self::NAME, self.prox)
    }
}

impl<S: Scalar> Algorithm<S> for FedDyn {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn plan(&self, _down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let shift = dynamic::shift(state, self.prox);
        LocalPlan { shift, prox: S::of(self.prox), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        dynamic::finish(run, state)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        dynamic::realign(next, error);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        dynamic::apply(server, mean, facts);
    }
}
