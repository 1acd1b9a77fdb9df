//! Rényi divergences of a Gaussian mechanism on a sample of fixed size, for one replaced unit (Wang,
//! Balle and Kasiviswanathan 2019, theorem 27).
//!
//! The theorem's forward differences are the central moments `E_Q[(dP/dQ − 1)^l]`. Summed as
//! differences they cancel to nothing; for an even `l`, and no other is used, the integrand is
//! positive.

use crate::{
    Adjacency, Event, Mechanism, NoiseMultiplier, Sampling,
    loss::Loss,
    numeric::special::{ln_binomial, ln_sum_exp},
};

/// Orders above use the simpler branch of each term only.
const MOST_EXACT: u32 = 256;

/// `ln A_α` as a function of α, for the sampling rate and the noise over the norm of a replacement.
pub(crate) fn ln_moments(rate: f64, noise: f64) -> Box<dyn Fn(u32) -> f64> {
    let central = central_moments(noise);
    Box::new(move |order| {
        let alpha = f64::from(order);
        let divergence = |order: f64| 0.5 * order / (noise * noise);
        if rate >= 1.0 {
            return (alpha - 1.0) * divergence(alpha);
        }
        let mut terms = vec![0.0];
        for j in 2..=order {
            let k = f64::from(j);
            let simple = 2.0_f64.ln() + (k - 1.0) * divergence(k);
            let size = if j == 2 {
                simple.min(4.0_f64.ln() + ln_exp_m1(divergence(2.0)))
            } else if order <= MOST_EXACT {
                let (low, high) = (central[(j / 2) as usize], central[j.div_ceil(2) as usize]);
                simple.min(4.0_f64.ln() + 0.5 * (low + high))
            } else {
                simple
            };
            terms.push(k * rate.ln() + ln_binomial(alpha, k) + size);
        }
        ln_sum_exp(&terms).min((alpha - 1.0) * divergence(alpha))
    })
}

fn ln_exp_m1(x: f64) -> f64 {
    if x > 30.0 { x } else { x.exp_m1().ln() }
}

/// `ln E_Q[(dP/dQ − 1)^{2k}]` at index `k`.
fn central_moments(noise: f64) -> Vec<f64> {
    // Outside the bounds of a multiplier the branch without these moments is used.
    let Ok(noise_multiplier) = NoiseMultiplier::new(noise) else {
        return vec![f64::INFINITY; MOST_EXACT as usize + 1];
    };
    let event = Event {
        mechanism: Mechanism::Gaussian { noise_multiplier },
        sampling: Sampling::Everyone,
        count: std::num::NonZeroU64::MIN,
    };
    let loss = Loss::of(&event, Adjacency::AddRemove, 1);
    let points = loss.map(|loss| loss.points(f64::from(MOST_EXACT) + 1.0)).unwrap_or_default();
    (0..=MOST_EXACT as i32 / 2 + 1).map(|k| points.ln_central(2 * k)).collect()
}
