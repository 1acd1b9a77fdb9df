//! Aligned duals (A-FedPD) without a write for every absent worker. The rule is: present workers
//! `λ_i ← λ_i + ρ (θ_i − θ)`, absent ones `λ_i ← λ_i + ρ (θ̄ − θ)`, `λ̄ = mean λ_i`, `θ⁺ = θ̄ + λ̄/ρ`.
//!
//! Write `λ_i = Λ + e_i`. Then `Λ ← Λ + ρ (θ̄ − θ)` in every round, `e_i` changes only when worker i is
//! present, and the sum of all `e_i` stays 0, so `λ̄ = Λ`. A worker keeps the `λ_i` of its last round;
//! what it missed since is `Λ_now − Λ_then`, with `Λ_then` the server's vector after that round, which
//! it receives again ([`crate::Algorithm::recalled`]). A newcomer starts with `λ_i = Λ`.

use super::mean::{DELTA, add_error, move_model, named, server_vector};
use crate::{Finished, LocalRun, Scalar, Vectors, axpy};

/// The name of Λ, and of λ_i in a client state.
pub(crate) const DUAL: &str = "dual";
/// The name of Λ after the worker's last round.
pub(crate) const THEN: &str = "dual_then";

/// λ_i at the round's start.
pub(crate) fn dual<S: Scalar>(down: &Vectors<S>, state: &Vectors<S>) -> Vec<S> {
    let mut dual = down[DUAL].as_ref().clone();
    if let (Some(own), Some(then)) = (state.get(DUAL), down.get(THEN)) {
        axpy(&mut dual, -S::ONE, then);
        axpy(&mut dual, S::ONE, own);
    }
    dual
}

/// Uploads Δ_i and keeps `λ_i + ρ Δ_i`.
pub(crate) fn finish<S: Scalar>(run: LocalRun<S>, mut dual: Vec<S>, prox: f64) -> Finished<S> {
    let delta = run.into_delta();
    axpy(&mut dual, S::of(prox), &delta);
    Finished { upload: named([(DELTA, delta)]), next: named([(DUAL, dual)]) }
}

/// The server reads another Δ_i: so does λ_i.
pub(crate) fn realign<S: Scalar>(next: &mut Vectors<S>, error: &Vectors<S>, prox: f64) {
    add_error(next, DUAL, (S::of(prox), error, DELTA));
}

/// The new Λ, and `w ← w + Δ̄ + Λ/ρ`.
pub(crate) fn apply<S: Scalar>(server: &mut Vectors<S>, mean: &Vectors<S>, prox: f64) {
    axpy(server_vector(server, DUAL), S::of(prox), &mean[DELTA]);
    let dual = server[DUAL].clone();
    move_model(server, S::ONE, &mean[DELTA]);
    move_model(server, S::of(1.0 / prox), &dual);
}
