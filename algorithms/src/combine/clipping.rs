//! Centred clipping, on weights instead of vectors: after each step `v` is a weighted mean of updates
//! and centre.

use super::{Choice, Distances};

/// `v ← v + mean of (x_i − v) · min(1, radius / ‖x_i − v‖)`, from the centre.
pub(super) fn centred(distances: &Distances, radius: f64, iterations: u32) -> Choice {
    let k = distances.updates();
    let mut weights = vec![0.0; k + 1];
    weights[k] = 1.0;
    for _ in 0..iterations {
        let pulls: Vec<f64> = (0..k)
            .map(|i| {
                let distance = distances.to_mean(i, &weights);
                if distance > radius { radius / distance } else { 1.0 }
            })
            .map(|factor| factor / k as f64)
            .collect();
        let kept = 1.0 - pulls.iter().sum::<f64>();
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = *weight * kept + pulls.get(i).copied().unwrap_or(0.0);
        }
    }
    let centre = weights.pop().unwrap_or(0.0);
    Choice::Weighted { weights, centre }
}
