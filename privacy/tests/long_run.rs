//! The bounds for long runs against their reference values, a generic optimiser and a counter-example
//! to the published ones.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{cases, close, number, positive, whole};
use privacy::long_run::{
    Assumption, Local, LongRunError, Round, Run, Schedule, Threat, interpolated, published, strongly_convex,
};
use proptest::prelude::*;
use serde_json::Value;

fn local(case: &Value, clip: &str, smoothness: &str) -> Local {
    Local {
        clip: positive(number(case, clip)),
        clients: whole(case, "m") as u32,
        steps: whole(case, "K") as u32,
        learning_rate: positive(number(case, "lr")),
        smoothness: positive(number(case, smoothness)),
    }
}

fn run(case: &Value, rounds: Vec<Round>) -> Run {
    Run { rounds, noise: positive(number(case, "sigma")), clients: whole(case, "m") as u32 }
}

#[test]
fn noisy_fed_avg() {
    for case in cases(&["noisy_fedavg_gdp"]) {
        let local = local(&case, "V", "L");
        let rounds = whole(&case, "T") as u32;
        let schedule = match case["schedule"].as_str().unwrap() {
            "constant" => Schedule::Constant,
            "cyclic" => Schedule::Cyclic,
            "stage" => Schedule::Stage,
            "continuous" => Schedule::Continuous,
            other => panic!("{other}"),
        };
        let run = run(&case, local.fed_avg(schedule, rounds));
        let composed = run.composition(Threat::EveryModel).unwrap();
        close(&case, composed.get(), number(&case, "mu_gdp_composition"), 1e-9);
        close(&case, composed.epsilon(1e-5), number(&case, "eps_composition_delta1e_5"), 1e-9);
        let hidden = run.last_model(Threat::LastModelOnly, Assumption::None).unwrap();
        close(&case, hidden.get(), number(&case, "mu_gdp_shifted_interp_optimal"), 1e-9);
        assert!(hidden.get() <= composed.get() * (1.0 + 1e-12), "{case}");
        for threat in [Threat::EveryModel, Threat::EveryUpload] {
            assert_eq!(run.last_model(threat, Assumption::None), Err(LongRunError::ModelsAreSeen));
        }
        let printed = published::fed_avg(local, schedule, run.noise, rounds);
        if let Some(theirs) = case["published_thm3a_mu_INVALID"].as_f64() {
            close(&case, printed.unwrap(), theirs, 1e-9);
            close(&case, composed.get(), number(&case, "true_mu_for_linear_losses"), 1e-9);
            assert!(rounds == 1 || theirs < 0.95 * composed.get(), "not below what leaks: {case}");
        }
        if let Some(theirs) = case["published_thm3c_mu_valid_upper_bound"].as_f64() {
            close(&case, printed.unwrap(), theirs, 1e-9);
            assert!(theirs >= composed.get() * (1.0 - 1e-12), "{case}");
        }
    }
}

#[test]
fn noisy_fed_prox() {
    for case in cases(&["noisy_fedprox_gdp"]) {
        let (local, alpha) = (local(&case, "V", "L"), positive(number(&case, "alpha")));
        let rounds = whole(&case, "T") as u32;
        let run = run(&case, local.fed_prox(alpha, rounds).unwrap());
        close(&case, run.rounds[0].moved, number(&case, "gamma"), 1e-9);
        let composed = run.composition(Threat::EveryModel).unwrap();
        close(&case, composed.get(), number(&case, "mu_gdp_composition"), 1e-9);
        close(&case, composed.get(), number(&case, "true_mu_for_linear_losses"), 1e-9);
        let theirs = published::fed_prox(local, alpha, run.noise, rounds);
        close(&case, theirs, number(&case, "published_thm4_mu_INVALID"), 1e-9);
        assert!(rounds == 1 || theirs < composed.get(), "not below what leaks: {case}");
    }
    let case = &cases(&["noisy_fedprox_gdp"])[0];
    let message = local(case, "V", "L").fed_prox(positive(0.5), 1).unwrap_err().to_string();
    assert!(message.contains("a proximal weight above the smoothness"), "{message}");
}

