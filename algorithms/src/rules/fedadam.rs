//! FedAdam: the server takes Adam's step along the mean change (Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2).
//!
//! `v ← β₂ v + (1−β₂) Δ̄²`, no bias correction; see `parts/moments.rs` for the step.
//!
//! Traffic: d down, d up. Client state: none. Server state: w, m, v (3d). FL-Simulator's code
//! is `form = "fl-simulator"`, `tau = 0.01`.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::LocalPlan,
    parts::{
        mean::{delta_fold, upload_delta},
        moments::{self, Form, MOMENTS},
    },
    rule::Settings,
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Reddi et al., ICLR 2021, arXiv:2003.00295", ..Rule::of::<FedAdam>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdam {
    /// Server learning rate η_g.
    pub server_lr: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Decay β₂ of the second moment.
    pub beta2: f64,
    /// Adaptivity τ, above 0.
    pub tau: f64,
    /// `reddi`: v starts at τ², or `fl-simulator`: at 0.
    pub form: Form,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
}

impl Default for FedAdam {
    fn default() -> Self {
        Self { server_lr: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3, form: Form::Reddi, weighting: Weighting::Examples }
    }
}

impl Settings for FedAdam {
    const NAME: &'static str = "fedadam";

    fn check(&self) -> Result<(), ParamError> {
        moments::check(Self::NAME, self.server_lr, [("beta1", self.beta1), ("beta2", self.beta2)], self.tau)
    }
}

impl<S: Scalar> Algorithm<S> for FedAdam {
    fn server_vectors(&self) -> &'static [&'static str] {
        MOMENTS
    }

    fn initial(&self, name: &str) -> S {
        self.form.initial(name, self.tau)
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(self.weighting)]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan::default()
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        upload_delta(run)
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        let beta2 = S::of(self.beta2);
        moments::apply(server, mean, [self.server_lr, self.beta1, self.tau], |v, d2| beta2 * v + (S::ONE - beta2) * d2);
    }
}
