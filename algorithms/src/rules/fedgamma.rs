//! FedGamma: SCAFFOLD whose local gradients are taken where the loss is worst nearby (Dai et al.,
//! "FedGAMMA: Federated Learning With Global Sharpness-Aware Minimization", 2023). The ascent follows
//! the local gradient alone; the correction is added afterwards.
//!
//! Traffic: 2d down, d up. Client state: c_i (d), which must survive restarts. Server state: w, c (2d).
//! Two gradients a step. With `rho = 0` it is SCAFFOLD, exactly.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::Fold,
    local::{LocalPlan, Probe},
    parts::control::{self, CONTROL},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Dai et al., IEEE TNNLS 2023, doi:10.1109/TNNLS.2023.3304453", ..Rule::of::<FedGamma>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedGamma {
    /// Radius ρ of the perturbation; 0: none.
    pub rho: f64,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedGamma {
    fn default() -> Self {
        Self { rho: 0.01, server_lr: 1.0 }
    }
}

impl Settings for FedGamma {
    const NAME: &'static str = "fedgamma";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "rho", self.rho)?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedGamma {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn down(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        &[CONTROL]
    }

    fn folds(&self) -> Vec<Fold> {
        control::folds()
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let probe = Probe::ascent(S::of(self.rho));
        LocalPlan { shift: Some(control::shift(down, state)), probe, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        control::finish(run, down, state)
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, run: (u32, S)) {
        control::realign(next, error, run);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        control::apply(server, mean, facts, self.server_lr);
    }
}
