//! Distributed differential privacy: each client adds a share of the noise to its own contribution, as
//! integers of a ring in which contributions are added up, so that who adds them up needs to see nothing but
//! the sum (Kairouz, Liu and Steinke 2021; Agarwal, Kairouz and Liu 2021).
//!
//! A client shortens its contribution to the clipping norm, rotates it ([`Rotation`]), multiplies it to the
//! grid, rounds it at random until a bound of its norm holds in integers, adds its share and reduces all of it
//! modulo `2^modulus_bits`. The sum is centred and rotated back. [`Shares::plan`] chooses the grid: as fine as
//! the modulus allows, such that a sum leaves the ring with a probability of at most [`OVERFLOW`] a round,
//! which would be wrong but not less private.

use std::num::NonZeroU64;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    ClipNorm, Mechanism, NoiseMultiplier, NotFinite, ParameterError, Positive,
    distributed::{integer_l1, rounded_norm},
    parameters::require,
    rotation::{Rotation, padded},
    sampler::{Kind, ReleaseKey, SHARD, Sampler, Skellam, skellam},
};

/// Probability with which a sum leaves the ring in a round, at most.
pub const OVERFLOW: f64 = 1e-9;
/// Most quanta in the norm of a contribution: `f32` still holds them all.
const FINEST: i32 = 22;
/// Least variance of a share: below σ = 2 a sum of discrete Gaussians is not close to one.
const LEAST_VARIANCE: f64 = 4.0;
/// Attempts to round within the bound, each of which fails with a probability below [`BETA`].
const ATTEMPTS: u32 = 64;
/// e^{−1/2}, as in section 4 of Kairouz, Liu and Steinke.
const BETA: f64 = 0.606_530_659_712_633_4;

/// log2 of the modulus: from 8 to 24, since the integers travel as `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ModulusBits(u32);

/// There is no such modulus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`modulus_bits` is {0}, expected a number from 8 to 24")]
pub struct ModulusError(pub u32);

impl TryFrom<u32> for ModulusBits {
    type Error = ModulusError;

    fn try_from(bits: u32) -> Result<Self, ModulusError> {
        if (8..=24).contains(&bits) { Ok(Self(bits)) } else { Err(ModulusError(bits)) }
    }
}

impl From<ModulusBits> for u32 {
    fn from(bits: ModulusBits) -> Self {
        bits.0
    }
}

impl Default for ModulusBits {
    fn default() -> Self {
        Self(20)
    }
}

/// The law of the shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Discrete Gaussian.
    DiscreteGaussian,
    /// Skellam.
    Skellam,
}

/// What a round of shares is planned for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Of what kind.
    pub law: Law,
    /// Largest norm of a contribution.
    pub clip_norm: ClipNorm,
    /// Elements of a contribution.
    pub parameters: NonZeroU64,
    /// Shares that must arrive, and pay for the noise.
    pub least: NonZeroU64,
    /// Most contributions in a sum.
    pub most: NonZeroU64,
    /// log2 of the modulus.
    pub modulus_bits: ModulusBits,
}

/// The grid, ring and noise of a run of shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    wanted: Wanted,
    /// log2 of the quantum.
    exponent: i32,
    /// Largest squared norm of a rounded contribution, in squared quanta.
    square: u64,
    /// Variance of one share, in squared quanta.
    variance: NonZeroU64,
    fits: bool,
}

