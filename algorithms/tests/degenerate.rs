//! Where one algorithm must be another, bit for bit or to rounding, and what the limits are.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic, and reads better with values"
)]

mod common;

use algorithms::{MODEL, rules::RULES};
use common::{Federation, Problem, distance, golden, norm};
use serde_json::{Value, json};
use std::sync::Arc;

const FULL: &[usize] = &[0, 1, 2, 3];

fn full() -> Vec<Vec<usize>> {
    vec![FULL.to_vec()]
}

fn turns() -> Vec<Vec<usize>> {
    vec![vec![0, 1], vec![2, 3], vec![0, 2], vec![1, 3]]
}

/// Trajectories in `f32` and in `f64`, with either form of the clip.
fn run(
    kind: &str,
    params: &Value,
    schedule: &[Vec<usize>],
    adjust: fn(&mut Shape),
) -> (Vec<Vec<f32>>, Vec<Vec<f64>>) {
    let problem = golden().problem;
    let mut shape = Shape { clip: Some(10.0), compat: true, steps: 3, lr_decay: 0.998, rounds: 12 };
    adjust(&mut shape);
    macro_rules! of {
        ($scalar:ty) => {{
            let mut federation = Federation::<$scalar>::new(&problem, kind, params);
            (federation.clip, federation.compat) = (shape.clip, shape.compat);
            (federation.steps, federation.lr_decay) = (vec![shape.steps; 4], shape.lr_decay);
            federation.run(schedule, shape.rounds)
        }};
    }
    (of!(f32), of!(f64))
}

struct Shape {
    clip: Option<f64>,
    compat: bool,
    steps: u32,
    lr_decay: f64,
    rounds: usize,
}

/// Equal bits in both number types and both forms of the clip.
fn identical(a: (&str, Value), b: (&str, Value)) {
    let schedule = golden().problem.schedule;
    for adjust in [(|_| {}) as fn(&mut Shape), |shape| shape.compat = false, |shape| shape.clip = Some(0.5)] {
        let (left, right) = (run(a.0, &a.1, &schedule, adjust), run(b.0, &b.1, &schedule, adjust));
        assert_eq!(left, right, "{} {} and {} {}", a.0, a.1, b.0, b.1);
    }
}

/// Equal but for the order of operations.
fn equal(a: (&str, Value), b: (&str, Value), schedule: &[Vec<usize>], adjust: fn(&mut Shape)) {
    let (left, right) = (run(a.0, &a.1, schedule, adjust), run(b.0, &b.1, schedule, adjust));
    let double = distance(&left.1, &right.1);
    assert!(double < 1e-10, "{} {} and {} {} in f64: {double:e}", a.0, a.1, b.0, b.1);
    let single = distance(&left.0, &right.0);
    assert!(single < 5e-5, "{} {} and {} {} in f32: {single:e}", a.0, a.1, b.0, b.1);
}

#[test]
fn what_is_switched_off_leaves_no_bit() {
    let uniform = json!({"weighting": "uniform"});
    identical(("fedprox", json!({"prox": 0.0})), ("fedavg", json!({})));
    identical(("fedavgm", json!({"momentum": 0.0})), ("fedavg", json!({})));
    identical(("fedsam", json!({"rho": 0.0})), ("fedavg", json!({})));
    identical(("fedlesam", json!({"rho": 0.0})), ("fedavg", json!({})));
    identical(("fedcm", json!({"alpha": 1.0})), ("fedavg", uniform.clone()));
    identical(("mofedsam", json!({"alpha": 1.0})), ("fedsam", uniform.clone()));
    identical(("mofedsam", json!({"rho": 0.0})), ("fedcm", json!({})));
    identical(("fedgamma", json!({"rho": 0.0})), ("scaffold", json!({})));
    identical(("fedlesam-s", json!({"rho": 0.0})), ("scaffold", json!({})));
    identical(("fedspeed", json!({"rho": 0.0})), ("feddyn", json!({})));
    identical(("fedsmoo", json!({"rho": 0.0})), ("feddyn", json!({})));
    identical(("fedlesam-d", json!({"rho": 0.0})), ("feddyn", json!({})));
    identical(("afedpdsam", json!({"rho": 0.0})), ("afedpd", json!({})));
    identical(("fedspeed", json!({"form": "paper", "rho": 0.0})), ("fedadmm", json!({})));
    identical(("fedspeed", json!({"form": "paper", "alpha": 0.0})), ("fedadmm", json!({})));
    identical(("fedslr", json!({})), ("feddyn", json!({})));
    identical(("qfedavg", json!({"q": 0.0})), ("fedavg", uniform));
}

