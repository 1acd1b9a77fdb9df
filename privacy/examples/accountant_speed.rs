//! Processor time of ε and of calibration over all reference cases, with the error of ε against the
//! contour reference of the fixtures. What [`BENCHMARKS.md`](../../BENCHMARKS.md) reports.
//!
//! `cargo run --release -p privacy --example accountant_speed [-- PART_OF_AN_ID]`

use std::num::NonZeroU64;

use privacy::{
    Adjacency, Budget, Event, Ledger, Mechanism, NoiseMultiplier, Probability, Sampling, Unit,
    accountants::{calibrate::Plan, report},
};
use serde_json::Value;

/// Processor milliseconds of this thread so far; the kernel counts them in steps of a few.
fn processor_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has this file");
    let nanoseconds: f64 =
        text.split(' ').next().and_then(|first| first.parse().ok()).expect("it opens with a number");
    nanoseconds / 1e6
}

/// Processor milliseconds of one call, from as many calls as take 60 together, and the last result.
fn timed<T>(call: impl Fn() -> T) -> (f64, T) {
    let began = processor_ms();
    let mut calls = 0.0;
    loop {
        let result = call();
        calls += 1.0;
        let spent = processor_ms() - began;
        if spent > 60.0 {
            return (spent / calls, result);
        }
    }
}

struct Line {
    name: String,
    epsilon_ms: f64,
    calibration_ms: f64,
    /// Of ε, relative to the reference.
    error: Option<f64>,
}

fn measure(case: &Value, (rounds, delta): (u64, f64)) -> Line {
    let number = |field: &str| case[field].as_f64().expect("a number");
    let (rate, z) =
        (case["q"].as_f64().unwrap_or(1.0), NoiseMultiplier::new(number("sigma")).expect("in bounds"));
    let sampling = if rate == 1.0 {
        Sampling::Everyone
    } else {
        Sampling::Poisson { rate: Probability::new(rate).expect("in bounds") }
    };
    let rounds = NonZeroU64::new(rounds).expect("not 0");
    let mut ledger = Ledger::new(Unit::Client, Adjacency::AddRemove);
    let event = Event { mechanism: Mechanism::Gaussian { noise_multiplier: z }, sampling, count: rounds };
    ledger.record(event).expect("covered");
    let (epsilon_ms, found) = timed(|| report::epsilon(&ledger, delta, 1));
    let budget = Budget::new(found.epsilon.clamp(1e-9, 1e9), delta).expect("in bounds");
    let plan = Plan { unit: Unit::Client, adjacency: Adjacency::AddRemove, sampling, rounds };
    let (calibration_ms, calibrated) = timed(|| plan.noise(budget));
    let calibrated = calibrated.map_or(f64::NAN, NoiseMultiplier::get);
    let own = rounds.get() == case["steps"].as_u64().unwrap_or(0) && delta == number("delta");
    let error =
        case["eps_ref"].as_f64().filter(|want| own && *want > 0.0).map(|want| found.epsilon / want - 1.0);
    let name = format!(
        "{} q={rate} z={} T={rounds} delta={delta:e} epsilon={:.5} by {} noise={calibrated:.5}",
        case["id"].as_str().unwrap_or_default(),
        z.get(),
        found.epsilon,
        found.accountant.name(),
    );
    Line { name, epsilon_ms, calibration_ms, error }
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let all: Value = serde_json::from_str(include_str!("../tests/fixtures/privacy.json")).expect("JSON");
    let mut lines = Vec::new();
    for case in all["cases"].as_array().expect("a list") {
        let known = matches!(case["kind"].as_str(), Some("poisson_gaussian" | "gaussian_composed"));
        if !known || !case["id"].as_str().is_some_and(|id| id.contains(&only)) {
            continue;
        }
        let delta = case["delta"].as_f64().expect("a number");
        let rounds = case["steps"].as_u64().expect("a number");
        // Its own rounds, and a million.
        for rounds in if rounds == 1_000_000 { vec![rounds] } else { vec![rounds, 1_000_000] } {
            let line = measure(case, (rounds, delta));
            let error = line.error.map_or("-".to_owned(), |error| format!("{error:+.1e}"));
            println!("{:8.2} ms  {:8.2} ms  {error:>9}  {}", line.epsilon_ms, line.calibration_ms, line.name);
            lines.push(line);
        }
    }
    let most = |value: &dyn Fn(&Line) -> f64| lines.iter().map(value).fold(0.0, f64::max);
    let errors = || lines.iter().filter_map(|line| line.error);
    println!(
        "{} cases; most processor ms: epsilon {:.1}, calibration {:.1}; error of epsilon from {:+.1e} to {:+.1e}",
        lines.len(),
        most(&|line| line.epsilon_ms),
        most(&|line| line.calibration_ms),
        errors().fold(f64::INFINITY, f64::min),
        errors().fold(f64::NEG_INFINITY, f64::max),
    );
}
