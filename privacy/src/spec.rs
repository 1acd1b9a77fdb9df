//! The `[privacy]` section of a run file: what a run promises and by which mechanism, as one type that
//! cannot hold a promise that makes no sense.
//!
//! [`PrivacySpec::plan`] turns it into numbers for a given run: noise, grid, the events to record.

mod keys;
mod plan;
mod shares;

pub use plan::{Plan, PlanError, RunFacts};
use serde::{Deserialize, Serialize};

use crate::{
    Accountant, Adjacency, Budget, ClipNorm, NoiseMultiplier, Positive, Probability, Sampling, Unit,
    adaptive::QuantileClip, metrics::MetricsSpec, shares::ModulusBits, strategy::Factor,
};

/// How a run is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MechanismKind {
    /// The coordinator adds rounded Gaussian noise to the sum of clipped updates (DP-FedAvg).
    CentralGaussian,
    /// The coordinator adds discrete Gaussian noise.
    CentralDiscreteGaussian,
    /// Each client adds Gaussian noise to its own update before anything leaves it.
    LocalGaussian,
    /// Workers clip the gradient of each record and add noise to each step (DP-SGD).
    DpSgd,
    /// The coordinator adds noise that is correlated over the rounds (DP-FTRL): no sampling is assumed.
    DpFtrl,
    /// Clients add shares of Skellam noise, which adds up.
    Skellam,
    /// Clients add shares of discrete Gaussian noise.
    DistributedDiscreteGaussian,
}

/// How much noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Noise {
    /// This much; what it costs is reported.
    Multiplier(NoiseMultiplier),
    /// As much as this ε takes at the run's δ.
    Epsilon(f64),
}

/// Rounds that one unit takes part in, when that is fixed beforehand and not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// Largest number of rounds.
    pub most: std::num::NonZeroU64,
    /// Smallest distance of two of them.
    #[serde(default = "one")]
    pub separation: std::num::NonZeroU64,
}

fn one() -> std::num::NonZeroU64 {
    std::num::NonZeroU64::MIN
}

/// Correlation of the noise of DP-FTRL over rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StrategyKind {
    /// Binary trees, with a restart whenever a unit may come again; one participation a tree.
    Tree,
    /// A Toeplitz factor.
    Toeplitz {
        /// Its coefficients.
        factor: Factor,
    },
}

/// A clipping norm that follows a quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveSpec {
    /// The share of contributions that shall not be clipped.
    pub quantile: Probability,
    /// Step of the logarithm of the norm.
    pub learning_rate: Positive,
    /// Standard deviation of the noise on the count of clients within the norm.
    pub count_noise: Positive,
}

impl AdaptiveSpec {
    /// The rule that moves the norm.
    pub fn rule(self) -> QuantileClip {
        QuantileClip { quantile: self.quantile, learning_rate: self.learning_rate }
    }
}

/// What the clipping norm bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clipping {
    /// The norm of a whole contribution.
    #[default]
    Flat,
    /// The norm of each of its `L` tensors, at `clip_norm / √L` each, so that the whole keeps to `clip_norm`
    /// (McMahan, Ramage, Talwar and Zhang 2018).
    PerLayer,
}

impl Clipping {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    fn is_flat(&self) -> bool {
        *self == Self::Flat
    }
}

/// How the budget is watched during the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The noise of all rounds is fixed before the first.
    #[default]
    Schedule,
    /// A bound on a sum that stays valid when later rounds are chosen after seeing earlier ones.
    Filter,
}

/// The section, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawSpec", into = "RawSpec")]
pub struct PrivacySpec {
    pub(crate) unit: Unit,
    pub(crate) adjacency: Adjacency,
    pub(crate) mechanism: MechanismKind,
    pub(crate) clip_norm: ClipNorm,
    pub(crate) clipping: Clipping,
    pub(crate) noise: Noise,
    pub(crate) delta: f64,
    pub(crate) sampling: Sampling,
    pub(crate) participation: Option<Cap>,
    pub(crate) strategy: Option<StrategyKind>,
    pub(crate) adaptive: Option<AdaptiveSpec>,
    pub(crate) metrics: Option<MetricsSpec>,
    pub(crate) least_shares: Option<std::num::NonZeroU64>,
    pub(crate) modulus_bits: Option<ModulusBits>,
    pub(crate) accountant: Option<Accountant>,
    pub(crate) stop: Stop,
    pub(crate) hidden_state: bool,
}

