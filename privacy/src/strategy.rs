//! Noise that is correlated over the rounds of a run (DP-FTRL): how much of it one unit's
//! contributions can move, and how well it hides less of the sums.
//!
//! The prefix sums `A x` of the rounds are released as `B (C x + z)` with `A = B C`. Only the norm of
//! the columns of `C` that one unit touches counts, so that the whole run is one Gaussian mechanism
//! (Denisov, McMahan, Rush, Smith and Thakurta 2022); nothing is assumed about sampling.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{
    Mechanism,
    parameters::{ParameterError, require},
};

/// How noise is spread over the rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// Binary trees (Kairouz, McMahan, Song, Thakkar, Thakurta and Xu 2021), restarted now and then;
    /// one unit takes part once.
    Tree {
        /// Most rounds between two restarts.
        longest: NonZeroU64,
    },
    /// A lower-triangular Toeplitz matrix `C` with non-negative, non-increasing coefficients.
    Toeplitz {
        /// The coefficients.
        factor: Factor,
        /// Length of the run and who takes part when.
        participation: Participation,
    },
}

/// The first column of `C`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "RawFactor")]
pub enum Factor {
    /// Coefficients of `(1 − x)^{-1/2}` (Fichtenberger, Henzinger and Upadhyay 2023).
    SquareRoot,
    /// These coefficients and 0 after them; the first is 1.
    Banded {
        /// From 1, not increasing, not negative.
        coefficients: Vec<f64>,
    },
    /// `c_0 = 1`, `c_j = Σ_i weight_i · decay_i^{j−1}`: a buffered linear Toeplitz matrix (Dvijotham,
    /// McMahan, Pillutla, Steinke and Thakurta 2024).
    Buffered {
        /// Not negative, at most 1 together.
        weights: Vec<f64>,
        /// As many, from 0 to below 1.
        decays: Vec<f64>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum RawFactor {
    SquareRoot,
    Banded { coefficients: Vec<f64> },
    Buffered { weights: Vec<f64>, decays: Vec<f64> },
}

/// The longest run that a strategy is worked out for: its coefficients are kept in memory.
pub const MOST_ROUNDS: u64 = 1 << 24;

/// Who takes part when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawParticipation")]
pub struct Participation {
    /// Number of rounds; those beyond [`MOST_ROUNDS`] are refused where they are read and not worked out.
    pub rounds: NonZeroU64,
    /// Largest number of rounds that one unit takes part in.
    pub most: NonZeroU64,
    /// Smallest distance of two of them.
    pub separation: NonZeroU64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParticipation {
    rounds: NonZeroU64,
    most: NonZeroU64,
    separation: NonZeroU64,
}

impl TryFrom<RawParticipation> for Participation {
    type Error = ParameterError;

    fn try_from(raw: RawParticipation) -> Result<Self, ParameterError> {
        let rounds = raw.rounds.get();
        require(rounds <= MOST_ROUNDS, "rounds", rounds as f64, "at most 2^24 rounds of correlated noise")?;
        Ok(Self { rounds: raw.rounds, most: raw.most, separation: raw.separation })
    }
}

impl TryFrom<RawFactor> for Factor {
    type Error = ParameterError;

    fn try_from(raw: RawFactor) -> Result<Self, ParameterError> {
        match raw {
            RawFactor::SquareRoot => Ok(Self::SquareRoot),
            RawFactor::Banded { coefficients } => Self::banded(coefficients),
            RawFactor::Buffered { weights, decays } => Self::buffered(weights, decays),
        }
    }
}

impl Factor {
    /// A banded factor.
    ///
    /// # Errors
    /// If the first coefficient is not 1, or one is negative or larger than the one before.
    pub fn banded(coefficients: Vec<f64>) -> Result<Self, ParameterError> {
        let first = coefficients.first().copied().unwrap_or(f64::NAN);
        require(first == 1.0, "coefficients", first, "1 as the first of them")?;
        let rise = coefficients.windows(2).find(|pair| !(pair[1] >= 0.0 && pair[1] <= pair[0]));
        let bad = rise.map_or(0.0, |pair| pair[1]);
        require(rise.is_none(), "coefficients", bad, "from 1 not increasing and not negative")?;
        Ok(Self::Banded { coefficients })
    }

    /// A factor with buffers.
    ///
    /// # Errors
    /// If a weight is negative or they exceed 1 together, a decay is not in [0, 1), or there are not
    /// as many of both.
    pub fn buffered(weights: Vec<f64>, decays: Vec<f64>) -> Result<Self, ParameterError> {
        let same = weights.len() == decays.len() && !weights.is_empty();
        require(same, "decays", decays.len() as f64, "as many decays as weights, at least one")?;
        let sum: f64 = weights.iter().sum();
        let good = sum <= 1.0 && weights.iter().all(|weight| *weight >= 0.0);
        require(good, "weights", sum, "numbers from 0 that are at most 1 together")?;
        let bad = decays.iter().find(|decay| !(0.0..1.0).contains(*decay));
        require(bad.is_none(), "decays", bad.copied().unwrap_or(0.0), "numbers from 0 to below 1")?;
        Ok(Self::Buffered { weights, decays })
    }

    /// The first `rounds` coefficients of `C`.
    pub fn coefficients(&self, rounds: usize) -> Vec<f64> {
        match self {
            Self::SquareRoot => {
                let next = |c: &mut f64, j: usize| {
                    let now = *c;
                    *c *= (2 * j + 1) as f64 / (2 * j + 2) as f64;
                    Some(now)
                };
                (0..rounds).scan(1.0, next).collect()
            }
            Self::Banded { coefficients } => {
                let at = |j: usize| coefficients.get(j).copied().unwrap_or(0.0);
                (0..rounds).map(at).collect()
            }
            Self::Buffered { weights, decays } => {
                let mut powers = weights.clone();
                let mut coefficients = vec![1.0];
                for _ in 1..rounds {
                    coefficients.push(powers.iter().sum());
                    powers.iter_mut().zip(decays).for_each(|(power, decay)| *power *= decay);
                }
                coefficients.truncate(rounds);
                coefficients
            }
        }
    }
}

impl Strategy {
    /// L2 norm of what one unit with contributions of norm 1 adds to `C x`.
    ///
    /// For a Toeplitz factor the worst case is to take part as early and as often as possible
    /// (Kalinin and Lampert 2024, theorem 2).
    pub fn sensitivity(&self) -> f64 {
        match self {
            Self::Tree { .. } => (self.depth() as f64).sqrt(),
            Self::Toeplitz { factor, participation } => {
                sensitivity_of(&factor.coefficients(participation.rounds.get() as usize), *participation)
            }
        }
    }

    /// Root of the mean over the rounds of the variance of a prefix sum, per unit of `z`. A tree's
    /// prefix sum adds one node per binary digit of the round.
    pub fn error(&self) -> f64 {
        let variances: Vec<f64> = match self {
            Self::Tree { longest } => (1..=longest.get()).map(|t| f64::from(t.count_ones())).collect(),
            Self::Toeplitz { factor, participation } => {
                let rounds = participation.rounds.get() as usize;
                let (mut row, mut squares) = (0.0, 0.0);
                let inverse = inverse(&factor.coefficients(rounds));
                let cumulated = inverse.iter().map(|d| {
                    row += d;
                    squares += row * row;
                    squares
                });
                cumulated.collect()
            }
        };
        (variances.iter().sum::<f64>() / variances.len() as f64).sqrt()
    }

    /// Levels of a tree, ⌈log2(longest + 1)⌉; 1 for a Toeplitz factor.
    pub fn depth(&self) -> u32 {
        match self {
            Self::Tree { longest } => u64::BITS - longest.get().leading_zeros(),
            Self::Toeplitz { .. } => 1,
        }
    }
}

/// The sensitivity of a Toeplitz matrix with these first coefficients, 0 after them: not negative, not
/// increasing.
pub(crate) fn sensitivity_of(coefficients: &[f64], participation: Participation) -> f64 {
    let rounds = participation.rounds.get() as usize;
    let mut sum = vec![0.0; rounds];
    let step = participation.separation.get() as usize;
    let starts = (0..participation.most.get()).map(|l| (l as usize).saturating_mul(step));
    for start in starts.take_while(|start| *start < rounds) {
        sum[start..].iter_mut().zip(coefficients).for_each(|(sum, c)| *sum += c);
    }
    sum.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Coefficients of the inverse power series; the first one given is 1.
fn inverse(series: &[f64]) -> Vec<f64> {
    let mut inverse: Vec<f64> = Vec::with_capacity(series.len());
    for t in 0..series.len() {
        let tail: f64 = (1..=t).map(|j| series[j] * inverse[t - j]).sum();
        inverse.push(if t == 0 { 1.0 } else { -tail });
    }
    inverse
}

/// μ of Gaussian differential privacy of a correlated mechanism, per norm moved; `None` for others.
pub(crate) fn correlated_mu(mechanism: &Mechanism) -> Option<f64> {
    match mechanism {
        Mechanism::Correlated { noise_multiplier, strategy } => {
            Some(strategy.sensitivity() / noise_multiplier.get())
        }
        _ => None,
    }
}
