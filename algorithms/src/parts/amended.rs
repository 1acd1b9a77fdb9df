//! Primal-dual steps whose server averages amended models (FedPD, FedADMM, FedSpeed as published): with
//! the scaled dual `h_i = λ_i/ρ`, the local problem is `F_i(w) + ρ⟨h_i, w − w_t⟩ + (ρ/2)‖w − w_t‖²`,
//! then `h_i ← h_i + Δ_i`, and `w_{i,K} + h_i` goes up. The mean is over the workers of the round: the
//! server has no memory.

use super::{
    dynamic::MEMORY,
    mean::{DELTA, named},
};
use crate::{Finished, LocalRun, Scalar, Vectors, axpy, zeros};

/// Uploads `Δ_i + h_i⁺` and keeps `h_i⁺ = h_i + Δ_i`.
pub(crate) fn finish<S: Scalar>(run: LocalRun<S>, state: &Vectors<S>) -> Finished<S> {
    let mut delta = run.into_delta();
    let mut own = zeros(state, MEMORY, delta.len()).as_ref().clone();
    axpy(&mut own, S::ONE, &delta);
    axpy(&mut delta, S::ONE, &own);
    Finished { upload: named([(DELTA, delta)]), next: named([(MEMORY, own)]) }
}
