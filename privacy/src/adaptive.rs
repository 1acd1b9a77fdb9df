//! A clipping norm that follows a quantile of the norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).
//!
//! Each client also sends whether its contribution was within the norm. That bit is noised on the
//! same integer machinery as the sum, and paid for from the same budget: the update gets a little
//! more noise, such that both together cost what the update alone was to cost.

use std::num::NonZeroU64;

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

/// The norm of a run as it moves, to be stored with the run: each round's norm is fixed before the round
/// opens and follows only from noised counts, so that it tells nothing that was not paid for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveClip {
    rule: QuantileClip,
    /// Standard deviation of the noise on the count of centred bits; σ_b in the paper.
    count_noise: Positive,
    /// The fixed expected number of clients, never the number that came.
    expected: Positive,
    norm: ClipNorm,
    round: u64,
}

impl AdaptiveClip {
    /// A run that starts with `norm`, which must not be chosen by looking at the data.
    pub fn new(rule: QuantileClip, norm: ClipNorm, expected: Positive, count_noise: Positive) -> Self {
        Self { rule, count_noise, expected, norm, round: 0 }
    }

    /// The norm of the round that is to come or under way.
    pub fn norm(&self) -> ClipNorm {
        self.norm
    }

    /// Number of rounds that moved the norm.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// What a client adds to the count: twice the centred bit, so that it is a whole number.
    pub fn bit(within: bool) -> i64 {
        if within { 1 } else { -1 }
    }

    /// Variance of the whole noise on the sum of [`Self::bit`]s, rounded up: `(2σ_b)²`. The largest
    /// contribution to that sum is 1.
    ///
    /// # Errors
    /// If it is above the sampler's bound of 2^60.
    pub fn count_variance(&self) -> Result<NonZeroU64, ParameterError> {
        let variance = (2.0 * self.count_noise.get()).powi(2).ceil().max(1.0);
        require(variance <= 2.0_f64.powi(60), "count_noise", self.count_noise.get(), "at most 2^29")?;
        Ok(NonZeroU64::new(variance as u64).unwrap_or(NonZeroU64::MIN))
    }

    /// Closes a round with the noised sum of [`Self::bit`]s.
    pub fn close(&mut self, noised: i64) -> ClipNorm {
        // A whole number is finite: the rule cannot refuse it.
        if let Ok(norm) = self.rule.next(self.norm, 0.5 * noised as f64, self.expected) {
            self.norm = norm;
        }
        self.round += 1;
        self.norm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Key, Kind, Sampler};

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

    #[test]
    fn a_run_finds_the_median_through_noise_and_survives_a_restart() {
        let rule = QuantileClip {
            quantile: Probability::new(0.5).unwrap(),
            learning_rate: Positive::new(0.2).unwrap(),
        };
        let (clients, count_noise) = (Positive::new(200.0).unwrap(), Positive::new(10.0).unwrap());
        let mut clip = AdaptiveClip::new(rule, ClipNorm::new(1e-3).unwrap(), clients, count_noise);
        assert_eq!(clip.count_variance().unwrap().get(), 400);
        let sampler = Sampler::new(Kind::Discrete, clip.count_variance().unwrap()).unwrap();
        for round in 0..250 {
            let bits = (1..=200).map(|x| AdaptiveClip::bit(f64::from(x) <= clip.norm().get())).sum::<i64>();
            let noise = sampler.sample(&mut Key::new([6; 32]).release(round).stream(9, 0));
            let text = serde_json::to_string(&clip).unwrap();
            clip = serde_json::from_str(&text).unwrap();
            clip.close(bits + noise);
        }
        assert!((clip.norm().get() - 100.0).abs() < 12.0, "{clip:?}");
        assert_eq!(clip.round(), 250);
    }
}
