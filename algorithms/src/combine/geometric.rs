//! The geometric median by smoothed Weiszfeld steps, on weights instead of vectors.

use super::{Distances, normalised};

/// Weights of the updates in the median.
pub(super) fn median(start: &[f64], distances: &Distances, iterations: u32, smoothing: f64) -> Vec<f64> {
    let mut weights = start.to_vec();
    for _ in 0..iterations {
        // The centre has no part in it.
        let all: Vec<f64> = weights.iter().copied().chain([0.0]).collect();
        let pull = |(i, weight): (usize, &f64)| weight / distances.to_mean(i, &all).max(smoothing);
        weights = normalised(&start.iter().enumerate().map(pull).collect::<Vec<_>>());
    }
    weights
}
