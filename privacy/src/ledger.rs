//! What was released, as data: events that anyone can account for again.
//!
//! A ledger states whose privacy it counts and which change to the data it protects against; an
//! event whose mechanism makes no statement for that change is refused when it is recorded, not when
//! someone asks for ε. Nothing here is stored: that is the coordinator's part.

use std::{collections::BTreeMap, num::NonZeroU64};

use serde::{Deserialize, Serialize};

use crate::{NoiseMultiplier, Positive, Probability, strategy::Strategy};

/// Whose data one unit of privacy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One record of a data set.
    Record,
    /// All records of one client.
    Client,
}

/// The change to the data that must not be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adjacency {
    /// One unit is there or not.
    AddRemove,
    /// One unit is replaced by another: the sum moves by up to twice the norm of a contribution.
    ReplaceOne,
    /// One unit's contribution is replaced by zero.
    ZeroOut,
}

/// A mechanism that is applied once to the contributions of those who take part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mechanism {
    /// Gaussian noise on a sum of vectors with bounded L2 norm; also Gaussian noise rounded to the
    /// grid of an integer sum, which is the same followed by rounding.
    Gaussian {
        /// Standard deviation over the norm of one contribution.
        noise_multiplier: NoiseMultiplier,
    },
    /// Discrete Gaussian noise on a sum of integer vectors (Canonne, Kamath and Steinke 2020).
    DiscreteGaussian {
        /// σ, in units of the grid.
        deviation: Positive,
        /// Largest L2 norm of one contribution, in units of the grid.
        sensitivity: NonZeroU64,
        /// Length of the vectors. The exact privacy loss is known for 1, a bound above.
        dimensions: NonZeroU64,
    },
    /// Laplace noise on a scalar sum.
    Laplace {
        /// Scale over the largest absolute value of one contribution.
        noise_multiplier: NoiseMultiplier,
    },
    /// Two-sided geometric noise on a scalar integer sum: `P(x) ∝ e^{-rate·|x|}`.
    DiscreteLaplace {
        /// Decay per unit of the grid.
        rate: Positive,
        /// Largest absolute value of one contribution, in units of the grid.
        sensitivity: NonZeroU64,
    },
    /// Each unit answers one of `categories` uniformly at random with this probability, else truly.
    RandomizedResponse {
        /// Probability of a random answer.
        noise: Probability,
        /// Number of possible answers.
        categories: Categories,
    },
    /// Skellam noise on a sum of integer vectors (Agarwal, Kairouz and Liu 2021).
    Skellam {
        /// Variance of the whole noise, in squared units of the grid.
        variance: Positive,
        /// Largest L1 norm of one contribution, in units of the grid.
        l1: Positive,
        /// Largest L2 norm of one contribution, in units of the grid.
        l2: Positive,
    },
    /// Sum of discrete Gaussian shares of many clients (Kairouz, Liu and Steinke 2021).
    DistributedDiscreteGaussian {
        /// Number of shares.
        shares: NonZeroU64,
        /// σ of one share, in units of the grid.
        deviation: Positive,
        /// Length of the vectors.
        dimensions: NonZeroU64,
        /// Largest L1 norm of one contribution, in units of the grid.
        l1: Positive,
        /// Largest L2 norm of one contribution, in units of the grid.
        l2: Positive,
    },
    /// Noise that is correlated over all rounds of a run: one event for the whole run.
    Correlated {
        /// Standard deviation of the uncorrelated noise over the norm of one contribution.
        noise_multiplier: NoiseMultiplier,
        /// How the noise is spread over the rounds.
        strategy: Strategy,
    },
}

/// Number of possible answers of a randomised response: from 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Categories(u32);

/// There are too few answers to hide one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`categories` is {0}, expected a number from 2")]
pub struct TooFewCategories(u32);

impl TryFrom<u32> for Categories {
    type Error = TooFewCategories;

    fn try_from(number: u32) -> Result<Self, TooFewCategories> {
        if number < 2 { Err(TooFewCategories(number)) } else { Ok(Self(number)) }
    }
}

impl From<Categories> for u32 {
    fn from(categories: Categories) -> Self {
        categories.0
    }
}

