//! ε, δ, the clipping norm and the noise multiplier, as types.
//!
//! A NaN or a negative value in one of them would not crash: it would silently turn a bound into
//! none. So each is checked once, where it is made, and deserialising goes through the same
//! constructor; behind it no code has to check again.

use serde::{Deserialize, Serialize};

/// Which parameter is out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("`{parameter}` is {value}, expected {expected}")]
pub struct ParameterError {
    /// Name of the parameter, as in a run file.
    pub parameter: &'static str,
    /// What was given.
    pub value: f64,
    /// What would be right.
    pub expected: &'static str,
}

/// The target (ε, δ) of a differentially private run (Dwork and Roth 2014, definition 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawBudget")]
pub struct Budget {
    epsilon: f64,
    delta: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBudget {
    epsilon: f64,
    delta: f64,
}

impl Budget {
    /// A budget with `epsilon` finite and above 0, and `delta` from 0 to below 1.
    pub fn new(epsilon: f64, delta: f64) -> Result<Self, ParameterError> {
        let positive = epsilon.is_finite() && epsilon > 0.0;
        require(positive, "epsilon", epsilon, "a finite number above 0")?;
        require((0.0..1.0).contains(&delta), "delta", delta, "a number from 0 to below 1")?;
        Ok(Self { epsilon, delta })
    }

    /// ε.
    pub fn epsilon(self) -> f64 {
        self.epsilon
    }

    /// δ.
    pub fn delta(self) -> f64 {
        self.delta
    }
}

impl TryFrom<RawBudget> for Budget {
    type Error = ParameterError;

    fn try_from(raw: RawBudget) -> Result<Self, ParameterError> {
        Self::new(raw.epsilon, raw.delta)
    }
}

/// `C`, the largest L2 norm of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct ClipNorm(f64);

impl ClipNorm {
    /// A norm from 1e-20, below which the rounding of `f32` could break the bound, to 1e20.
    pub fn new(norm: f64) -> Result<Self, ParameterError> {
        require((1e-20..=1e20).contains(&norm), "clip_norm", norm, "a number from 1e-20 to 1e20")?;
        Ok(Self(norm))
    }

    /// The bound itself.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// `z = σ / Δ`: the standard deviation of Gaussian noise in units of the L2 sensitivity.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct NoiseMultiplier(f64);

impl NoiseMultiplier {
    /// A multiplier that is finite and above 0.
    pub fn new(multiplier: f64) -> Result<Self, ParameterError> {
        let positive = multiplier.is_finite() && multiplier > 0.0;
        require(positive, "noise_multiplier", multiplier, "a finite number above 0")?;
        Ok(Self(multiplier))
    }

    /// The multiplier itself, without a unit.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for ClipNorm {
    type Error = ParameterError;

    fn try_from(norm: f64) -> Result<Self, ParameterError> {
        Self::new(norm)
    }
}

impl From<ClipNorm> for f64 {
    fn from(norm: ClipNorm) -> Self {
        norm.0
    }
}

impl TryFrom<f64> for NoiseMultiplier {
    type Error = ParameterError;

    fn try_from(multiplier: f64) -> Result<Self, ParameterError> {
        Self::new(multiplier)
    }
}

impl From<NoiseMultiplier> for f64 {
    fn from(multiplier: NoiseMultiplier) -> Self {
        multiplier.0
    }
}

fn require(
    holds: bool,
    parameter: &'static str,
    value: f64,
    expected: &'static str,
) -> Result<(), ParameterError> {
    if holds { Ok(()) } else { Err(ParameterError { parameter, value, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_violated_bound_is_named_by_the_constructor() {
        for (epsilon, delta, parameter) in [
            (0.0, 1e-5, "epsilon"),
            (-1.0, 1e-5, "epsilon"),
            (f64::NAN, 1e-5, "epsilon"),
            (f64::INFINITY, 1e-5, "epsilon"),
            (1.0, -1e-9, "delta"),
            (1.0, 1.0, "delta"),
            (1.0, f64::NAN, "delta"),
        ] {
            assert_eq!(Budget::new(epsilon, delta).unwrap_err().parameter, parameter, "{epsilon} {delta}");
        }
        for norm in [0.0, -1.0, 1e-21, 1e21, f64::NAN, f64::INFINITY] {
            assert_eq!(ClipNorm::new(norm).unwrap_err().parameter, "clip_norm", "{norm}");
        }
        for multiplier in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(NoiseMultiplier::new(multiplier).unwrap_err().parameter, "noise_multiplier");
        }
    }

    #[test]
    fn deserialising_checks_the_same_bounds() {
        let message = parse::<Budget>(r#"{"epsilon": -2, "delta": 1e-5}"#).unwrap_err();
        assert!(message.contains("`epsilon` is -2, expected a finite number above 0"), "{message}");
        let message = parse::<Budget>(r#"{"epsilon": 2, "delta": 1}"#).unwrap_err();
        assert!(message.contains("`delta` is 1, expected a number from 0 to below 1"), "{message}");
        assert!(parse::<Budget>(r#"{"epsilon": 1, "delta": 0, "dleta": 0}"#).unwrap_err().contains("dleta"));
        assert!(parse::<Budget>(r#"{"epsilon": 1}"#).unwrap_err().contains("delta"));
        assert!(parse::<ClipNorm>("0").unwrap_err().contains("clip_norm"));
        assert!(parse::<NoiseMultiplier>("-0.5").unwrap_err().contains("noise_multiplier"));
    }

    #[test]
    fn good_values_survive_a_round_trip() {
        let budget = Budget::new(8.0, 0.0).unwrap();
        assert_eq!((budget.epsilon(), budget.delta()), (8.0, 0.0));
        assert_eq!(parse::<Budget>(&serde_json::to_string(&budget).unwrap()), Ok(budget));
        let (norm, noise) = (ClipNorm::new(1.5).unwrap(), NoiseMultiplier::new(0.7).unwrap());
        assert_eq!((norm.get(), noise.get()), (1.5, 0.7));
        assert_eq!(parse::<ClipNorm>(&serde_json::to_string(&norm).unwrap()), Ok(norm));
        assert_eq!(parse::<NoiseMultiplier>(&serde_json::to_string(&noise).unwrap()), Ok(noise));
    }
}
