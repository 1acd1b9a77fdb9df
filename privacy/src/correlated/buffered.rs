//! Buffered linear Toeplitz noise (Dvijotham, McMahan, Pillutla, Steinke and Thakurta 2024) in fixed
//! point: `X_i ← λ_i X_i + x_t` for the sums and the same for the releases, both rounded.

use std::num::NonZeroU64;

use crate::{
    Grid, NoiseMultiplier,
    strategy::{Factor, Participation, Strategy},
};

const WEIGHT_BITS: u32 = 20;

#[derive(Debug, Clone)]
pub(super) struct Buffers {
    /// Weight and decay, in units of 2^−20, rounded down: that makes neither of them larger than stated.
    pairs: Vec<(i64, i64)>,
    /// log2 of the units in a quantum.
    fine: u32,
}

fn scaled(x: i64, factor: i64) -> i64 {
    let half = 1_i128 << (WEIGHT_BITS - 1);
    ((i128::from(x) * i128::from(factor) + half) >> WEIGHT_BITS) as i64
}

impl Buffers {
    /// `base` is the deviation in quanta of noise without correlation.
    pub(super) fn new(weights: &[f64], decays: &[f64], base: f64) -> Self {
        let unit = f64::from(1 << WEIGHT_BITS);
        let fixed = |x: &f64| (x * unit).floor() as i64;
        let pairs = weights.iter().map(fixed).zip(decays.iter().map(fixed)).collect();
        // Room for noise up to twice the base: the correction below is a small part of it.
        let fine = (super::DEVIATION_BITS - 1.0 - base.log2()).floor().clamp(0.0, 20.0) as u32;
        Self { pairs, fine }
    }

    /// The deviation in fine units that makes an event with this multiplier true: for two neighbouring
    /// runs `y` differs by at most `sensitivity·norm`, and by twice the rounding of each element of each
    /// round.
    pub(super) fn deviation(
        &self,
        noise: NoiseMultiplier,
        grid: Grid,
        (participation, dimensions): (Participation, NonZeroU64),
        claimed: &Strategy,
    ) -> f64 {
        let unit = f64::from(1 << WEIGHT_BITS);
        let (weights, decays): (Vec<f64>, Vec<f64>) =
            self.pairs.iter().map(|(w, d)| (*w as f64 / unit, *d as f64 / unit)).unzip();
        // Each step of a buffer is rounded by a half, which decays; the weighted sum adds one more for
        // each buffer.
        let error: f64 = weights.iter().zip(&decays).map(|(w, d)| 0.5 * w / (1.0 - d) + 0.5).sum();
        let elements = (dimensions.get() as f64 * participation.rounds.get() as f64).sqrt();
        let factor = Factor::Buffered { weights, decays };
        let exact = Strategy::Toeplitz { factor, participation }.sensitivity();
        let norm = grid.sensitivity().get() as f64 * f64::from(1 << self.fine);
        noise.get() * (norm * exact + 2.0 * error * elements) / claimed.sensitivity()
    }

    /// Of the sums, then of the releases.
    pub(super) fn vectors(&self) -> usize {
        2 * self.pairs.len()
    }

    pub(super) fn start(&self, length: usize) -> Vec<Vec<i64>> {
        vec![vec![0; length]; self.vectors()]
    }

    pub(super) fn advance(&self, memory: &mut [Vec<i64>], noise: &[i64], sum: &mut [i64]) {
        let (sums, releases) = memory.split_at_mut(self.pairs.len());
        let half = (1_i64 << self.fine) >> 1;
        for (i, (sum, noise)) in sum.iter_mut().zip(noise).enumerate() {
            let weighted = |vectors: &[Vec<i64>]| {
                vectors.iter().zip(&self.pairs).map(|(x, (weight, _))| scaled(x[i], *weight)).sum::<i64>()
            };
            let y = (*sum << self.fine) + weighted(sums) + noise;
            let released = (y - weighted(releases) + half) >> self.fine;
            for (vectors, entered) in [(&mut *sums, *sum), (&mut *releases, released)] {
                for (x, (_, decay)) in vectors.iter_mut().zip(&self.pairs) {
                    x[i] = scaled(x[i], *decay) + (entered << self.fine);
                }
            }
            *sum = released;
        }
    }
}
