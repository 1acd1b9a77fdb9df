//! FedSpeed: dynamic regularisation with gradients from an ascent step (Sun et al., "FedSpeed: Larger
//! Local Interval, Less Communication Round, and Higher Generalization Accuracy", 2023).
//!
//! * `form = "code"` (default), as the official code does: FedDyn with SAM. The server adds the mean of
//!   the duals of *all* workers.
//! * `form = "paper"`: gradient `(1−α) g(w) + α g(w + ρ g(w))`, not normalised, and the server averages
//!   amended models of the *round's* workers. The author confirmed the difference (FL-Simulator, issue
//!   6). With a part of the workers in a round this form oscillates: on two of four workers it stays
//!   1.2 away from an optimum that the code's form reaches to 5e-16.
//!
//! Traffic: d down, d up. Client state: h_i (d), which must survive restarts in the code's form. Server
//! state: w, H (2d; the paper's form leaves H at 0). Two gradients a step. With `rho = 0` the code's
//! form is FedDyn, the paper's form FedADMM, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{LocalPlan, Probe},
    parts::{
        amended,
        dynamic::{self, MEMORY},
        mean::{DELTA, delta_fold, move_model},
    },
    rule::{Settings, non_negative, within},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Sun et al., ICLR 2023, arXiv:2302.10429", ..Rule::of::<FedSpeed>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedSpeed {
    /// `code` or `paper`.
    pub form: Form,
    /// λ, above 0; the paper's own λ is its inverse.
    pub prox: f64,
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
    /// Share α of the second gradient, 0 to 1; `paper` only.
    pub alpha: f64,
}

impl Default for FedSpeed {
    fn default() -> Self {
        Self { form: Form::Code, prox: 0.1, rho: 0.1, alpha: 1.0 }
    }
}

impl Settings for FedSpeed {
    const NAME: &'static str = "fedspeed";

    fn check(&self) -> Result<(), ParamError> {
        dynamic::check(Self::NAME, self.prox)?;
        non_negative(Self::NAME, "rho", self.rho)?;
        within((Self::NAME, "alpha"), self.alpha, |alpha| (0.0..=1.0).contains(&alpha), "0 to 1")
    }
}

impl<S: Scalar> Algorithm<S> for FedSpeed {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[MEMORY]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        match self.form {
            Form::Code => &[MEMORY],
            Form::Paper => &[],
        }
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform)]
    }

    fn plan(&self, _down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let rho = S::of(self.rho);
        let probe = match self.form {
            Form::Code => Probe::ascent(rho),
            Form::Paper => Probe::merged(rho, S::of(self.alpha)),
        };
        let shift = dynamic::shift(state, self.prox);
        LocalPlan { shift, prox: S::of(self.prox), probe, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        match self.form {
            Form::Code => dynamic::finish(run, state),
            Form::Paper => amended::finish(run, state),
        }
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, _run: (u32, S)) {
        if self.form == Form::Code {
            dynamic::realign(next, error);
        }
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        match self.form {
            Form::Code => dynamic::apply(server, mean, facts),
            Form::Paper => move_model(server, S::ONE, &mean[DELTA]),
        }
    }
}

/// Whose rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// That of the official code.
    #[default]
    Code,
    /// That of the paper.
    Paper,
}
