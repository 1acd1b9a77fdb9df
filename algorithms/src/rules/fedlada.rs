//! FedLADA: local AMSGrad whose second moment is shared, amended by the mean direction of the last round
//! (Sun et al., "Efficient Federated Learning via Local Adaptive Amended Optimizer with Linear Speedup",
//! 2023, Algorithm 1). See `local::Update::Amsgrad` for the step.
//!
//! Traffic: 3d down (w, v, g_a), 2d up: the server derives g_a from the changes. Client state: none.
//! Server state: w, v, g_a (3d). Elements of v̂ must stay below 128 to be counted; clip the gradients.
//! With `alpha = 0` the model never moves. A local learning rate of an adaptive method belongs here
//! (0.003 in a published port).

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{LocalPlan, SECOND, Update},
    parts::mean::{
        DELTA, delta_fold, direction_fold, move_model, server_vector, uniform_fold, upload_delta,
    },
    rule::{Settings, decay, non_negative, within},
    scale,
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Sun et al., 2023, arXiv:2308.00522", ..Rule::of::<FedLada>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedLada {
    /// Share α of the adaptive step, 0 to 1; the rest follows g_a.
    pub alpha: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Decay β₂ of the second moment.
    pub beta2: f64,
    /// ε: v starts at ε², which bounds every step.
    pub epsilon: f64,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedLada {
    fn default() -> Self {
        Self { alpha: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.01, server_lr: 1.0 }
    }
}

impl Settings for FedLada {
    const NAME: &'static str = "fedlada";

    fn check(&self) -> Result<(), ParamError> {
        within((Self::NAME, "alpha"), self.alpha, |alpha| (0.0..=1.0).contains(&alpha), "0 to 1")?;
        decay(Self::NAME, "beta1", self.beta1)?;
        decay(Self::NAME, "beta2", self.beta2)?;
        // Its square must not vanish, and its mean is taken in steps of 2^-43.
        within((Self::NAME, "epsilon"), self.epsilon, |epsilon| (1e-5..=10.0).contains(&epsilon), "1e-5 to 10")?;
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedLada {
    fn server_vectors(&self) -> &'static [&'static str] {
        &[SECOND, GLOBAL]
    }

    fn initial(&self, name: &str) -> S {
        if name == SECOND { S::of(self.epsilon) * S::of(self.epsilon) } else { S::ZERO }
    }

    fn down(&self) -> &'static [&'static str] {
        &[SECOND, GLOBAL]
    }

    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        vec![(DELTA, d), (SECOND, d)]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform), uniform_fold(SECOND), direction_fold(GLOBAL)]
    }

    fn plan(&self, down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        let update = Update::Amsgrad {
            beta1: S::of(self.beta1),
            beta2: S::of(self.beta2),
            mix: S::of(self.alpha),
            second: down[SECOND].clone(),
            global: down[GLOBAL].clone(),
        };
        LocalPlan { update, ..LocalPlan::default() }
    }

    fn finish(&self, mut run: LocalRun<S>, down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        let second = run.carried.remove(SECOND).unwrap_or_else(|| down[SECOND].clone());
        let mut finished = upload_delta(run);
        finished.upload.insert(SECOND.to_owned(), second);
        finished
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        move_model(server, S::of(self.server_lr), &mean[DELTA]);
        let floor = S::of(self.epsilon) * S::of(self.epsilon);
        for (v, mean) in server_vector(server, SECOND).iter_mut().zip(mean[SECOND].iter()) {
            // A lying worker must not make the honest ones divide by 0.
            *v = if *mean > floor { *mean } else { floor };
        }
        let global = server_vector(server, GLOBAL);
        global.copy_from_slice(&mean[GLOBAL]);
        scale(global, -S::ONE);
    }
}

/// The name of g_a.
const GLOBAL: &str = "g";
