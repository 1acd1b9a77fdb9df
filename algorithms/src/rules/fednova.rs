//! FedNova: workers that take more local steps do not pull harder (Wang et al., "Tackling the Objective
//! Inconsistency Problem in Heterogeneous Federated Optimization", 2020, eqs. 6 and 7, for local SGD).
//!
//! The mean of the changes *per step* moves the model, times the mean number of steps:
//! `w ← w + η_g τ Σ p_i Δ_i / K_i` with `τ = Σ p_i K_i`. With equal K_i it is FedAvg.
//!
//! Traffic: d down, d and a scalar up. Client state: none. Server state: w.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Scale, Weighting},
    local::LocalPlan,
    parts::mean::{DELTA, move_model, named},
    rule::{Settings, non_negative},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Wang et al., NeurIPS 2020, arXiv:2007.07481", ..Rule::of::<FedNova>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedNova {
    /// How clients count in the mean: `examples` or `uniform`.
    pub weighting: Weighting,
    /// Server learning rate η_g.
    pub server_lr: f64,
}

impl Default for FedNova {
    fn default() -> Self {
        Self { weighting: Weighting::Examples, server_lr: 1.0 }
    }
}

impl Settings for FedNova {
    const NAME: &'static str = "fednova";

    fn check(&self) -> Result<(), ParamError> {
        non_negative(Self::NAME, "server_lr", self.server_lr)
    }
}

impl<S: Scalar> Algorithm<S> for FedNova {
    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        vec![(DELTA, d), (STEPS, 1)]
    }

    fn folds(&self) -> Vec<Fold> {
        let Self { weighting, .. } = *self;
        vec![
            Fold { into: PER_STEP, from: DELTA, weighting, scale: Scale::InverseSteps },
            Fold { into: STEPS, from: STEPS, weighting, scale: Scale::One },
        ]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan::default()
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        let steps = S::of(f64::from(run.steps) / UNIT);
        Finished { upload: named([(DELTA, run.into_delta()), (STEPS, vec![steps])]), next: Vectors::new() }
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        let steps = mean[STEPS][0] * S::of(UNIT);
        move_model(server, S::of(self.server_lr) * steps, &mean[PER_STEP]);
    }
}

const PER_STEP: &str = "per_step";
const STEPS: &str = "steps";
/// Steps are sent in units that keep 131,072 of them within the range of a fold.
const UNIT: f64 = 1_024.0;
