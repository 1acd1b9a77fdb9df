//! FedADMM: FedPD with a part of the workers in a round.
//!
//! * `form = "mean"` (default): the server takes the mean of the amended models of the round's workers
//!   (Wang, Marella and Anderson, "FedADMM: A Federated Primal-Dual Algorithm Allowing Partial
//!   Participation", 2022). It may oscillate when workers take turns; one worker a round diverges for a
//!   small ρ.
//! * `form = "tracking"`: the server follows the mean *change* of the amended models, `2 Δ̄` (Gong, Li
//!   and Freris, "FedADMM: A Robust Federated Deep Learning Framework with Adaptivity to System
//!   Heterogeneity", 2022).
//!
//! Traffic: d down, d up. Client state: h_i = λ_i/ρ (d); a lost one heals by itself, for the server has
//! no memory. Server state: w.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        amended, dynamic,
        mean::{DELTA, delta_fold, move_model},
    },
    rule::{Settings, non_negative, positive},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Wang, Marella and Anderson, CDC 2022, arXiv:2203.15104", ..Rule::of::<FedAdmm>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdmm {
    /// `mean` or `tracking`.
    pub form: Form,
    /// Penalty ρ, above 0.
    pub prox: f64,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedAdmm {
    fn default() -> Self {
        Self { form: Form::Mean, prox: 0.1, server_lr: 1.0 }
    }
}

impl Settings for FedAdmm {
    const NAME: &'static str = "fedadmm";

    fn check(&self) -> Result<(), ParamError> {
        positive(Self::NAME, "prox", self.prox)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedAdmm {
    fn has_client_state(&self) -> bool {
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
        match self.form {
            Form::Mean => amended::finish(run, state),
            Form::Tracking => dynamic::finish(run, state),
        }
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        if self.form == Form::Tracking {
            dynamic::realign(next, error);
        }
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        let times = match self.form {
            Form::Mean => S::ONE,
            Form::Tracking => S::of(2.0),
        };
        move_model(server, times * S::of(self.server_lr), &mean[DELTA]);
    }
}

/// What the server does with the amended models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Takes their mean.
    #[default]
    Mean,
    /// Moves by the mean of their changes.
    Tracking,
}
