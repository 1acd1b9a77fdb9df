//! The perturbation of FedLESAM: `e = ρ (w_old − w) / (‖w_old − w‖ + 1e-7)`, with `w_old` the model that
//! the worker received in its last round; constant during the round, and none in the first.
//!
//! The public code deviates from the paper: it broadcasts the server's last change instead of the
//! worker's own difference, sums the norms of the tensors instead of taking the norm of the whole, and
//! indexes the flat vector by tensor. This is the paper's form.

use crate::{Finished, MODEL, Scalar, Vectors, axpy, local::Probe, local::norm, scale};
use std::sync::Arc;

/// The name of the model that was received last.
const SEEN: &str = "seen";

/// The round's perturbation.
pub(crate) fn probe<S: Scalar>(down: &Vectors<S>, state: &Vectors<S>, rho: f64) -> Probe<S> {
    let Some(seen) = state.get(SEEN).filter(|_| rho > 0.0) else { return Probe::Here };
    let mut e = seen.as_ref().clone();
    axpy(&mut e, -S::ONE, &down[MODEL]);
    let reach = rho / (norm(&e) + 1e-7);
    scale(&mut e, S::of(reach));
    Probe::Fixed(Arc::new(e))
}

/// Keeps the received model in the next state.
pub(crate) fn keep<S: Scalar>(mut finished: Finished<S>, down: &Vectors<S>) -> Finished<S> {
    finished.next.insert(SEEN.to_owned(), down[MODEL].clone());
    finished
}
