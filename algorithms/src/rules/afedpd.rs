//! A-FedPD: absent workers get the dual update that the mean of the present ones stands for, so that
//! duals do not drift from the model (Sun et al., "A-FedPD: Aligning Dual-Drift is All Federated
//! Primal-Dual Learning Needs", 2024), in the form of `parts/aligned.rs` that costs nothing for absent
//! workers.
//!
//! Traffic: 2d down, 3d for a worker that was counted before; d up. Client state: λ_i (d), which must
//! survive restarts. Server state: w, Λ (2d), and on disk Λ as it was after each round that is some
//! worker's last. With everybody it is FedDyn with λ = ρ. With one worker a round all duals stay
//! identical and nothing about the workers is learnt: use two or more.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        aligned::{self, DUAL, THEN},
        mean::delta_fold,
    },
    rule::{Settings, positive},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Sun et al., NeurIPS 2024, arXiv:2409.18915", ..Rule::of::<AFedPd>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AFedPd {
    /// Penalty ρ, above 0.
    pub prox: f64,
}

impl Default for AFedPd {
    fn default() -> Self {
        Self { prox: 0.1 }
    }
}

impl Settings for AFedPd {
    const NAME: &'static str = "afedpd";

    fn check(&self) -> Result<(), ParamError> {
        positive(Self::NAME, "prox", self.prox)
    }
}

impl<S: Scalar> Algorithm<S> for AFedPd {
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
        LocalPlan { shift, prox: S::of(self.prox), ..LocalPlan::default() }
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
