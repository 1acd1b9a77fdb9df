//! SCAFFOLD: control variates correct client drift (Karimireddy et al., "SCAFFOLD: Stochastic
//! Controlled Averaging for Federated Learning", 2020, Algorithm 1, option II), in the thin form.
//!
//! `c_i⁺ − c_i = −c − Δ_i / (K_i η)` does not involve `c_i`, so the server derives the new control
//! variate from the uploads that it already has: one vector up instead of two,
//! `c ← (1 − q) c − (1/N) Σ_S Δ_i / (K_i η)` with `q = |S|/N`.
//!
//! Traffic: 2d down, d up. Client state: c_i (d), which must survive restarts: a lost c_i biases the
//! limit for ever. Invariant: the mean of all c_i equals c.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Vectors, axpy,
    fold::{Fold, Scale, Weighting},
    local::LocalPlan,
    rule::{non_negative, params_of, parse},
    rules::fedavg::{delta_fold, move_model, server_vector},
    zeros,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule {
    name: "scaffold",
    citation: "Karimireddy et al., ICML 2020, arXiv:1910.06378",
    make: |params| {
        let config: Config = parse("scaffold", params)?;
        config.build().map(|rule| Box::new(rule) as Box<dyn Algorithm>)
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Server learning rate η_g.
    pub server_lr: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { server_lr: 1.0 }
    }
}

impl Config {
    fn build(self) -> Result<Scaffold, ParamError> {
        non_negative("scaffold", "server_lr", self.server_lr)?;
        Ok(Scaffold(self))
    }
}

#[derive(Debug)]
struct Scaffold(Config);

const CONTROL: &str = "c";
const DIRECTION: &str = "direction";

impl Algorithm for Scaffold {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn down(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn folds(&self) -> Vec<Fold> {
        let direction =
            Fold { into: DIRECTION, from: "delta", weighting: Weighting::Uniform, scale: Scale::InverseStepsLr };
        vec![delta_fold(Weighting::Uniform), direction]
    }

    fn plan(&self, down: &Vectors, state: &Vectors) -> LocalPlan {
        let mut shift = down[CONTROL].as_ref().clone();
        if let Some(own) = state.get(CONTROL) {
            axpy(&mut shift, -1.0, own);
        }
        LocalPlan { shift: Some(Arc::new(shift)), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun, down: &Vectors, state: &Vectors) -> Finished {
        let to_gradient = -1.0 / (run.steps.max(1) as f32 * run.lr);
        let delta = run.into_delta();
        let mut own = zeros(state, CONTROL, delta.len()).as_ref().clone();
        axpy(&mut own, -1.0, &down[CONTROL]);
        axpy(&mut own, to_gradient, &delta);
        Finished {
            upload: Vectors::from([("delta".to_owned(), Arc::new(delta))]),
            next: Vectors::from([(CONTROL.to_owned(), Arc::new(own))]),
        }
    }

    fn apply(&self, server: &mut Vectors, mean: &Vectors, facts: &RoundFacts) {
        move_model(server, self.0.server_lr, &mean["delta"]);
        let control = server_vector(server, CONTROL);
        crate::scale(control, facts.growth() - facts.share());
        axpy(control, -facts.share(), &mean[DIRECTION]);
    }
}
