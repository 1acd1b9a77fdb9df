//! FedDyn: a dynamic regulariser makes the local optima agree with the global one (Acar et al.,
//! "Federated Learning Based on Dynamic Regularization", 2021, Algorithm 1), in the thin form.
//!
//! Local step with `v = λ h_i` and prox λ around the round's start; then `h_i ← h_i + Δ_i` (so
//! `−λ h_i` plays the part of the local gradient). Server: `H ← H + q Δ̄`, the mean of all h_i, and
//! `w ← w + Δ̄ + H`.
//!
//! Traffic: d down, d up. Client state: h_i (d), which must survive restarts. `prox = 0` is *not*
//! FedAvg: the server still adds H, so 0 is refused.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Vectors, axpy,
    fold::{Fold, Weighting},
    local::LocalPlan,
    rule::{params_of, parse},
    rules::fedavg::{delta_fold, move_model, server_vector},
    zeros,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule {
    name: "feddyn",
    citation: "Acar et al., ICLR 2021, arXiv:2111.04263",
    make: |params| {
        let config: Config = parse("feddyn", params)?;
        config.build().map(|rule| Box::new(rule) as Box<dyn Algorithm>)
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Regularisation λ (the paper's α), above 0.
    pub prox: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { prox: 0.1 }
    }
}

impl Config {
    fn build(self) -> Result<FedDyn, ParamError> {
        if self.prox.is_finite() && self.prox > 0.0 {
            return Ok(FedDyn(self));
        }
        let expected = "a finite number above 0 (0 is not FedAvg; use kind = \"fedavg\")";
        Err(ParamError::Range { rule: "feddyn", key: "prox", value: self.prox.to_string(), expected })
    }
}

#[derive(Debug)]
struct FedDyn(Config);

const MEMORY: &str = "h";

impl Algorithm for FedDyn {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn plan(&self, _down: &Vectors, state: &Vectors) -> LocalPlan {
        let shift = state.get(MEMORY).map(|own| {
            let mut shift = own.as_ref().clone();
            crate::scale(&mut shift, self.0.prox);
            Arc::new(shift)
        });
        LocalPlan { shift, prox: self.0.prox, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun, _down: &Vectors, state: &Vectors) -> Finished {
        let delta = run.into_delta();
        let mut own = zeros(state, MEMORY, delta.len()).as_ref().clone();
        axpy(&mut own, 1.0, &delta);
        Finished {
            upload: Vectors::from([("delta".to_owned(), Arc::new(delta))]),
            next: Vectors::from([(MEMORY.to_owned(), Arc::new(own))]),
        }
    }

    fn apply(&self, server: &mut Vectors, mean: &Vectors, facts: &RoundFacts) {
        let memory = server_vector(server, MEMORY);
        crate::scale(memory, facts.growth());
        axpy(memory, facts.share(), &mean["delta"]);
        let memory = server[MEMORY].clone();
        move_model(server, 1.0, &mean["delta"]);
        move_model(server, 1.0, &memory);
    }
}
