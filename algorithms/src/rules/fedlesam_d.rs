//! FedLESAM-D: the ascent direction of sharpness-aware minimisation is estimated by the difference between the
//! model that a worker received last time and the one it receives now: one gradient a step (Fan et al.,
//! "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated
//! Sharpness-aware Minimization", 2024). See `parts/estimated.rs` for what the public code does instead.
//!
//! The local objective is regularised as FedDyn's.
//!
//! Traffic: d down, d up. Client state: the model received last and h_i (2d); h_i must survive restarts.
//! Server state: w, H (2d). With `rho = 0` it is FedDyn, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        dynamic::{self, MEMORY},
        estimated,
        mean::delta_fold,
    },
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Fan et al., ICML 2024, arXiv:2405.18890", ..Rule::of::<FedLesamD>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedLesamD {
    /// Regularisation λ (the paper's α), above 0.
    pub prox: f64,
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
}

impl Default for FedLesamD {
    fn default() -> Self {
        Self { prox: 0.1, rho: 0.1 }
    }
}

impl Settings for FedLesamD {
    const NAME: &'static str = "fedlesam-d";

    fn check(&self) -> Result<(), ParamError> {
        dynamic::check(Self::NAME, self.prox)?;
        non_negative(Self::NAME, "rho", self.rho)
    }
}

impl<S: Scalar> Algorithm<S> for FedLesamD {
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

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let (shift, prox) = (dynamic::shift(state, self.prox), S::of(self.prox));
        LocalPlan { shift, prox, probe: estimated::probe(down, state, self.rho), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        estimated::keep(dynamic::finish(run, state), down)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        dynamic::realign(next, error);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        dynamic::apply(server, mean, facts);
    }
}
