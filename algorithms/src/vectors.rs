//! Named flat vectors: the one currency of broadcast, upload, client state and server state.

use crate::scalar::Scalar;
use std::{collections::BTreeMap, sync::Arc};

/// One flat vector of `d` scalars, shared without a copy.
pub type Vector<S = f32> = Arc<Vec<S>>;

/// Named vectors, in name order, so that iteration never depends on hashing.
pub type Vectors<S = f32> = BTreeMap<String, Vector<S>>;

/// The name of the model itself among a server's vectors.
pub const MODEL: &str = "w";

/// `y += a · x`.
///
/// # Panics
/// If the lengths differ: vectors of one run always have the model's length.
pub fn axpy<S: Scalar>(y: &mut [S], a: S, x: &[S]) {
    assert_eq!(y.len(), x.len(), "axpy: lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * *x;
    }
}

/// `y *= a`.
pub fn scale<S: Scalar>(y: &mut [S], a: S) {
    for y in y {
        *y *= a;
    }
}

/// The named vector, or `d` zeros: an absent vector of client state is a zero one.
pub fn zeros<S: Scalar>(vectors: &Vectors<S>, name: &str, d: usize) -> Vector<S> {
    vectors.get(name).cloned().unwrap_or_else(|| Arc::new(vec![S::ZERO; d]))
}