/// Who takes part in an event, drawn in secret.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "RawSampling")]
pub enum Sampling {
    /// Everyone.
    Everyone,
    /// Each independently with this probability.
    Poisson {
        /// Probability of taking part.
        rate: Probability,
    },
    /// As Poisson, but of a cohort above `most` only a uniform subset of that size is kept.
    TruncatedPoisson {
        /// Probability of being drawn.
        rate: Probability,
        /// Number of units that are drawn from.
        population: NonZeroU64,
        /// Largest cohort.
        most: NonZeroU64,
    },
    /// A uniform subset of a fixed size, without replacement.
    FixedSize {
        /// Number of units that are drawn from.
        population: NonZeroU64,
        /// Number that take part, at most `population`.
        sample: NonZeroU64,
    },
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum RawSampling {
    Everyone,
    Poisson { rate: Probability },
    TruncatedPoisson { rate: Probability, population: NonZeroU64, most: NonZeroU64 },
    FixedSize { population: NonZeroU64, sample: NonZeroU64 },
}

impl TryFrom<RawSampling> for Sampling {
    type Error = LedgerError;

    fn try_from(raw: RawSampling) -> Result<Self, LedgerError> {
        let sampling = match raw {
            RawSampling::Everyone => Self::Everyone,
            RawSampling::Poisson { rate } => Self::Poisson { rate },
            RawSampling::TruncatedPoisson { rate, population, most } => {
                Self::TruncatedPoisson { rate, population, most }
            }
            RawSampling::FixedSize { population, sample } => Self::FixedSize { population, sample },
        };
        sampling.check().map(|()| sampling)
    }
}

impl Sampling {
    fn check(self) -> Result<(), LedgerError> {
        match self {
            Self::FixedSize { population, sample: part }
            | Self::TruncatedPoisson { population, most: part, .. }
                if part > population =>
            {
                Err(LedgerError::TooLarge { part: part.get(), population: population.get() })
            }
            _ => Ok(()),
        }
    }
}

/// `count` applications of one mechanism with fresh noise and fresh sampling each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What was applied.
    pub mechanism: Mechanism,
    /// To whom.
    pub sampling: Sampling,
    /// How often.
    pub count: NonZeroU64,
}

/// Why an event or a ledger makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The mechanism makes no statement for this adjacency.
    #[error("{mechanism} makes no statement for the adjacency `{adjacency}`: {reason}")]
    Adjacency {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// Name of the adjacency.
        adjacency: &'static str,
        /// What would be right.
        reason: &'static str,
    },
    /// No theorem covers this way of sampling for this mechanism.
    #[error("{mechanism} cannot be accounted for with `{sampling}` sampling: {reason}")]
    Sampling {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// Name of the sampling.
        sampling: &'static str,
        /// What would be right.
        reason: &'static str,
    },
    /// More are drawn than there are.
    #[error("a sample of {part} from a population of {population}, expected at most the population")]
    TooLarge {
        /// Size of the sample.
        part: u64,
        /// Size of the population.
        population: u64,
    },
}

/// All releases from one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawLedger")]
pub struct Ledger {
    unit: Unit,
    adjacency: Adjacency,
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLedger {
    unit: Unit,
    adjacency: Adjacency,
    events: Vec<Event>,
}

impl TryFrom<RawLedger> for Ledger {
    type Error = LedgerError;

    fn try_from(raw: RawLedger) -> Result<Self, LedgerError> {
        let mut ledger = Self::new(raw.unit, raw.adjacency);
        raw.events.into_iter().try_for_each(|event| ledger.record(event))?;
        Ok(ledger)
    }
}

impl Ledger {
    /// A ledger without a release.
    pub fn new(unit: Unit, adjacency: Adjacency) -> Self {
        Self { unit, adjacency, events: Vec::new() }
    }

    /// Appends an event.
    ///
    /// # Errors
    /// If the mechanism makes no statement for this adjacency or this sampling.
    pub fn record(&mut self, event: Event) -> Result<(), LedgerError> {
        event.sampling.check()?;
        check(&event, self.adjacency)?;
        self.events.push(event);
        Ok(())
    }

