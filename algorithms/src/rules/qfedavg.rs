//! q-FedAvg: workers with a high loss count more, for a fairer spread of accuracies (Li et al., "Fair
//! Resource Allocation in Federated Learning", 2020, Algorithm 2, with `L = 1/η`).
//!
//! With `F_i` the worker's loss at the round's start:
//! `w ← w + Σ F_i^q Δ_i / Σ ( q F_i^{q−1} ‖Δ_i‖²/η + F_i^q )`. With `q = 0` it is uniform FedAvg, exactly.
//!
//! Traffic: d down, d and a scalar up. Client state: none. Server state: w. A worker passes over its
//! examples once more, forward, for `F_i`.

use crate::{
    Algorithm, Finished, LocalRun, ParamError, RoundFacts, Rule, Scalar, Vectors,
    fold::{Fold, Weighting},
    local::{LocalPlan, norm},
    parts::mean::{DELTA, delta_fold, move_model, named, uniform_fold},
    rule::{Settings, within},
    scale,
};
use libm::pow;
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const RULE: Rule = Rule { citation: "Li et al., ICLR 2020, arXiv:1905.10497", ..Rule::of::<QFedAvg>() };

/// Keys under `[algorithm]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QFedAvg {
    /// Fairness q: 0 counts all alike, the larger the fairer.
    pub q: f64,
}

impl Default for QFedAvg {
    fn default() -> Self {
        Self { q: 1.0 }
    }
}

impl Settings for QFedAvg {
    const NAME: &'static str = "qfedavg";

    fn check(&self) -> Result<(), ParamError> {
        within((Self::NAME, "q"), self.q, |q| (0.0..=16.0).contains(&q), "0 to 16")
    }
}

impl<S: Scalar> Algorithm<S> for QFedAvg {
    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        vec![(DELTA, d), (NORMALISER, 1)]
    }

    fn folds(&self) -> Vec<Fold> {
        vec![delta_fold(Weighting::Uniform), uniform_fold(NORMALISER)]
    }

    fn plan(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> LocalPlan<S> {
        LocalPlan { start_loss: true, ..LocalPlan::default() }
    }

    fn finish(&self, run: LocalRun<S>, _down: &Vectors<S>, _state: &Vectors<S>) -> Finished<S> {
        // Without data there is no loss, and nothing that would be more or less fair.
        let loss = run.start_loss.map_or(1.0, |loss| loss.max(0.0)) + LOSS_MIN;
        let (weight, lr) = (pow(loss, self.q), run.lr.wide());
        let mut delta = run.into_delta();
        let squares = norm(&delta) * norm(&delta);
        let normaliser = (self.q * pow(loss, self.q - 1.0) * squares / lr + weight) / UNIT;
        scale(&mut delta, S::of(weight));
        let upload = named([(DELTA, delta), (NORMALISER, vec![S::of(normaliser)])]);
        Finished { upload, next: Vectors::new() }
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, _facts: &RoundFacts) {
        let normaliser = mean[NORMALISER][0].wide() * UNIT;
        if normaliser > 0.0 {
            move_model(server, S::of(1.0 / normaliser), &mean[DELTA]);
        }
    }
}

const NORMALISER: &str = "normaliser";
/// Keeps `F^{q−1}` finite for a worker that has nothing left to learn.
const LOSS_MIN: f64 = 1e-10;
/// The normaliser is sent in units that keep 131,072 within the range of a fold.
const UNIT: f64 = 1_024.0;
