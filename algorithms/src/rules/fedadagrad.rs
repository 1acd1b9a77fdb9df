//! FedAdagrad: the server takes Adagrad's step along the mean change (Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2).
//!
//! `v ← v + Δ̄²`; see `parts/moments.rs` for the step. The paper has β₁ = 0.
//!
//! Traffic: d down, d up. Client state: none. Server state: w, m, v (3d).

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
pub const RULE: Rule = Rule { citation: "Reddi et al., ICLR 2021, arXiv:2003.00295", ..Rule::of::<FedAdagrad>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdagrad {
    /// Server learning rate η_g.
    pub server_lr: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Adaptivity τ, above 0.
    pub tau: f64,
    /// `reddi`: v starts at τ², or `fl-simulator`: at 0.
    pub form: Form,
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
}

impl Default for FedAdagrad {
    fn default() -> Self {
        Self { server_lr: 0.1, beta1: 0.0, tau: 1e-3, form: Form::Reddi, weighting: Weighting::Examples }
    }
}

impl Settings for FedAdagrad {
    const NAME: &'static str = "fedadagrad";

    fn check(&self) -> Result<(), ParamError> {
        moments::check(Self::NAME, self.server_lr, [("beta1", self.beta1), ("beta2", 0.0)], self.tau)
    }
}

impl<S: Scalar> Algorithm<S> for FedAdagrad {
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
        moments::apply(server, mean, [self.server_lr, self.beta1, self.tau], |v, d2| v + d2);
    }
}