/// The section as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    unit: Unit,
    adjacency: Adjacency,
    mechanism: MechanismKind,
    clip_norm: ClipNorm,
    #[serde(default, skip_serializing_if = "Clipping::is_flat")]
    clipping: Clipping,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise_multiplier: Option<NoiseMultiplier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epsilon: Option<f64>,
    delta: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accountant: Option<Accountant>,
    #[serde(default)]
    stop: Stop,
    #[serde(default)]
    hidden_state: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    least_shares: Option<std::num::NonZeroU64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modulus_bits: Option<ModulusBits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sampling: Option<Sampling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    participation: Option<Cap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strategy: Option<StrategyKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adaptive_clipping: Option<AdaptiveSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metrics: Option<MetricsSpec>,
}

/// What is wrong with a section.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// A number is out of bounds.
    #[error(transparent)]
    Parameter(#[from] crate::ParameterError),
    /// Keys do not fit together.
    #[error("`{key}`: {expected}")]
    Key {
        /// The key that is wrong or missing.
        key: &'static str,
        /// What was expected.
        expected: &'static str,
    },
}

fn wrong<T>(key: &'static str, expected: &'static str) -> Result<T, SpecError> {
    Err(SpecError::Key { key, expected })
}

impl TryFrom<RawSpec> for PrivacySpec {
    type Error = SpecError;