#[test]
fn strongly_convex_losses() {
    for case in cases(&["fl_strongly_convex_gdp"]) {
        let local = local(&case, "S_half", "L");
        let convexity = positive(number(&case, "beta"));
        let assumption = Assumption::StronglyConvex { convexity, proximal: None };
        let rounds = strongly_convex(local, assumption, whole(&case, "T") as u32).unwrap();
        close(&case, rounds[0].growth, number(&case, "c"), 1e-9);
        close(&case, rounds[0].moved, number(&case, "gamma"), 1e-9);
        let run = run(&case, rounds);
        let hidden = run.last_model(Threat::LastModelOnly, assumption).unwrap();
        close(&case, hidden.get(), number(&case, "mu_gdp"), 1e-9);
        let composed = run.composition(Threat::EveryModel).unwrap();
        close(&case, composed.get(), number(&case, "mu_gdp_composition"), 1e-9);
    }
    let case = &cases(&["fl_strongly_convex_gdp"])[0];
    let fast = Local { learning_rate: positive(1.9), ..local(case, "S_half", "L") };
    let assumption = Assumption::StronglyConvex { convexity: positive(0.5), proximal: None };
    let message = strongly_convex(fast, assumption, 1).unwrap_err().to_string();
    assert!(message.contains("at most 2/(convexity + smoothness)"), "{message}");
    assert!(strongly_convex(fast, Assumption::None, 1).is_err());
}

#[test]
fn pooling_adjacent_violators() {
    let list =
        |case: &Value, field: &str| -> Vec<f64> { serde_json::from_value(case[field].clone()).unwrap() };
    for case in cases(&["shifted_interp_pava"]) {
        let pairs = list(&case, "rho").into_iter().zip(list(&case, "gamma"));
        let rounds: Vec<Round> = pairs.map(|(growth, moved)| Round { moved, growth }).collect();
        let square = interpolated(&rounds, number(&case, "d0"));
        close(&case, square, number(&case, "H2"), 1e-9);
    }
}

#[test]
fn a_bounded_set_of_models() {
    for case in cases(&["shifted_interp_bounded_domain"]) {
        let round = Round { moved: number(&case, "gamma"), growth: number(&case, "rho") };
        let rounds = vec![round; whole(&case, "T") as usize];
        let run = Run { rounds, noise: positive(1.0), clients: 1 };
        let assumption = Assumption::Projected { diameter: positive(number(&case, "D")) };
        let mu = run.last_model(Threat::LastModelOnly, assumption).unwrap().get();
        // The reference tries up to 400 rounds; so many more are tried here that it may be less.
        assert!(mu * mu <= number(&case, "H2") * (1.0 + 1e-9), "{mu}: {case}");
        assert!(mu * mu >= number(&case, "H2") * (1.0 - 1e-9), "{mu}: {case}");
        assert!(mu * mu <= number(&case, "one_step") * (1.0 + 1e-9), "{mu}: {case}");
    }
}

/// Two rounds of Noisy-FedAvg in one dimension with linear losses: client 0's gradient is +1 or, in the
/// neighbour, −1; the others' are 1/2. Returns the last model without noise.
fn two_rounds(first: f64) -> f64 {
    let (clients, steps, rate, clip) = (100, 10, 0.1, 1.0_f64);
    let mut model = 0.0;
    for _ in 0..2 {
        let mut sum = 0.0;
        for client in 0..clients {
            let mut here = model;
            for _ in 0..steps {
                let gradient = if client == 0 { first } else { 0.5_f64 };
                here -= rate * gradient.clamp(-clip, clip);
            }
            sum += here;
        }
        model = sum / f64::from(clients);
    }
    model
}

