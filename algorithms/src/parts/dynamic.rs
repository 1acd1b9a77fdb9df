//! The dynamic regulariser (FedDyn) in the thin form: `v = λ h_i` and prox λ around the round's start;
//! then `h_i ← h_i + Δ_i` (so `−λ h_i` plays the part of the local gradient). The server keeps the mean
//! of all h_i, `H ← H + q Δ̄`, and moves `w ← w + Δ̄ + H`.

use super::mean::{DELTA, add_error, move_model, named, server_vector};
use crate::{Finished, LocalRun, ParamError, RoundFacts, Scalar, Vector, Vectors, axpy, rule::within, zeros};
use std::sync::Arc;

/// The name of H and h_i.
pub(crate) const MEMORY: &str = "h";

/// λ must be above 0: without it the server would still add H.
pub(crate) fn check(rule: &'static str, prox: f64) -> Result<(), ParamError> {
    let expected = "a finite number above 0 (0 is not FedAvg; use kind = \"fedavg\")";
    within((rule, "prox"), prox, |prox| prox > 0.0, expected)
}

/// `λ h_i`.
pub(crate) fn shift<S: Scalar>(state: &Vectors<S>, prox: f64) -> Option<Vector<S>> {
    state.get(MEMORY).map(|own| {
        let mut shift = own.as_ref().clone();
        crate::scale(&mut shift, S::of(prox));
        Arc::new(shift)
    })
}

/// Uploads Δ_i and keeps `h_i + Δ_i`.
pub(crate) fn finish<S: Scalar>(run: LocalRun<S>, state: &Vectors<S>) -> Finished<S> {
    let delta = run.into_delta();
    let mut own = zeros(state, MEMORY, delta.len()).as_ref().clone();
    axpy(&mut own, S::ONE, &delta);
    Finished { upload: named([(DELTA, delta)]), next: named([(MEMORY, own)]) }
}

/// The server reads another Δ_i: so does h_i.
pub(crate) fn realign<S: Scalar>(next: &mut Vectors<S>, error: &Vectors<S>) {
    add_error(next, MEMORY, (S::ONE, error, DELTA));
}

/// The new H, and `w ← w + Δ̄ + H`.
pub(crate) fn apply<S: Scalar>(server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
    let memory = server_vector(server, MEMORY);
    crate::scale(memory, facts.growth());
    axpy(memory, facts.share(), &mean[DELTA]);
    let memory = server[MEMORY].clone();
    move_model(server, S::ONE, &mean[DELTA]);
    move_model(server, S::ONE, &memory);
}
