//! The mean of the local changes, and moving the model by it.

use crate::{
    Finished, LocalRun, MODEL, Scalar, Vectors,
    fold::{Fold, Scale, Weighting},
};
use std::sync::Arc;

/// The name of the local change, and of its mean.
pub(crate) const DELTA: &str = "delta";

/// The mean of the local changes.
pub(crate) fn delta_fold(weighting: Weighting) -> Fold {
    Fold { into: DELTA, from: DELTA, weighting, scale: Scale::One }
}

/// The uniform mean of `Δ_i / (K_i η)`, kept as `into`: minus the mean direction of the round.
pub(crate) fn direction_fold(into: &'static str) -> Fold {
    Fold { into, from: DELTA, weighting: Weighting::Uniform, scale: Scale::InverseStepsLr }
}

/// The uniform mean of an uploaded vector, under its own name.
pub(crate) fn uniform_fold(name: &'static str) -> Fold {
    Fold { into: name, from: name, weighting: Weighting::Uniform, scale: Scale::One }
}

/// Named vectors from what was computed.
pub(crate) fn named<S, const N: usize>(vectors: [(&str, Vec<S>); N]) -> Vectors<S> {
    vectors.into_iter().map(|(name, vector)| (name.to_owned(), Arc::new(vector))).collect()
}

/// An upload of Δ_i alone, and no client state.
pub(crate) fn upload_delta<S: Scalar>(run: LocalRun<S>) -> Finished<S> {
    Finished { upload: named([(DELTA, run.into_delta())]), next: Vectors::new() }
}

/// `next[name] += a · error[from]`, where there is such an error.
pub(crate) fn add_error<S: Scalar>(
    next: &mut Vectors<S>,
    name: &str,
    (a, error, from): (S, &Vectors<S>, &str),
) {
    if let (Some(own), Some(error)) = (next.get_mut(name), error.get(from)) {
        let own: &mut Vec<S> = Arc::make_mut(own);
        crate::axpy(own, a, error);
    }
}

/// `w ← w + η_g x`.
pub(crate) fn move_model<S: Scalar>(server: &mut Vectors<S>, lr: S, x: &[S]) {
    crate::axpy(server_vector(server, MODEL), lr, x);
}

/// A server vector, for writing; no copy when nobody else holds it.
pub(crate) fn server_vector<'a, S: Scalar>(server: &'a mut Vectors<S>, name: &str) -> &'a mut Vec<S> {
    Arc::make_mut(server.get_mut(name).expect("a run starts with every server vector of its rule"))
}