#[test]
fn two_rounds_with_linear_losses_leak_more_than_was_published() {
    let local = Local {
        clip: positive(1.0),
        clients: 100,
        steps: 10,
        learning_rate: positive(0.1),
        smoothness: positive(1.0),
    };
    let noise = positive(1.0);
    // The models are Gaussian with variance 2σ²/m, so that their distance over it is μ, exactly.
    let deviation = (2.0_f64 / 100.0).sqrt();
    let leaked = (two_rounds(1.0) - two_rounds(-1.0)).abs() / deviation;
    let theirs = published::fed_avg(local, Schedule::Constant, noise, 2).unwrap();
    assert!((leaked - 0.282_842_712_474_619).abs() < 1e-12, "{leaked}");
    assert!((theirs - 0.258_557_679_301).abs() < 1e-9, "{theirs}");
    assert!(theirs < 0.92 * leaked);
    let run = Run { rounds: local.fed_avg(Schedule::Constant, 2), noise, clients: 100 };
    for mu in [
        run.composition(Threat::EveryModel).unwrap(),
        run.last_model(Threat::LastModelOnly, Assumption::None).unwrap(),
    ] {
        assert!(mu.get() >= leaked * (1.0 - 1e-12), "{mu:?}");
    }
}

#[test]
fn single_uploads_are_hidden_by_the_noise_of_one_client() {
    let run = Run { rounds: vec![Round { moved: 0.01, growth: 1.0 }; 4], noise: positive(2.0), clients: 25 };
    let mean = run.composition(Threat::EveryModel).unwrap().get();
    assert!((mean - 0.01 * 2.0 * 5.0 / 2.0).abs() < 1e-15);
    // The client's own upload moves by m·γ under noise σ.
    let upload = run.composition(Threat::EveryUpload).unwrap().get();
    assert!((upload - 25.0 * 0.01 * 2.0 / 2.0).abs() < 1e-12, "{upload}");
}

/// The same minimum by coordinate descent over the distances `z ≥ 0`: it knows nothing of blocks.
fn by_descent(rounds: &[Round], start: f64) -> f64 {
    let last = rounds.len();
    let mut z = vec![0.0; last + 1];
    z[0] = start;
    let step = |z: &[f64], t: usize| rounds[t].growth * z[t] + rounds[t].moved - z[t + 1];
    for _ in 0..40_000 {
        let mut moved = 0.0_f64;
        for t in 1..last {
            // Terms t − 1 and t are (a − z)² + (ρz + b)².
            let a = rounds[t - 1].growth * z[t - 1] + rounds[t - 1].moved;
            let (growth, b) = (rounds[t].growth, rounds[t].moved - z[t + 1]);
            let best = ((a - growth * b) / (1.0 + growth * growth)).max(0.0);
            moved = moved.max((best - z[t]).abs());
            z[t] = best;
        }
        if moved < 1e-14 {
            break;
        }
    }
    let steps: Vec<f64> = (0..last).map(|t| step(&z, t)).collect();
    assert!(steps.iter().all(|s| *s > -1e-9), "{steps:?}");
    steps.iter().map(|s| s * s).sum()
}

proptest! {
    #[test]
    fn pooling_finds_the_optimum_of_a_generic_optimiser(
        rounds in prop::collection::vec((0.05..1.0, 0.5..1.6), 2..9),
        start in prop_oneof![Just(0.0), 0.1..2.0],
    ) {
        let rounds: Vec<Round> = rounds.into_iter().map(|(moved, growth)| Round { moved, growth }).collect();
        let (pooled, descended) = (interpolated(&rounds, start), by_descent(&rounds, start));
        prop_assert!((pooled / descended - 1.0).abs() < 1e-8, "{pooled} {descended}");
        let composed: f64 = rounds.iter().map(|round| round.moved * round.moved).sum();
        prop_assert!(start > 0.0 || pooled <= composed * (1.0 + 1e-12));
    }
}
