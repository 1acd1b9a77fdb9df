//! `[stragglers]`: clients that are slow, in a simulation, whose clock is virtual.

use super::{RunSpec, SpecError, check::require};
use serde::{Deserialize, Serialize};

/// How the speeds of simulated clients differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StragglerSpec {
    /// Share of the clients that are slow, 0 to 1; rounded to whole clients.
    #[serde(default)]
    pub fraction: f64,
    /// How many times as long a local step takes there; at least 1.
    #[serde(default = "one")]
    pub slowdown: f64,
    /// On each client a step takes `exp(σ z)` times as long, z standard normal; 0: alike.
    #[serde(default)]
    pub sigma: f64,
}

fn one() -> f64 {
    1.0
}

impl RunSpec {
    pub(super) fn check_stragglers(&self) -> Result<(), SpecError> {
        let Some(StragglerSpec { fraction, slowdown, sigma }) = self.stragglers else { return Ok(()) };
        require((0.0..=1.0).contains(&fraction), "stragglers.fraction", || "expected 0 to 1".into())?;
        require((1.0..=1e6).contains(&slowdown), "stragglers.slowdown", || "expected 1 to 10^6".into())?;
        require((0.0..=3.0).contains(&sigma), "stragglers.sigma", || "expected 0 to 3".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_for_simulations() {
        let read = |section: &str| {
            RunSpec::from_toml(&format!(
                "name='s'\nrounds=1\n[model]\nkind='linear'\n[data]\nname='digits'\n[stragglers]\n{section}"
            ))
        };
        let spec = read("fraction=0.2\nslowdown=10.0").unwrap();
        assert_eq!(spec.stragglers, Some(StragglerSpec { fraction: 0.2, slowdown: 10.0, sigma: 0.0 }));
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        let error = spec.for_coordinator().unwrap_err().to_string();
        assert!(error.contains("starling simulate"), "{error}");
        for (section, want) in [
            ("fraction=1.1", "stragglers.fraction"),
            ("slowdown=0.5", "stragglers.slowdown"),
            ("sigma=9.0", "sigma"),
        ] {
            let error = read(section).unwrap_err().to_string();
            assert!(error.contains(want), "{section}: {error}");
        }
    }
}
