//! How slow each client is: a fact of the client, drawn from the seed.

use super::{client_index, client_name};
use algorithms::{cohort, seed};
use proto::spec::{RunSpec, StragglerSpec};

/// How many times as long a local step takes on each client.
pub(super) fn slowness(spec: &RunSpec, clients: usize) -> Vec<f64> {
    let Some(StragglerSpec { fraction, slowdown, sigma }) = spec.stragglers else {
        return vec![1.0; clients];
    };
    let key = seed::derive(spec.seed, "stragglers", &[]);
    let names: Vec<String> = (0..clients).map(client_name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let count = (fraction * clients as f64).round() as usize;
    let mut factors: Vec<f64> =
        (0..clients as u64).map(|client| (sigma * normal(key, client)).exp()).collect();
    for slow in cohort::sample(key, 0, 0, &names, count).into_iter().filter_map(client_index) {
        factors[slow] *= slowdown;
    }
    factors
}

/// Box and Muller's.
fn normal(key: u64, client: u64) -> f64 {
    let unit = |part| seed::unit(seed::derive(key, "speed", &[client, part]));
    (-2.0 * (1.0 - unit(0)).ln()).sqrt() * (std::f64::consts::TAU * unit(1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(section: &str) -> Vec<f64> {
        let text = format!(
            "name='s'\nrounds=1\nseed=5\n[model]\nkind='linear'\n[data]\nname='digits'\n[stragglers]\n{section}"
        );
        slowness(&RunSpec::from_toml(&text).expect("a run file"), 1_000)
    }

    #[test]
    fn a_share_is_slow_and_the_rest_is_not() {
        let factors = factors("fraction=0.2\nslowdown=7.0");
        assert_eq!(factors.iter().filter(|factor| **factor == 7.0).count(), 200);
        assert_eq!(factors.iter().filter(|factor| **factor == 1.0).count(), 800);
    }

    #[test]
    fn speeds_spread_lognormally() {
        let logs: Vec<f64> = factors("sigma=0.5").iter().map(|factor| factor.ln()).collect();
        let mean = logs.iter().sum::<f64>() / 1e3;
        let deviation = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / 1e3).sqrt();
        // Standard errors 0.016 and 0.011.
        assert!(mean.abs() < 0.07 && (deviation - 0.5).abs() < 0.05, "{mean} {deviation}");
    }
}
