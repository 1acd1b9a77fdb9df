//! SCAFFOLD: control variates correct client drift (Karimireddy et al., "SCAFFOLD: Stochastic
//! Controlled Averaging for Federated Learning", 2020, Algorithm 1, option II), in the thin form of
//! `parts/control.rs`.
//!
//! Traffic: 2d down, d up. Client state: c_i (d), which must survive restarts: a lost c_i biases the
//! limit for ever. Server state: w, c (2d). Invariant: the mean of all c_i equals c.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::Fold,
    local::LocalPlan,
    parts::control::{self, CONTROL},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Karimireddy et al., ICML 2020, arXiv:1910.06378", ..Rule::of::<Scaffold>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaffold {
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for Scaffold {
    fn default() -> Self {
        Self { server_lr: 1.0 }
    }
}

impl Settings for Scaffold {
    const NAME: &'static str = "scaffold";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for Scaffold {
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
        LocalPlan { shift: Some(control::shift(down, state)), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        control::finish(run, down, state)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, run: (u32, S)) {
        control::realign(next, error, run);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        control::apply(server, mean, facts, self.server_lr);
    }
}
