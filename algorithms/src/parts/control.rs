//! Control variates (SCAFFOLD, option II) in the thin form: `c_i⁺ − c_i = −c − Δ_i / (K_i η)` does not
//! involve `c_i`, so the server derives the new control variate from the uploads that it already has:
//! one vector up instead of two, `c ← (1 − q) c − (1/N) Σ_S Δ_i / (K_i η)` with `q = |S|/N`.

use super::mean::{DELTA, add_error, delta_fold, direction_fold, move_model, named, server_vector};
use crate::{
    Finished, LocalRun, RoundFacts, Scalar, Vector, Vectors, axpy,
    fold::{Fold, Weighting},
    zeros,
};
use std::sync::Arc;

/// The name of c, c_i and down-link.
pub(crate) const CONTROL: &str = "c";
const DIRECTION: &str = "direction";

/// Δ̄, and the mean of `Δ_i / (K_i η)`.
pub(crate) fn folds() -> Vec<Fold> {
    vec![delta_fold(Weighting::Uniform), direction_fold(DIRECTION)]
}

/// `c − c_i`.
pub(crate) fn shift<S: Scalar>(down: &Vectors<S>, state: &Vectors<S>) -> Vector<S> {
    let mut shift = down[CONTROL].as_ref().clone();
    if let Some(own) = state.get(CONTROL) {
        axpy(&mut shift, -S::ONE, own);
    }
    Arc::new(shift)
}

/// Uploads Δ_i and keeps `c_i⁺ = c_i − c − Δ_i / (K_i η)`.
pub(crate) fn finish<S: Scalar>(run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
    let to_gradient = -S::ONE / (S::of(f64::from(run.steps.max(1))) * run.lr);
    let delta = run.into_delta();
    let mut own = zeros(state, CONTROL, delta.len()).as_ref().clone();
    axpy(&mut own, -S::ONE, &down[CONTROL]);
    axpy(&mut own, to_gradient, &delta);
    Finished { upload: named([(DELTA, delta)]), next: named([(CONTROL, own)]) }
}

/// The server reads another Δ_i: so does c_i.
pub(crate) fn realign<S: Scalar>(next: &mut Vectors<S>, error: &Vectors<S>, (steps, lr): (u32, S)) {
    let to_gradient = -S::ONE / (S::of(f64::from(steps.max(1))) * lr);
    add_error(next, CONTROL, (to_gradient, error, DELTA));
}

/// `w ← w + η_g Δ̄` and the new c.
pub(crate) fn apply<S: Scalar>(
    server: &mut Vectors<S>,
    mean: &Vectors<S>,
    facts: &RoundFacts,
    server_lr: f64,
) {
    move_model(server, S::of(server_lr), &mean[DELTA]);
    let control = server_vector(server, CONTROL);
    crate::scale(control, facts.growth::<S>() - facts.share());
    axpy(control, -facts.share::<S>(), &mean[DIRECTION]);
}
