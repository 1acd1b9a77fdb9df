//! Gaussian noise on an integer grid, drawn exactly and fast.
//!
//! Noise from floating-point samplers leaks: which numbers a sum with noise can take depends on the
//! sum (Mironov 2012). Here the sum is an integer, and the noise is an integer whose law is exact but
//! for a tail of mass 2⁻¹³⁰:
//!
//! * [`Kind::Rounded`]: `round(N(0, σ²))`. Since the sum `x` is an integer, `x + round(Z) = round(x + Z)`:
//!   the privacy of continuous Gaussian noise, by post-processing, with every accountant of it.
//! * [`Kind::Discrete`]: `P(x) ∝ e^{−x²/2σ²}` (Canonne, Kamath and Steinke 2020).
//!
//! The half line is cut into blocks. A block is drawn from a table of exact probabilities, a point in
//! it uniformly, and the point kept with a probability that is compared lazily: 64 random bits decide
//! nearly always, and when they do not, as many more as it takes are compared with the exponential
//! function in 384-bit arithmetic. No result depends on the rounding of the machine's `exp`.

mod batch;
mod fixed;
mod key;
pub mod short;
pub mod skellam;
mod table;
mod tables;
mod wide;

use std::num::NonZeroU64;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

pub use key::{Key, ReleaseKey, SHARD, Stream, shards};
pub use short::Short;
pub use skellam::Skellam;
use table::Table;
pub use tables::Tables;

/// Version of the stream: which noise follows from a key. Noise that is made again must be that of before.
pub const STREAM: u32 = 2;

/// The law of the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A continuous Gaussian, rounded to the nearest integer.
    Rounded,
    /// The discrete Gaussian.
    Discrete,
}

/// The variance is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`variance` is {0}, expected a whole number from 1 to 2^60")]
pub struct VarianceError(pub u64);

/// A sampler for one law; the table costs a few milliseconds, so keep it for a whole run.
#[derive(Debug, Clone)]
pub struct Sampler {
    table: Table,
}

impl Sampler {
    /// For noise of this variance, in squared units of the grid.
    ///
    /// # Errors
    /// If the variance is above 2^60.
    pub fn new(kind: Kind, variance: NonZeroU64) -> Result<Self, VarianceError> {
        let variance = variance.get();
        if variance > 1 << 60 {
            return Err(VarianceError(variance));
        }
        Ok(Self { table: Table::new(kind, variance) })
    }

    /// The law that is drawn from.
    pub fn kind(&self) -> Kind {
        self.table.kind
    }

    /// The variance of the Gaussian, σ².
    pub fn variance(&self) -> u64 {
        self.table.variance
    }

    /// One draw. At most 14σ + 1 in size.
    pub fn sample(&self, random: &mut impl Rng) -> i64 {
        batch::single(&self.table, random)
    }

    /// Adds a draw to each number of the fixed-point grid, wrapping on overflow as the sum itself does.
    pub fn add_noise(&self, sum: &mut [i64], random: &mut impl Rng) {
        self.add_scaled_noise(sum, 1, random);
    }

    /// The same for a sum in finer units, of which the sampler's quantum has `unit`.
    pub fn add_scaled_noise(&self, sum: &mut [i64], unit: i64, random: &mut impl Rng) {
        batch::add(&self.table, sum, unit, random);
    }
}

/// `P(X = x)` of the discrete Gaussian of this variance (definition 1 of Canonne, Kamath and Steinke
/// 2020), with a relative error near 1e-15; for tests.
pub fn discrete_probability(variance: NonZeroU64, x: i64) -> f64 {
    let rate = 0.5 / variance.get() as f64;
    let weight = |x: f64| (-x * x * rate).exp();
    let sd = (variance.get() as f64).sqrt();
    let norm = if sd > 16.0 {
        // Poisson summation: the sum is the integral up to e^{-2π²σ²}.
        (std::f64::consts::TAU).sqrt() * sd
    } else {
        1.0 + 2.0 * (1..=(14.0 * sd) as u32 + 14).map(|x| weight(f64::from(x))).sum::<f64>()
    };
    weight(x as f64) / norm
}

/// `P(round(N(0, variance)) = x)`, with a relative error near 1e-14; for tests.
pub fn rounded_probability(variance: NonZeroU64, x: i64) -> f64 {
    let sd = (variance.get() as f64).sqrt();
    let upper = x.unsigned_abs() as f64 + 0.5;
    let lower = upper - 1.0;
    if sd < 64.0 {
        let tail = |x: f64| 0.5 * libm::erfc(x / sd * std::f64::consts::FRAC_1_SQRT_2);
        return tail(lower) - tail(upper);
    }
    // Σ of the Taylor series of the density over the unit interval around x.
    let u = (upper - 0.5) / sd;
    let density = (-0.5 * u * u).exp() / (sd * std::f64::consts::TAU.sqrt());
    density
        * (1.0 + (u * u - 1.0) / (24.0 * sd * sd) + (u.powi(4) - 6.0 * u * u + 3.0) / (1920.0 * sd.powi(4)))
}

#[cfg(test)]
mod tests;