fn exp2(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

impl Shares {
    /// The finest grid that the modulus allows, with noise of at least this multiplier when the least number
    /// of shares arrives.
    pub fn plan(wanted: Wanted, noise: NoiseMultiplier) -> Self {
        let grids = (0..=FINEST).rev().map(|bits| Self::on_grid(wanted, noise, bits));
        let coarsest = Self::on_grid(wanted, noise, 0);
        grids.into_iter().find(|shares| shares.fits).unwrap_or(coarsest)
    }

    fn on_grid(wanted: Wanted, noise: NoiseMultiplier, bits: i32) -> Self {
        let exponent = wanted.clip_norm.get().log2().floor() as i32 - bits;
        let norm = wanted.clip_norm.get() / exp2(exponent);
        let dimensions = padded(wanted.parameters.get() as usize) as u64;
        let square = rounded_norm(norm, dimensions, BETA).powi(2).floor().max(1.0);
        let least = wanted.least.get() as f64;
        // Enlarged by more than the rounding of the products.
        let variance = (noise.get().powi(2) * square / least * (1.0 + 1e-14)).ceil().max(LEAST_VARIANCE);
        let most = wanted.most.get() as f64;
        let aligned = (norm * most).powi(2) / dimensions as f64;
        let deviations = (2.0 * (2.0 * dimensions as f64 / OVERFLOW).ln()).sqrt();
        let reach = deviations * (aligned + most * (variance + 0.25)).sqrt();
        let tabled = wanted.law == Law::DiscreteGaussian || variance <= skellam::MOST_VARIANCE as f64;
        let fits = tabled && reach < exp2(u32::from(wanted.modulus_bits) as i32 - 1);
        let variance = NonZeroU64::new(variance.min(exp2(60)) as u64).unwrap_or(NonZeroU64::MIN);
        Self { wanted, exponent, square: square as u64, variance, fits }
    }

    /// The same, if the ring holds the sum.
    ///
    /// # Errors
    /// If the modulus is too small for the clients, their noise and the length of the vectors.
    pub fn checked(self) -> Result<Self, ParameterError> {
        let bits = f64::from(u32::from(self.wanted.modulus_bits));
        require(
            self.fits,
            "modulus_bits",
            bits,
            "more bits, fewer clients or less noise: the ring is too small for their sum",
        )?;
        Ok(self)
    }

    /// Elements of what a client sends: a power of two.
    pub fn length(&self) -> usize {
        padded(self.wanted.parameters.get() as usize)
    }

    /// The value of one quantum: a power of two.
    pub fn quantum(&self) -> f64 {
        exp2(self.exponent)
    }

    /// Variance of one share, in squared quanta.
    pub fn variance(&self) -> NonZeroU64 {
        self.variance
    }

    /// Largest L2 norm of a rounded contribution, in quanta: the sensitivity of the sum.
    pub fn norm(&self) -> f64 {
        (self.square as f64).sqrt() * (1.0 + 1e-15)
    }

    /// Contributions below which a sum must not be released.
    pub fn least(&self) -> NonZeroU64 {
        self.wanted.least
    }

    /// Most contributions in a sum.
    pub fn most(&self) -> NonZeroU64 {
        self.wanted.most
    }

    /// What a round costs.
    ///
    /// # Errors
    /// If a number is out of the bounds of an event.
    pub fn mechanism(&self) -> Result<Mechanism, ParameterError> {
        let dimensions = NonZeroU64::new(self.length() as u64).unwrap_or(NonZeroU64::MIN);
        let l1 = Positive::new(integer_l1(self.norm(), dimensions.get()))?;
        let (l2, variance, shares) = (Positive::new(self.norm())?, self.variance.get() as f64, self.least());
        Ok(match self.wanted.law {
            Law::DiscreteGaussian => Mechanism::DistributedDiscreteGaussian {
                shares,
                deviation: Positive::new(variance.sqrt())?,
                dimensions,
                l1,
                l2,
            },
            Law::Skellam => {
                Mechanism::Skellam { variance: Positive::new(shares.get() as f64 * variance)?, l1, l2 }
            }
        })
    }

    /// A sampler of one share; keep it, its table takes longer to make than many a share.
    ///
    /// # Errors
    /// If the variance is out of its bounds, which a plan that [fits](Self::checked) excludes.
    pub fn noise(&self) -> Result<Noise, ParameterError> {
        let error = ParameterError {
            parameter: "noise_multiplier",
            value: self.variance.get() as f64,
            expected: "a variance of a share within the sampler's bounds",
        };
        Ok(match self.wanted.law {
            Law::DiscreteGaussian => {
                Noise::DiscreteGaussian(Sampler::new(Kind::Discrete, self.variance).map_err(|_| error)?)
            }
            Law::Skellam => Noise::Skellam(Skellam::new(self.variance).map_err(|_| error)?),
        })
    }

    /// What a client sends for its contribution: integers of the ring, as `f32`. `key` must be fresh and the
    /// client's own secret.
    ///
    /// # Errors
    /// If an element is not finite.
    pub fn encode(
        &self,
        contribution: &[f32],
        rotation: Rotation,
        (noise, key): (&Noise, &ReleaseKey),
    ) -> Result<Vec<f32>, NotFinite> {
        let mut quanta = self.rounded(contribution, rotation, key)?;
        for (shard, part) in quanta.chunks_mut(SHARD).enumerate() {
            noise.add(part, &mut key.stream(NOISE, shard as u32));
        }
        Ok(quanta.into_iter().map(|x| self.centred(x) as f32).collect())
    }

    /// Clipped, rotated and rounded: within the norm in integers, whatever floats did before.
    fn rounded(
        &self,
        contribution: &[f32],
        rotation: Rotation,
        key: &ReleaseKey,
    ) -> Result<Vec<i64>, NotFinite> {
        let mut x = contribution.to_vec();
        crate::clip::clip(&mut x, self.wanted.clip_norm)?;
        let inverse = exp2(-self.exponent) as f32;
        for x in &mut x {
            *x *= inverse;
        }
        x.resize(self.length(), 0.0);
        rotation.forward(&mut x);
        let mut quanta = vec![0; x.len()];
        for attempt in 0.. {
            if attempt >= ATTEMPTS {
                // Only a float's error can bring us here: shorten what it made too long.
                for x in &mut x {
                    *x *= 0.99;
                }
            }
            round(&x, &mut quanta, &mut key.stream(ROUNDING, attempt));
            if square(&quanta) <= u128::from(self.square) {
                break;
            }
        }
        Ok(quanta)
    }

    /// The number of the ring that is nearest to 0.
    pub fn centred(&self, x: i64) -> i64 {
        let shift = 64 - u32::from(self.wanted.modulus_bits);
        x << shift >> shift
    }

    /// Adds what a client sent to a sum in the ring, once it was found to be possible: integers of the ring,
    /// no longer than a contribution and its noise are but with a probability below 2⁻¹⁴⁰ (a norm of
    /// `√d + 14` deviations beyond the contribution's; both laws are subgaussian or nearly so).
    ///
    /// # Errors
    /// If it is not; then nothing was added.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&self, sum: &mut [i64], sent: &[f32]) -> Result<(), Impossible> {
        assert_eq!(sum.len(), sent.len(), "shares: lengths differ");
        let half = exp2(u32::from(self.wanted.modulus_bits) as i32 - 1) as f32;
        let whole = |x: &f32| x.fract() == 0.0 && (-half..half).contains(x);
        if let Some(index) = sent.iter().position(|x| !whole(x)) {
            let bits = self.wanted.modulus_bits.into();
            return Err(Impossible::NotInRing { index, value: sent[index], bits });
        }
        let norm = sent.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let most = self.longest();
        if norm > most {
            return Err(Impossible::TooLong { norm, most });
        }
        for (sum, x) in sum.iter_mut().zip(sent) {
            *sum = self.centred(*sum + *x as i64);
        }
        Ok(())
    }

    fn longest(&self) -> f64 {
        let deviation = (self.variance.get() as f64).sqrt();
        // Skellam's tails are a little heavier than a Gaussian's where the variance is small.
        self.norm() + deviation * 2.0_f64.mul_add(14.0, (self.length() as f64).sqrt())
    }

    /// The sum of contributions with their noise, from a sum in the ring: its first elements, all that were
    /// not filled up. In the contributions' own units.
    pub fn decode(&self, sum: &[i64], rotation: Rotation) -> Vec<f32> {
        let quantum = self.quantum() as f32;
        let mut x: Vec<f32> = sum.iter().map(|x| self.centred(*x) as f32 * quantum).collect();
        rotation.backward(&mut x);
        x.truncate(self.wanted.parameters.get() as usize);
        x
    }
}