    /// Whose privacy is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// What is protected against.
    pub fn adjacency(&self) -> Adjacency {
        self.adjacency
    }

    /// The events in the order in which they were recorded.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Equal events added up, in an order that does not depend on that of recording.
    pub(crate) fn merged(&self) -> Vec<(&Event, f64)> {
        let mut merged: BTreeMap<String, (&Event, f64)> = BTreeMap::new();
        for event in &self.events {
            let key = format!("{:?} {:?}", event.mechanism, event.sampling);
            merged.entry(key).or_insert((event, 0.0)).1 += event.count.get() as f64;
        }
        merged.into_values().collect()
    }
}

fn check(event: &Event, adjacency: Adjacency) -> Result<(), LedgerError> {
    let mechanism = event.mechanism.name();
    let replace = adjacency == Adjacency::ReplaceOne;
    let refuse = |reason| Err(LedgerError::Adjacency { mechanism, adjacency: adjacency.name(), reason });
    match event.mechanism {
        Mechanism::RandomizedResponse { .. } if !replace => {
            return refuse("an answer is always given, so that it can only be replaced; use `replace_one`");
        }
        Mechanism::Correlated { .. } if adjacency == Adjacency::AddRemove => {
            return refuse("rounds of participation are fixed; use `zero_out` or `replace_one`");
        }
        _ => {}
    }
    let sampling = event.sampling.name();
    let refuse = |reason| Err(LedgerError::Sampling { mechanism, sampling, reason });
    let scalar =
        matches!(event.mechanism, Mechanism::DiscreteGaussian { dimensions, .. } if dimensions.get() == 1);
    match (&event.mechanism, event.sampling) {
        (_, Sampling::Everyone) => Ok(()),
        (Mechanism::RandomizedResponse { .. } | Mechanism::Correlated { .. }, _) => {
            refuse("no amplification is proved for it; use `everyone`")
        }
        (Mechanism::Gaussian { .. }, Sampling::FixedSize { .. }) if replace => Ok(()),
        (_, Sampling::FixedSize { .. }) => {
            refuse("only `gaussian` with the adjacency `replace_one` is covered")
        }
        (Mechanism::Gaussian { .. }, Sampling::TruncatedPoisson { .. }) if !replace => Ok(()),
        (_, Sampling::TruncatedPoisson { .. }) => {
            refuse("only `gaussian` with the adjacencies `add_remove` and `zero_out` is covered")
        }
        (Mechanism::Skellam { .. } | Mechanism::DistributedDiscreteGaussian { .. }, _) if replace => {
            refuse("amplification is proved for `add_remove` and `zero_out`")
        }
        (Mechanism::DiscreteGaussian { .. }, _) if replace && !scalar => {
            refuse("amplification is proved for `add_remove` and `zero_out`")
        }
        (_, Sampling::Poisson { .. }) => Ok(()),
    }
}

impl Adjacency {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AddRemove => "add_remove",
            Self::ReplaceOne => "replace_one",
            Self::ZeroOut => "zero_out",
        }
    }

    /// By how many norms of one contribution the sum may move.
    pub(crate) fn moves(self) -> f64 {
        if self == Self::ReplaceOne { 2.0 } else { 1.0 }
    }
}

impl Sampling {
    fn name(self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Poisson { .. } => "poisson",
            Self::TruncatedPoisson { .. } => "truncated_poisson",
            Self::FixedSize { .. } => "fixed_size",
        }
    }
}

impl Mechanism {
    fn name(&self) -> &'static str {
        match self {
            Self::Gaussian { .. } => "gaussian",
            Self::DiscreteGaussian { .. } => "discrete_gaussian",
            Self::Laplace { .. } => "laplace",
            Self::DiscreteLaplace { .. } => "discrete_laplace",
            Self::RandomizedResponse { .. } => "randomized_response",
            Self::Skellam { .. } => "skellam",
            Self::DistributedDiscreteGaussian { .. } => "distributed_discrete_gaussian",
            Self::Correlated { .. } => "correlated",
        }
    }
}

#[cfg(test)]
mod tests;
