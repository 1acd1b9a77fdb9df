//! A clipping norm that follows a quantile of the norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).
//!
//! Each client also sends whether its contribution was within the norm. That bit is noised on the
//! same integer machinery as the sum, and paid for from the same budget: the update gets a little
//! more noise, such that both together cost what the update alone was to cost.

use serde::{Deserialize, Serialize};

use crate::{ClipNorm, NoiseMultiplier, ParameterError, Positive, Probability, parameters::require};

/// The rule that moves the norm after each round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantileClip {
    /// The share of contributions that shall not be clipped; γ in the paper, 0.5 there.
    pub quantile: Probability,
    /// Step of the logarithm of the norm; η_C in the paper, 0.2 there.
    pub learning_rate: Positive,
}

impl QuantileClip {
    /// The multiplier for the update if both together shall cost `total` and the count of contributions
    /// within the norm gets Gaussian noise of standard deviation `count_noise`: `(z⁻² − (2σ_b)⁻²)^{-1/2}`
    /// (theorem 1). The bits are centred, so that one of them moves the count by a half.
    ///
    /// # Errors
    /// If the count alone costs as much: `2·count_noise` must exceed `total`.
    pub fn split(total: NoiseMultiplier, count_noise: Positive) -> Result<NoiseMultiplier, ParameterError> {
        let (z, counts) = (total.get(), 2.0 * count_noise.get());
        require(counts > z, "count_noise", count_noise.get(), "more than half the noise multiplier")?;
        NoiseMultiplier::new((z.powi(-2) - counts.powi(-2)).powf(-0.5))
    }

    /// The next norm: `C·exp(−η(b̃ − γ))`, where `b̃ = (Σ(bᵢ − ½) + noise)/expected + ½`. `within_less_half`
    /// is the noised sum of the centred bits, `expected` the fixed expected number of clients. The
    /// result stays within the bounds of a norm.
    ///
    /// # Errors
    /// If the noised sum is not finite.
    pub fn next(
        self,
        norm: ClipNorm,
        within_less_half: f64,
        expected: Positive,
    ) -> Result<ClipNorm, ParameterError> {
        let finite = within_less_half.is_finite();
        require(finite, "within_less_half", within_less_half, "a finite number")?;
        let share = within_less_half / expected.get() + 0.5;
        let moved = norm.get() * (-self.learning_rate.get() * (share - self.quantile.get())).exp();
        ClipNorm::new(moved.clamp(1e-20, 1e20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_settles_at_the_quantile() {
        let rule = QuantileClip {
            quantile: Probability::new(0.75).unwrap(),
            learning_rate: Positive::new(0.2).unwrap(),
        };
        // Norms 1, 2 … 100: the quantile is 75.
        let mut norm = ClipNorm::new(1.0).unwrap();
        for _ in 0..300 {
            let within = (1..=100).filter(|x| f64::from(*x) <= norm.get()).count() as f64;
            norm = rule.next(norm, within - 50.0, Positive::new(100.0).unwrap()).unwrap();
        }
        assert!((norm.get() - 75.0).abs() < 2.0, "{norm:?}");
        assert!(rule.next(norm, f64::NAN, Positive::new(1.0).unwrap()).is_err());
        assert!(rule.next(norm, -1e9, Positive::new(1.0).unwrap()).unwrap().get() <= 1e20);
    }

    #[test]
    fn a_count_that_costs_everything_is_refused() {
        let z = NoiseMultiplier::new(2.0).unwrap();
        let message = QuantileClip::split(z, Positive::new(1.0).unwrap()).unwrap_err().to_string();
        assert!(message.contains("more than half the noise multiplier"), "{message}");
    }
}
