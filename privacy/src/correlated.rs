//! DP-FTRL's noise, round after round, exact: what is added to the sum of each round so that the sums
//! over all rounds so far carry little noise.
//!
//! The mechanism is `y = C x + z` with exact Gaussian `z`, and what is released is a function of `y`. On
//! integers that argument needs care: with a real `C` the fraction of `C x` would show through integer
//! noise. So `C` is made of whole numbers here:
//!
//! * A tree's nodes are sums of rounds already.
//! * Toeplitz coefficients are scaled and rounded to whole numbers `c'`, with `c'_0 = N`. The release
//!   is `x_t + e_t` with `e_t = ⌊(z_t − Σ_j c'_j e_{t−j}) / N⌉`, which equals `⌊(y_t − Σ_j c'_j x̂_{t−j})/N⌉`,
//!   a function of `y` alone, though no sum is stored.
//! * With buffers the recursion is rounded at each step in finer units. How far that moves two
//!   neighbouring runs apart is bounded, and paid for with a little more noise.
//!
//! The noise is calibrated to the sensitivity of the rounded matrix, so that the ledger's event, which
//! states the real one, holds as it stands.

mod buffered;

use std::num::NonZeroU64;

use buffered::Buffers;
use serde::{Deserialize, Serialize};

use crate::{
    Grid, NoiseMultiplier, ParameterError,
    parameters::require,
    sampler::{Key, Kind, Sampler},
    strategy::{Factor, Participation, Strategy, sensitivity_of},
};

/// The largest deviation that the sampler takes, as a power of two.
const DEVIATION_BITS: f64 = 29.9;
/// The finest scale of Toeplitz coefficients.
const MOST_SCALE_BITS: u32 = 14;
/// The coarsest.
const LEAST_SCALE_BITS: u32 = 6;

/// Noise for one run; what changes from round to round is in a [`State`].
#[derive(Debug, Clone)]
pub struct CorrelatedNoise {
    sampler: Sampler,
    rounds: u64,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Tree { longest: u64 },
    Toeplitz { coefficients: Vec<i64> },
    Buffered(Buffers),
}

/// What has to be kept from round to round for one shard of a vector. A round that is retried starts
/// from the state before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Rounds that are done.
    pub round: u64,
    /// Vectors of the shard's length; which, depends on the strategy.
    pub memory: Vec<Vec<i64>>,
}

/// Why a round gets no noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The strategy was made, and paid for, for fewer rounds.
    #[error("round {round} is beyond the {rounds} rounds of the strategy")]
    Finished {
        /// The round that was asked for, from 1.
        round: u64,
        /// Rounds of the strategy.
        rounds: u64,
    },
    /// The state is of another strategy or shard.
    #[error("the state has {found}, expected {expected}")]
    State {
        /// What there is.
        found: usize,
        /// What there should be: vectors, or elements of each.
        expected: usize,
    },
}

impl CorrelatedNoise {
    /// Noise for sums of contributions on `grid` with `dimensions` elements together, for an event
    /// `Correlated` with this multiplier and strategy.
    ///
    /// # Errors
    /// If the noise has more quanta than the sampler takes: choose a coarser grid.
    pub fn new(
        strategy: &Strategy,
        noise: NoiseMultiplier,
        grid: Grid,
        dimensions: NonZeroU64,
    ) -> Result<Self, ParameterError> {
        let base = noise.get() * grid.sensitivity().get() as f64;
        match strategy {
            Strategy::Tree { longest } => {
                require(longest.get() < 1 << 32, "longest", longest.get() as f64, "below 2^32 rounds")?;
                let form = Form::Tree { longest: longest.get() };
                Ok(Self { sampler: sampler(base, noise)?, rounds: u64::MAX, form })
            }
            Strategy::Toeplitz { factor: Factor::Buffered { weights, decays }, participation } => {
                let buffers = Buffers::new(weights, decays, base);
                let deviation = buffers.deviation(noise, grid, (*participation, dimensions), strategy);
                let (sampler, rounds) = (sampler(deviation, noise)?, participation.rounds.get());
                Ok(Self { sampler, rounds, form: Form::Buffered(buffers) })
            }
            Strategy::Toeplitz { factor, participation } => {
                Self::toeplitz(factor, *participation, (base, noise), strategy.sensitivity())
            }
        }
    }

    fn toeplitz(
        factor: &Factor,
        participation: Participation,
        (base, noise): (f64, NoiseMultiplier),
        claimed: f64,
    ) -> Result<Self, ParameterError> {
        let bits = (DEVIATION_BITS - base.log2()).floor().clamp(0.0, f64::from(MOST_SCALE_BITS)) as u32;
        let fits = "a multiplier whose noise leaves six bits for the coefficients on this grid";
        require(bits >= LEAST_SCALE_BITS, "noise_multiplier", noise.get(), fits)?;
        let scale = f64::from(1 << bits);
        let rounds = participation.rounds.get();
        let mut coefficients: Vec<f64> =
            factor.coefficients(rounds as usize).iter().map(|c| (c * scale).round_ties_even()).collect();
        let used = coefficients.iter().rposition(|c| *c != 0.0).map_or(1, |last| last + 1);
        coefficients.truncate(used);
        // Rounding keeps the coefficients from rising, so that the same worst case holds.
        let exact = sensitivity_of(&coefficients, participation);
        let sampler = sampler(base * exact / claimed, noise)?;
        let coefficients = coefficients.into_iter().map(|c| c as i64).collect();
        Ok(Self { sampler, rounds, form: Form::Toeplitz { coefficients } })
    }

