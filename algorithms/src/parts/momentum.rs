//! Client momentum without client state (FedCM): every local gradient is mixed with the mean direction
//! of the last round, `α g + (1 − α) M`, and the server derives `M = −mean Δ_i / (K_i η)`.

use super::mean::{DELTA, delta_fold, direction_fold, move_model, server_vector};
use crate::{
    ParamError, Scalar, Vector, Vectors,
    fold::{Fold, Weighting},
    rule::within,
    scale,
};
use std::sync::Arc;

/// The name of M.
pub(crate) const MOMENTUM: &str = "m";
const DIRECTION: &str = "direction";

/// α is a share of the gradient.
pub(crate) fn check(rule: &'static str, alpha: f64) -> Result<(), ParamError> {
    within((rule, "alpha"), alpha, |alpha| alpha > 0.0 && alpha <= 1.0, "above 0 and at most 1")
}

/// Δ̄, and the mean of `Δ_i / (K_i η)`.
pub(crate) fn folds() -> Vec<Fold> {
    vec![delta_fold(Weighting::Uniform), direction_fold(DIRECTION)]
}

/// `(1 − α) M`.
pub(crate) fn shift<S: Scalar>(down: &Vectors<S>, alpha: f64) -> Vector<S> {
    let mut shift = down[MOMENTUM].as_ref().clone();
    scale(&mut shift, S::ONE - S::of(alpha));
    Arc::new(shift)
}

/// `w ← w + η_g Δ̄` and the new M.
pub(crate) fn apply<S: Scalar>(server: &mut Vectors<S>, mean: &Vectors<S>, server_lr: f64) {
    move_model(server, S::of(server_lr), &mean[DELTA]);
    let momentum = server_vector(server, MOMENTUM);
    momentum.copy_from_slice(&mean[DIRECTION]);
    scale(momentum, -S::ONE);
}
