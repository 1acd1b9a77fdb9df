//! Reference cases, and shorthands for ledgers. The cases were computed with dp-accounting 0.6,
//! opacus 1.6, prv-accountant 0.2 and arbitrary-precision quadrature.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests, not all of which use all")]

use std::num::NonZeroU64;

use privacy::{Adjacency, Event, Ledger, Mechanism, NoiseMultiplier, Positive, Probability, Sampling, Unit};
use serde_json::Value;

/// All cases of these kinds.
pub(crate) fn cases(kinds: &[&str]) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../fixtures/privacy.json")).unwrap();
    let all = all["cases"].as_array().unwrap().clone();
    let found: Vec<_> =
        all.into_iter().filter(|case| kinds.contains(&case["kind"].as_str().unwrap())).collect();
    assert!(!found.is_empty(), "no case of {kinds:?}");
    found
}

pub(crate) fn number(case: &Value, field: &str) -> f64 {
    case[field].as_f64().unwrap_or_else(|| panic!("{field} of {case}"))
}

pub(crate) fn whole(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("{field} of {case}"))
}

pub(crate) fn count(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

pub(crate) fn noise(z: f64) -> NoiseMultiplier {
    NoiseMultiplier::new(z).unwrap()
}

pub(crate) fn positive(x: f64) -> Positive {
    Positive::new(x).unwrap()
}

pub(crate) fn probability(q: f64) -> Probability {
    Probability::new(q).unwrap()
}

pub(crate) fn gaussian(z: f64) -> Mechanism {
    Mechanism::Gaussian { noise_multiplier: noise(z) }
}

pub(crate) fn laplace(z: f64) -> Mechanism {
    Mechanism::Laplace { noise_multiplier: noise(z) }
}

pub(crate) fn poisson(rate: f64) -> Sampling {
    if rate == 1.0 { Sampling::Everyone } else { Sampling::Poisson { rate: probability(rate) } }
}

pub(crate) fn ledger(adjacency: Adjacency, events: &[(Mechanism, Sampling, u64)]) -> Ledger {
    let mut ledger = Ledger::new(Unit::Client, adjacency);
    for (mechanism, sampling, times) in events {
        let event = Event { mechanism: mechanism.clone(), sampling: *sampling, count: count(*times) };
        ledger.record(event).unwrap();
    }
    ledger
}

/// A Poisson-sampled Gaussian mechanism, from the fields of a case.
pub(crate) fn sampled_gaussian(case: &Value) -> Ledger {
    let rate = case["q"].as_f64().unwrap_or(1.0);
    let events = [(gaussian(number(case, "sigma")), poisson(rate), whole(case, "steps"))];
    ledger(Adjacency::AddRemove, &events)
}

/// |got − want| within a relative tolerance.
pub(crate) fn close(case: &Value, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs();
    assert!(error <= tolerance * want.abs(), "{got} is {:e} off {want}: {case}", error / want.abs());
}

/// The orders of dp-accounting.
pub(crate) fn orders() -> Vec<f64> {
    let tenths = (1..100).map(|x| 1.0 + f64::from(x) / 10.0);
    tenths.chain((11..64).map(f64::from)).chain([128.0, 256.0, 512.0, 1024.0]).collect()
}