#[test]
fn fedinit_without_relaxation_is_any_base_bit_for_bit() {
    for rule in RULES.iter().filter(|rule| rule.name != "fedinit") {
        for server in ["model", "delta"] {
            let params = json!({"base": rule.name, "beta": 0.0, "server": server});
            identical(("fedinit", params), (rule.name, json!({})));
        }
    }
}

#[test]
fn equal_steps_make_fednova_fedavg() {
    let schedule = golden().problem.schedule;
    equal(("fednova", json!({})), ("fedavg", json!({})), &schedule, |_| {});
    let uniform = json!({"weighting": "uniform"});
    equal(("fednova", uniform.clone()), ("fedavg", uniform), &schedule, |_| {});
}

#[test]
fn primal_dual_methods_agree_when_everybody_takes_part() {
    let full = full();
    equal(("afedpd", json!({})), ("feddyn", json!({})), &full, |_| {});
    equal(("fedpd", json!({})), ("feddyn", json!({})), &full, |_| {});
    equal(("fedadmm", json!({})), ("feddyn", json!({})), &full, |_| {});
    let paper = json!({"form": "paper", "rho": 0.0});
    equal(("fedspeed", paper), ("feddyn", json!({})), &full, |shape| shape.clip = None);
    // Penalty and regularisation are not unrelated to the result.
    let other = run("feddyn", &json!({"prox": 0.2}), &full, |_| {});
    assert!(distance(&other.1, &run("fedpd", &json!({}), &full, |_| {}).1) > 1e-3);
}

#[test]
fn one_step_full_participation_scaffold_is_fedavg() {
    let adjust: fn(&mut Shape) = |shape| {
        (shape.steps, shape.clip, shape.lr_decay, shape.rounds) = (1, None, 1.0, 30);
    };
    equal(("scaffold", json!({})), ("fedavg", json!({"weighting": "uniform"})), &full(), adjust);
}

#[test]
fn one_client_scaffold_is_sgd() {
    let mut problem = golden().problem;
    problem.a.truncate(1);
    problem.b.truncate(1);
    problem.sizes.truncate(1);
    let schedule = vec![vec![0]];
    let scaffold = Federation::<f64>::new(&problem, "scaffold", &json!({})).run(&schedule, 20);
    let sgd = Federation::<f64>::new(&problem, "fedavg", &json!({})).run(&schedule, 20);
    assert!(distance(&scaffold, &sgd) < 1e-10);
}

/// The textbook: the server keeps every c_i and takes both vectors from each client.
#[test]
fn the_thin_scaffold_is_the_textbook() {
    let problem = golden().problem;
    let mut thin = Federation::<f64>::new(&problem, "scaffold", &json!({}));
    let d = problem.w0.len();
    let (mut w, mut c, mut own) = (problem.w0.clone(), vec![0.0; d], vec![vec![0.0; d]; 4]);
    for t in 0..24 {
        let cohort = &problem.schedule[t % problem.schedule.len()];
        let lr = 0.1 * 0.998_f64.powi(t as i32);
        let (mut move_w, mut move_c) = (vec![0.0; d], vec![0.0; d]);
        for &i in cohort {
            let mut v = w.clone();
            for _ in 0..3 {
                let g = problem.gradient(i, &v);
                let mut g: Vec<f64> = (0..d).map(|k| g[k] + c[k] - own[i][k]).collect();
                let factor = (10.0 / (norm(&g) + 1e-6)).min(1.0);
                algorithms::scale(&mut g, factor);
                (0..d).for_each(|k| v[k] -= lr * (g[k] + 0.001 * v[k]));
            }
            for k in 0..d {
                let new = own[i][k] - c[k] - (v[k] - w[k]) / (3.0 * lr);
                move_w[k] += (v[k] - w[k]) / cohort.len() as f64;
                move_c[k] += (new - own[i][k]) / 4.0;
                own[i][k] = new;
            }
        }
        algorithms::axpy(&mut w, 1.0, &move_w);
        algorithms::axpy(&mut c, 1.0, &move_c);
        let got = thin.round(t, cohort);
        assert!(distance(&[got], &[w.clone()]) < 1e-12, "round {t}");
        assert!(distance(&[thin.server["c"].to_vec()], &[c.clone()]) < 1e-12, "round {t}");
    }
}

