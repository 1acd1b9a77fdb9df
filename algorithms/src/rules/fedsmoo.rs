//! FedSMOO: dynamic regularisation, and a perturbation that the workers agree on (Sun et al., "Dynamic
//! Regularized Sharpness Aware Minimization in Federated Learning", 2023), as the official code does
//! after its correction of October 2024.
//!
//! Each step, `e = ρ q/‖q‖` with `q = g − μ_i − s`, then `μ_i ← μ_i + e − s`; the server keeps
//! `s = ρ u/‖u‖` with u the mean of the μ_i. The server's s drops a term of the paper's, as the code
//! says.
//!
//! Traffic: 2d down, 2d up. Client state: h_i, μ_i (2d); h_i must survive restarts, a lost μ_i harms the
//! perturbation only. Server state: w, H, s (3d). Two gradients a step. With `rho = 0` it is FedDyn,
//! exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{DUAL, LocalPlan, Probe, norm},
    parts::{
        dynamic::{self, MEMORY},
        mean::{DELTA, add_error, delta_fold, server_vector, uniform_fold},
    },
    rule::{Settings, non_negative},
    scale, zeros,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Sun et al., ICML 2023, arXiv:2305.11584", ..Rule::of::<FedSmoo>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedSmoo {
    /// Regularisation λ (the paper's α), above 0.
    pub prox: f64,
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
}

impl Default for FedSmoo {
    fn default() -> Self {
        Self { prox: 0.1, rho: 0.1 }
    }
}

impl Settings for FedSmoo {
    const NAME: &'static str = "fedsmoo";

    fn check(&self) -> Result<(), ParamError> {
        dynamic::check(Self::NAME, self.prox)?;
        non_negative(Self::NAME, "rho", self.rho)
    }
}

impl<S: Scalar> Algorithm<S> for FedSmoo {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MEMORY, ANCHOR]
    }

    fn down(&self) -> &'static [&'static str] {
        &[ANCHOR]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        vec![(DELTA, d), (DUAL, d)]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform), uniform_fold(DUAL)]
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let anchor = down[ANCHOR].clone();
        let dual = zeros(state, DUAL, anchor.len());
        let probe = Probe::Dynamic { rho: S::of(self.rho), dual, anchor };
        let shift = dynamic::shift(state, self.prox);
        LocalPlan { shift, prox: S::of(self.prox), probe, ..LocalPlan::default() }
    }

    fn finish(&self, mut run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        let carried = run.carried.remove(DUAL);
        let dual = carried.unwrap_or_else(|| zeros(state, DUAL, down[ANCHOR].len()));
        let mut finished = dynamic::finish(run, state);
        finished.upload.insert(DUAL.to_owned(), Arc::clone(&dual));
        finished.next.insert(DUAL.to_owned(), dual);
        finished
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        dynamic::realign(next, error);
        add_error(next, DUAL, (S::ONE, error, DUAL));
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        dynamic::apply(server, mean, facts);
        let reach = self.rho / (norm(&mean[DUAL]) + 1e-7);
        let anchor = server_vector(server, ANCHOR);
        anchor.copy_from_slice(&mean[DUAL]);
        scale(anchor, S::of(reach));
    }
}

/// The name of s.
const ANCHOR: &str = "s";
