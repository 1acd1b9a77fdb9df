//! ε, δ, the clipping norm, the noise multiplier and probabilities, as types.
//!
//! A NaN or a negative value in one of them would not crash: it would silently turn a bound into
//! none. So each is checked once, where it is made, and deserialising goes through the same
//! constructor; behind it no code has to check again.

use serde::{Deserialize, Serialize};

/// A number for people: without hundreds of zeros.
pub(crate) struct Short(pub(crate) f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.abs();
        let plain = !size.is_finite() || size == 0.0 || (1e-5..1e17).contains(&size);
        if plain { write!(f, "{}", self.0) } else { write!(f, "{:e}", self.0) }
    }
}

/// Which parameter is out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("`{parameter}` is {}, expected {expected}", Short(*.value))]
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

/// A number with bounds: the type, its constructor and its two ways through serde.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $parameter:literal, $bounds:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            #[doc = concat!("Takes ", $expected, ".")]
            pub fn new(value: f64) -> Result<Self, ParameterError> {
                require(($bounds)(value), $parameter, value, $expected)?;
                Ok(Self(value))
            }

            /// The number itself.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = ParameterError;

            fn try_from(value: f64) -> Result<Self, ParameterError> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

bounded! {
    /// `C`, the largest L2 norm of a contribution. Below 1e-20 the rounding of `f32` could break it.
    ClipNorm, "clip_norm", |x| (1e-20..=1e20).contains(&x), "a number from 1e-20 to 1e20"
}

bounded! {
    /// `z`: the standard deviation of Gaussian noise (or the scale of Laplace noise) in units of the
    /// largest norm `C` of one contribution, whatever the adjacency is. When one contribution is
    /// replaced by another the sum moves by up to `2C`; the accountants count that themselves.
    NoiseMultiplier, "noise_multiplier", |x| (1e-3..=1e9).contains(&x), "a number from 1e-3 to 1e9"
}

bounded! {
    /// A probability that is not 0: of taking part in a round, of answering at random.
    Probability, "probability", |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1"
}

bounded! {
    /// A positive number: a variance or a norm on an integer grid, a rate.
    Positive, "positive number", |x| (1e-30..=1e30).contains(&x), "a number from 1e-30 to 1e30"
}

impl NoiseMultiplier {
    /// The multiplier of several Gaussian releases made from one sampled cohort, as one release:
    /// `z⁻² = Σ zᵢ⁻²`.
    ///
    /// # Errors
    /// If the list is empty or the result out of bounds.
    pub fn combined(multipliers: &[Self]) -> Result<Self, ParameterError> {
        Self::new(multipliers.iter().map(|z| z.0.powi(-2)).sum::<f64>().powf(-0.5))
    }
}

pub(crate) fn require(
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
    fn no_text_has_hundreds_of_zeros() {
        for (value, want) in [(0.0, "0"), (-3.0, "-3"), (0.25, "0.25"), (1e-300, "1e-300"), (1e300, "1e300")]
        {
            assert_eq!(Short(value).to_string(), want);
        }
        let message = Budget::new(1e-320, 2.0).unwrap_err().to_string();
        assert!(message.len() < 100, "{message}");
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
        for multiplier in [0.0, -1.0, 9e-4, 1e10, f64::NAN, f64::INFINITY] {
            assert_eq!(NoiseMultiplier::new(multiplier).unwrap_err().parameter, "noise_multiplier");
        }
        for probability in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(Probability::new(probability).unwrap_err().parameter, "probability");
        }
        assert!(Positive::new(0.0).is_err() && Positive::new(f64::NAN).is_err());
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
        assert!(parse::<Probability>("1.5").unwrap_err().contains("probability"));
        assert!(parse::<Positive>("-1").unwrap_err().contains("positive number"));
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

    #[test]
    fn two_releases_combine_to_one_with_less_noise() {
        let z = |z| NoiseMultiplier::new(z).unwrap();
        assert!((NoiseMultiplier::combined(&[z(3.0), z(4.0)]).unwrap().get() - 2.4).abs() < 1e-12);
        assert!(NoiseMultiplier::combined(&[]).is_err());
    }
}