/// The textbook: the server writes every dual in every round.
#[test]
fn the_cheap_afedpd_is_the_naive_one() {
    let problem = golden().problem;
    let mut cheap = Federation::<f64>::new(&problem, "afedpd", &json!({"prox": 0.1}));
    let d = problem.w0.len();
    let (mut w, mut duals, rho) = (problem.w0.clone(), vec![vec![0.0; d]; 4], 0.1);
    for t in 0..40 {
        let cohort = &problem.schedule[t % problem.schedule.len()];
        let lr = 0.1 * 0.998_f64.powi(t as i32);
        let mut local = vec![None; 4];
        for &i in cohort {
            let mut v = w.clone();
            for _ in 0..3 {
                let g = problem.gradient(i, &v);
                let mut g: Vec<f64> = (0..d).map(|k| g[k] + duals[i][k] - rho * w[k]).collect();
                let factor = (10.0 / (norm(&g) + 1e-6)).min(1.0);
                algorithms::scale(&mut g, factor);
                (0..d).for_each(|k| v[k] -= lr * (g[k] + (0.001 + rho) * v[k]));
            }
            local[i] = Some(v);
        }
        let mean: Vec<f64> =
            (0..d).map(|k| local.iter().flatten().map(|v| v[k]).sum::<f64>() / cohort.len() as f64).collect();
        for (dual, local) in duals.iter_mut().zip(&local) {
            let target = local.as_ref().unwrap_or(&mean);
            (0..d).for_each(|k| dual[k] += rho * (target[k] - w[k]));
        }
        w = (0..d).map(|k| mean[k] + duals.iter().map(|dual| dual[k]).sum::<f64>() / (4.0 * rho)).collect();
        let got = cheap.round(t, cohort);
        assert!(distance(&[got], &[w.clone()]) < 1e-11, "round {t}");
    }
}

#[test]
fn one_worker_a_round_teaches_afedpd_nothing() {
    let problem = golden().problem;
    let mut federation = Federation::<f64>::new(&problem, "afedpd", &json!({"prox": 0.5}));
    let server = federation.run(&[vec![0], vec![1], vec![2], vec![3]], 8);
    assert_eq!(server.len(), 8);
    // Each dual is what the server's was after the worker's round: the differences are all zero.
    for (state, then) in federation.states.iter().zip(&federation.recalled) {
        let (own, then) = (&state["dual"], &then.as_ref().unwrap()["dual"]);
        assert!(distance(&[own.to_vec()], &[then.to_vec()]) < 1e-12);
    }
}

#[test]
fn feddyn_without_a_pull_doubles_its_first_step() {
    // Not FedAvg: 0 itself is refused.
    let problem = golden().problem;
    let mut dynamic = Federation::<f64>::plain(&problem, "feddyn", &json!({"prox": 1e-30}));
    let mut mean = Federation::<f64>::plain(&problem, "fedavg", &json!({"weighting": "uniform"}));
    let (two, one) = (dynamic.round(0, FULL), mean.round(0, FULL));
    for ((two, one), start) in two.iter().zip(one).zip(&problem.w0) {
        assert!(((two - start) - 2.0 * (one - start)).abs() < 1e-12);
    }
}

#[test]
fn fedlada_without_an_adaptive_share_never_moves() {
    let problem = golden().problem;
    let mut federation = Federation::<f32>::plain(&problem, "fedlada", &json!({"alpha": 0.0}));
    let start = federation.w();
    assert_eq!(federation.run(&turns(), 6), vec![start; 6]);
}

#[test]
fn the_agreed_perturbation_of_fedsmoo_keeps_its_radius() {
    let problem = golden().problem;
    let mut federation = Federation::<f64>::new(&problem, "fedsmoo", &json!({"rho": 0.1}));
    for t in 0..30 {
        federation.round(t, &problem.schedule[t % problem.schedule.len()]);
        assert!(norm(&federation.server["s"]) <= 0.1 + 1e-12);
    }
    // One step of the first round is FedSpeed's.
    let first = |kind: &str| {
        let mut federation = Federation::<f64>::new(&problem, kind, &json!({"rho": 0.1}));
        federation.steps = vec![1; 4];
        federation.round(0, FULL)
    };
    assert!(distance(&[first("fedsmoo")], &[first("fedspeed")]) < 1e-12);
}