    fn try_from(raw: RawSpec) -> Result<Self, SpecError> {
        let noise = match (raw.noise_multiplier, raw.epsilon) {
            (Some(multiplier), None) => Noise::Multiplier(multiplier),
            (None, Some(epsilon)) => Noise::Epsilon(Budget::new(epsilon, raw.delta)?.epsilon()),
            _ => return wrong("noise_multiplier", "give either `noise_multiplier` or `epsilon`, not both"),
        };
        Budget::new(1.0, raw.delta)?;
        if raw.delta == 0.0 {
            return wrong("delta", "a number above 0: Gaussian noise has no guarantee at δ = 0");
        }
        let sampling = match (raw.sampling, raw.participation) {
            (Some(sampling), _) => sampling,
            (None, Some(_)) => Sampling::Everyone,
            (None, None) => {
                return wrong(
                    "sampling",
                    "say who takes part: `sampling = { kind = \"everyone\" }`, `{ kind = \"poisson\", rate = … }`, or a `participation` cap",
                );
            }
        };
        let spec = Self {
            unit: raw.unit,
            adjacency: raw.adjacency,
            mechanism: raw.mechanism,
            clip_norm: raw.clip_norm,
            clipping: raw.clipping,
            noise,
            delta: raw.delta,
            sampling,
            participation: raw.participation,
            strategy: raw.strategy,
            adaptive: raw.adaptive_clipping,
            metrics: raw.metrics,
            least_shares: raw.least_shares,
            modulus_bits: raw.modulus_bits,
            accountant: raw.accountant,
            stop: raw.stop,
            hidden_state: raw.hidden_state,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl From<PrivacySpec> for RawSpec {
    fn from(spec: PrivacySpec) -> Self {
        let (noise_multiplier, epsilon) = match spec.noise {
            Noise::Multiplier(multiplier) => (Some(multiplier), None),
            Noise::Epsilon(epsilon) => (None, Some(epsilon)),
        };
        let implied = spec.participation.is_some() && spec.sampling == Sampling::Everyone;
        let sampling = if implied { None } else { Some(spec.sampling) };
        Self {
            unit: spec.unit,
            adjacency: spec.adjacency,
            mechanism: spec.mechanism,
            clip_norm: spec.clip_norm,
            clipping: spec.clipping,
            noise_multiplier,
            epsilon,
            delta: spec.delta,
            accountant: spec.accountant,
            stop: spec.stop,
            hidden_state: spec.hidden_state,
            least_shares: spec.least_shares,
            modulus_bits: spec.modulus_bits,
            sampling,
            participation: spec.participation,
            strategy: spec.strategy,
            adaptive_clipping: spec.adaptive,
            metrics: spec.metrics,
        }
    }
}

impl PrivacySpec {
    fn check(&self) -> Result<(), SpecError> {
        self.check_unit()?;
        self.check_strategy()?;
        self.check_shares()?;
        self.check_rest()
    }

    fn check_unit(&self) -> Result<(), SpecError> {
        use MechanismKind as Kind;
        let everyone = self.sampling == Sampling::Everyone;
        // DP-SGD samples records within the rounds that the cap counts.
        if !everyone && self.participation.is_some() && self.mechanism != Kind::DpSgd {
            return wrong("participation", "a cap is for cohorts that are not drawn: leave `sampling` out");
        }
        if self.participation.is_some() && self.adjacency == Adjacency::AddRemove {
            return wrong(
                "adjacency",
                "with a `participation` cap rounds are fixed: `zero_out` or `replace_one`",
            );
        }
        let record = self.unit == Unit::Record;
        match self.mechanism {
            Kind::DpSgd if !record => {
                return wrong("unit", "`dp_sgd` protects one record: `unit = \"record\"`");
            }
            Kind::DpSgd => {}
            _ if record => {
                return wrong(
                    "unit",
                    "this mechanism protects all of a client's records: `unit = \"client\"`",
                );
            }
            Kind::LocalGaussian if self.adjacency != Adjacency::ReplaceOne => {
                return wrong(
                    "adjacency",
                    "a client always answers, so that its data can only be replaced: `replace_one`",
                );
            }
            Kind::LocalGaussian if !everyone => {
                return wrong(
                    "sampling",
                    "who sees single updates sees who took part: `everyone` or a `participation` cap",
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn check_strategy(&self) -> Result<(), SpecError> {
        use MechanismKind as Kind;
        match (self.mechanism, &self.strategy) {
            (Kind::DpFtrl, None) => {
                return wrong(
                    "strategy",
                    "`dp_ftrl` needs one: `{ kind = \"tree\" }` or `{ kind = \"toeplitz\", factor = … }`",
                );
            }
            (Kind::DpFtrl, Some(_)) if self.participation.is_none() => {
                return wrong("participation", "`dp_ftrl` needs a cap: `{ most = …, separation = … }`");
            }
            (Kind::DpFtrl, Some(StrategyKind::Tree))
                if self.participation.is_some_and(|cap| cap.most.get() > 1) =>
            {
                return wrong("participation", "a tree is accounted for one participation: `most = 1`");
            }
            (Kind::DpFtrl, _) | (_, None) => {}
            (_, Some(_)) => return wrong("strategy", "only `dp_ftrl` correlates its noise"),
        }
        Ok(())
    }

    fn check_rest(&self) -> Result<(), SpecError> {
        use MechanismKind as Kind;
        if self.mechanism == Kind::CentralDiscreteGaussian && self.participation.is_some() {
            return wrong(
                "participation",
                "a cap is covered for rounded Gaussian noise only: `central_gaussian`",
            );
        }
        if self.adaptive.is_some() && self.mechanism != Kind::CentralGaussian {
            return wrong("adaptive_clipping", "the norm can follow a quantile with `central_gaussian` only");
        }
        if self.metrics.is_some() && self.mechanism != Kind::CentralGaussian {
            return wrong("metrics", "they can be paid for with `central_gaussian` only");
        }
        if self.adaptive.is_some() && !self.clipping.is_flat() {
            return wrong("adaptive_clipping", "the quantile is one of whole norms: `clipping = \"flat\"`");
        }
        if self.stop == Stop::Filter && self.accountant.is_some_and(|a| a != Accountant::Rdp) {
            return wrong("accountant", "a filter sums Rényi divergences: `rdp`, or leave it out");
        }
        if self.hidden_state && self.mechanism != Kind::LocalGaussian {
            return wrong(
                "hidden_state",
                "bounds for hidden models are known for noise on each upload: `local_gaussian`",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