    /// The state before the first round of a shard with this many elements.
    pub fn start(&self, length: usize) -> State {
        let memory = match &self.form {
            Form::Tree { .. } | Form::Toeplitz { .. } => Vec::new(),
            Form::Buffered(buffers) => buffers.start(length),
        };
        State { round: 0, memory }
    }

    /// Adds the noise of the next round to one shard of the sum, in quanta of the grid. The key is for
    /// this stream alone: round or node numbers are its release numbers.
    ///
    /// # Errors
    /// If the strategy has no further round or the state is of another one; then nothing was changed.
    pub fn advance(
        &self,
        key: &Key,
        place: (u32, u32),
        state: &mut State,
        sum: &mut [i64],
    ) -> Result<(), StreamError> {
        let round = state.round + 1;
        if round > self.rounds {
            return Err(StreamError::Finished { round, rounds: self.rounds });
        }
        let expected = match &self.form {
            Form::Tree { .. } => 0,
            Form::Toeplitz { coefficients } => (coefficients.len() - 1).min(state.round as usize),
            Form::Buffered(buffers) => buffers.vectors(),
        };
        if state.memory.len() != expected {
            return Err(StreamError::State { found: state.memory.len(), expected });
        }
        if let Some(other) = state.memory.iter().find(|vector| vector.len() != sum.len()) {
            return Err(StreamError::State { found: other.len(), expected: sum.len() });
        }
        let fresh = |number: u64| {
            let mut noise = vec![0; sum.len()];
            key.release(number).add_noise(&self.sampler, place, &mut noise, 1);
            noise
        };
        match &self.form {
            Form::Tree { longest } => {
                let noise = tree(round - 1, *longest, fresh);
                sum.iter_mut().zip(&noise).for_each(|(sum, e)| *sum = sum.wrapping_add(*e));
            }
            Form::Toeplitz { coefficients } => {
                let noise = toeplitz(coefficients, &state.memory, fresh(round));
                sum.iter_mut().zip(&noise).for_each(|(sum, e)| *sum = sum.wrapping_add(*e));
                if coefficients.len() > 1 {
                    state.memory.insert(0, noise);
                    state.memory.truncate(coefficients.len() - 1);
                }
            }
            Form::Buffered(buffers) => buffers.advance(&mut state.memory, &fresh(round), sum),
        }
        state.round = round;
        Ok(())
    }

    /// Standard deviation of the uncorrelated noise, in its own units: for tests and reports.
    pub fn variance(&self) -> u64 {
        self.sampler.variance()
    }
}

fn sampler(deviation: f64, noise: NoiseMultiplier) -> Result<Sampler, ParameterError> {
    let variance = (deviation * deviation * (1.0 + 1e-12)).ceil().max(1.0);
    let fits = "a multiplier whose noise has at most 2^30 quanta of the grid";
    require(variance <= 2.0_f64.powi(60), "noise_multiplier", noise.get(), fits)?;
    let variance = NonZeroU64::new(variance as u64).unwrap_or(NonZeroU64::MIN);
    Sampler::new(Kind::Rounded, variance).map_err(|_| ParameterError {
        parameter: "noise_multiplier",
        value: noise.get(),
        expected: fits,
    })
}

/// The difference of the noise of two successive prefix sums: the node that ends here, less the smaller
/// ones that it covers.
fn tree(before: u64, longest: u64, fresh: impl Fn(u64) -> Vec<i64>) -> Vec<i64> {
    let (epoch, at) = (before / longest, before % longest + 1);
    let node = |level: u32, index: u64| fresh(epoch << 38 | u64::from(level) << 32 | index);
    let level = at.trailing_zeros();
    let mut noise = node(level, at >> level);
    for lower in 0..level {
        let covered = node(lower, (at - 1) >> lower);
        noise.iter_mut().zip(covered).for_each(|(noise, z)| *noise -= z);
    }
    noise
}

/// `⌊(z − Σ_j c_j e_{t−j}) / c_0⌉` for a `c_0` that is a power of two; the latest `e` is first.
fn toeplitz(coefficients: &[i64], past: &[Vec<i64>], mut noise: Vec<i64>) -> Vec<i64> {
    for (c, e) in coefficients[1..].iter().zip(past) {
        noise.iter_mut().zip(e).for_each(|(noise, e)| *noise -= c * e);
    }
    let (bits, half) = (coefficients[0].trailing_zeros(), coefficients[0] >> 1);
    for noise in &mut noise {
        *noise = (*noise + half) >> bits;
    }
    noise
}

#[cfg(test)]
mod tests;