// === Limits ===

/// `|w − w*|` after many rounds.
fn limit(kind: &str, params: &Value, schedule: &[Vec<usize>]) -> f64 {
    let golden = golden();
    let mut federation = Federation::<f64>::plain(&golden.problem, kind, params);
    let last = federation.run(schedule, 4_000).pop().unwrap();
    let gap: Vec<f64> = last.iter().zip(&golden.wstar_wd0).map(|(w, best)| w - best).collect();
    norm(&gap)
}

#[test]
fn corrected_methods_reach_the_optimum_where_fedavg_is_biased() {
    let uniform = json!({"weighting": "uniform"});
    let biased = limit("fedavg", &uniform, &full());
    assert!((0.07..0.08).contains(&biased), "{biased}");
    assert!(limit("fedavg", &uniform, &turns()) > 0.3);
    for (kind, params) in [
        ("scaffold", json!({})),
        ("feddyn", json!({"prox": 1.0})),
        ("afedpd", json!({"prox": 1.0})),
        ("fedspeed", json!({"prox": 1.0, "rho": 0.0})),
    ] {
        for schedule in [full(), turns()] {
            let error = limit(kind, &params, &schedule);
            assert!(error < 1e-12, "{kind}: {error:e}");
        }
    }
}

#[test]
fn fedspeed_as_published_oscillates_when_workers_take_turns() {
    let paper = json!({"form": "paper", "prox": 1.0, "rho": 0.0});
    assert!(limit("fedspeed", &paper, &full()) < 1e-12);
    let error = limit("fedspeed", &paper, &turns());
    assert!((1.0..1.5).contains(&error), "{error}");
}

/// Gradient of the weighted objective in the limit, for workers that take 1 to 16 local steps.
fn drift(kind: &str) -> f64 {
    let mut problem: Problem = golden().problem;
    problem.sizes = vec![25.0; 4];
    let mut federation = Federation::<f64>::plain(&problem, kind, &json!({}));
    (federation.steps, federation.lr) = (vec![1, 2, 4, 16], 0.002);
    federation.run(&full(), 4_000);
    norm(&federation.global_gradient())
}

#[test]
fn unequal_steps_pull_fedavg_away_but_not_fednova() {
    let (biased, normalised) = (drift("fedavg"), drift("fednova"));
    assert!(biased > 0.3, "{biased}");
    // What is left is the drift within a round, of the order of the step size.
    assert!(normalised < 0.02 * biased, "{normalised} {biased}");
}

#[test]
fn q_fedavg_brings_the_losses_together() {
    let problem = golden().problem;
    let spread = |q: f64| {
        let mut federation = Federation::<f64>::plain(&problem, "qfedavg", &json!({"q": q}));
        let last = federation.run(&full(), 3_000).pop().unwrap();
        let losses: Vec<f64> = (0..4).map(|client| problem.loss(client, &last)).collect();
        let mean = losses.iter().sum::<f64>() / 4.0;
        losses.iter().map(|loss| (loss - mean) * (loss - mean)).sum::<f64>().sqrt()
    };
    let spreads = [0.0, 1.0, 5.0].map(spread);
    assert!(spreads[1] < 0.8 * spreads[0] && spreads[2] < 0.8 * spreads[1], "{spreads:?}");
}

#[test]
fn fedavgm_moves_by_the_textbook() {
    let problem = golden().problem;
    let mut federation =
        Federation::<f64>::new(&problem, "fedavgm", &json!({"momentum": 0.7, "server_lr": 0.5}));
    let (mut w, mut velocity) = (problem.w0.clone(), vec![0.0; problem.w0.len()]);
    for t in 0..12 {
        let cohort = &problem.schedule[t % problem.schedule.len()];
        let mut mean = Federation::<f64>::new(&problem, "fedavg", &json!({}));
        mean.server.insert(MODEL.to_owned(), Arc::new(w.clone()));
        let moved = mean.round(t, cohort);
        for k in 0..w.len() {
            velocity[k] = 0.7 * velocity[k] + (moved[k] - w[k]);
            w[k] += 0.5 * velocity[k];
        }
        assert!(distance(&[federation.round(t, cohort)], &[w.clone()]) < 1e-12, "round {t}");
    }
}
