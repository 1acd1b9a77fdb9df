//! A-FedPDSAM: A-FedPD whose local gradients are taken where the loss is worst nearby (Sun et al.,
//! "A-FedPD: Aligning Dual-Drift is All Federated Primal-Dual Learning Needs", 2024).
//!
//! Traffic and state as A-FedPD's: 2d down, 3d for a worker that was counted before; d up. Client state:
//! λ_i (d), which must survive restarts. Server state: w, Λ (2d). Two gradients a step. With `rho = 0`
//! it is A-FedPD, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{LocalPlan, Probe},
    parts::{
        aligned::{self, DUAL, THEN},
        mean::delta_fold,
    },
    rule::{Settings, non_negative, positive},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Sun et al., NeurIPS 2024, arXiv:2409.18915", ..Rule::of::<AFedPdSam>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AFedPdSam {
    /// Penalty ρ, above 0.
    pub prox: f64,
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
}

impl Default for AFedPdSam {
    fn default() -> Self {
        Self { prox: 0.1, rho: 0.1 }
    }
}

impl Settings for AFedPdSam {
    const NAME: &'static str = "afedpdsam";

    fn check(&self) -> Result<(), ParamError> {
        positive(Self::NAME, "prox", self.prox)?;
        non_negative(Self::NAME, "rho", self.rho)
    }
}

impl<S: Scalar> Algorithm<S> for AFedPdSam {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[DUAL]
    }

    fn down(&self) -> &'static [&'static str] {
        &[DUAL]
    }

    fn recalled(&self) -> &'static [(&'static str, &'static str)] {
        &[(DUAL, THEN)]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let shift = Some(Arc::new(aligned::dual(down, state)));
        LocalPlan { shift, prox: S::of(self.prox), probe: Probe::ascent(S::of(self.rho)), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        aligned::finish(run, aligned::dual(down, state), self.prox)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        aligned::realign(next, error, self.prox);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        aligned::apply(server, mean, self.prox);
    }
}
