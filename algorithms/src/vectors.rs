//! Named flat vectors: the one currency of broadcast, upload, client state and server state.

use std::{collections::BTreeMap, sync::Arc};

/// One flat vector of `d` scalars, shared without a copy.
pub type Vector = Arc<Vec<f32>>;

/// Named vectors, in name order, so that iteration never depends on hashing.
pub type Vectors = BTreeMap<String, Vector>;

/// The name of the model itself among a server's vectors.
pub const MODEL: &str = "w";

/// `y += a · x`.
///
/// # Panics
/// If the lengths differ: vectors of one run always have the model's length.
pub fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    assert_eq!(y.len(), x.len(), "axpy: lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `y *= a`.
pub fn scale(y: &mut [f32], a: f32) {
    for y in y {
        *y *= a;
    }
}

/// The named vector, or `d` zeros: an absent vector of client state is a zero one.
pub fn zeros(vectors: &Vectors, name: &str, d: usize) -> Vector {
    vectors.get(name).cloned().unwrap_or_else(|| Arc::new(vec![0.0; d]))
}