/// Streams of a client's key.
const NOISE: u32 = 0;
const ROUNDING: u32 = 1;

/// Noise of one share.
#[derive(Debug, Clone)]
pub enum Noise {
    /// Discrete Gaussian.
    DiscreteGaussian(Sampler),
    /// Skellam.
    Skellam(Skellam),
}

impl Noise {
    fn add(&self, sum: &mut [i64], random: &mut impl Rng) {
        match self {
            Self::DiscreteGaussian(sampler) => sampler.add_noise(sum, random),
            Self::Skellam(sampler) => sampler.add_noise(sum, random),
        }
    }
}

/// Why what a client sent cannot be a contribution with its noise.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Impossible {
    /// An element is no number of the ring.
    #[error("element {index} is {value}, expected a whole number of at most {bits} bits with its sign")]
    NotInRing {
        /// Its position.
        index: usize,
        /// Its value.
        value: f32,
        /// log2 of the modulus.
        bits: u32,
    },
    /// It is longer than noise makes it.
    #[error("the norm is {norm:.4e} quanta, at most {most:.4e} is possible with this noise")]
    TooLong {
        /// Its norm, in quanta.
        norm: f64,
        /// The longest.
        most: f64,
    },
}

/// Each number to one of its neighbours, on average to itself.
fn round(x: &[f32], quanta: &mut [i64], random: &mut impl Rng) {
    for (quanta, x) in quanta.iter_mut().zip(x) {
        let below = x.floor();
        let up = f64::from(random.next_u32()) < f64::from(x - below) * exp2(32);
        *quanta = below as i64 + i64::from(up);
    }
}

fn square(quanta: &[i64]) -> u128 {
    quanta.iter().map(|x| u128::from(x.unsigned_abs()).pow(2)).sum()
}

#[cfg(test)]
mod tests;
