//! FedLESAM-S: the ascent direction of sharpness-aware minimisation is estimated by the difference between the
//! model that a worker received last time and the one it receives now: one gradient a step (Fan et al.,
//! "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated
//! Sharpness-aware Minimization", 2024). See `parts/estimated.rs` for what the public code does instead.
//!
//! The gradients are corrected as SCAFFOLD's.
//!
//! Traffic: 2d down, d up. Client state: the model received last and c_i (2d); c_i must survive
//! restarts. Server state: w, c (2d). With `rho = 0` it is SCAFFOLD, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::Fold,
    local::LocalPlan,
    parts::{
        control::{self, CONTROL},
        estimated,
    },
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Fan et al., ICML 2024, arXiv:2405.18890", ..Rule::of::<FedLesamS>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedLesamS {
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedLesamS {
    fn default() -> Self {
        Self { rho: 0.1, server_lr: 1.0 }
    }
}

impl Settings for FedLesamS {
    const NAME: &'static str = "fedlesam-s";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "rho", self.rho)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedLesamS {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn down(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn folds(&self) -> Vec<Fold> {
        control::folds()
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let probe = estimated::probe(down, state, self.rho);
        LocalPlan { shift: Some(control::shift(down, state)), probe, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        estimated::keep(control::finish(run, down, state), down)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, run: (u32, S)) {
        control::realign(next, error, run);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        control::apply(server, mean, facts, self.server_lr);
    }
}
