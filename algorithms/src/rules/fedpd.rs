//! FedPD: every worker solves an augmented Lagrangian, and the amended models of *all* workers are
//! averaged (Zhang et al., "FedPD: A Federated Learning Framework with Adaptivity to Non-IID Data", 2021,
//! Algorithm 1, communicating in every round). See `parts/amended.rs`.
//!
//! Traffic: d down, d up. Client state: h_i = λ_i/ρ (d); a lost one heals by itself, for the server has
//! no memory. Server state: w. A run with a part of the workers in a round is refused: that is FedADMM.
//! With everybody it is FedDyn with λ = ρ.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        amended, dynamic,
        mean::{DELTA, delta_fold, move_model},
    },
    rule::{Settings, positive},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Zhang et al., IEEE TSP 2021, arXiv:2005.11418", ..Rule::of::<FedPd>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedPd {
    /// Penalty ρ, above 0.
    pub prox: f64,
}

impl Default for FedPd {
    fn default() -> Self {
        Self { prox: 0.1 }
    }
}

impl Settings for FedPd {
    const NAME: &'static str = "fedpd";

    fn check(&self) -> Result<(), ParamError> {
        positive(Self::NAME, "prox", self.prox)
    }
}

impl<S: Scalar> Algorithm<S> for FedPd {
    fn has_client_state(&self) -> bool {
        true
    }

    fn needs_everyone(&self) -> bool {
        true
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn plan(&self, _down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let shift = dynamic::shift(state, self.prox);
        LocalPlan { shift, prox: S::of(self.prox), ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        amended::finish(run, state)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        move_model(server, S::ONE, &mean[DELTA]);
    }
}
