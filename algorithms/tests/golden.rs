//! Trajectories of the four-client quadratic problem against an independent float64 implementation
//! (numpy): to 1e-9 in `f64`, to 2e-5 in `f32`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use algorithms::{LocalRun, MODEL, make, rules::RULES, seed};
use common::{Federation, Golden, Mean, distance, golden};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// Trajectory, rule, keys.
fn table() -> Vec<(&'static str, &'static str, Value)> {
    let uniform = json!({"weighting": "uniform"});
    let optimiser = |more: &Value| {
        let mut keys = json!({"weighting": "uniform", "server_lr": 0.1, "beta1": 0.9, "tau": 0.001});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys
    };
    let init = |more: Value| {
        let mut keys = json!({"beta": 0.1});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys
    };
    let lada = json!({"alpha": 0.5, "beta1": 0.9, "beta2": 0.99, "epsilon": 0.01});
    vec![
        ("fedavg", "fedavg", uniform.clone()),
        ("fedavg_weighted", "fedavg", json!({"weighting": "examples"})),
        ("fedavg_clip0p5", "fedavg", uniform.clone()),
        ("fedprox", "fedprox", json!({"weighting": "uniform", "prox": 0.1})),
        ("fedadam_flsim", "fedadam", optimiser(&json!({"tau": 0.01, "form": "fl-simulator"}))),
        ("fedadam_reddi", "fedadam", optimiser(&json!({"form": "reddi"}))),
        ("fedyogi", "fedyogi", optimiser(&json!({}))),
        ("fedadagrad", "fedadagrad", optimiser(&json!({}))),
        ("scaffold", "scaffold", json!({})),
        ("feddyn", "feddyn", json!({"prox": 0.1})),
        ("feddyn_clip1", "feddyn", json!({"prox": 0.1})),
        ("fedcm", "fedcm", json!({"alpha": 0.1})),
        ("fedsam", "fedsam", json!({"weighting": "uniform", "rho": 0.1})),
        ("mofedsam", "mofedsam", json!({"alpha": 0.1, "rho": 0.1})),
        ("fedgamma", "fedgamma", json!({"rho": 0.1})),
        ("fedspeed", "fedspeed", json!({"prox": 0.1, "rho": 0.1})),
        ("fedspeed_paper", "fedspeed", json!({"form": "paper", "prox": 0.1, "rho": 0.1, "alpha": 1.0})),
        ("fedsmoo", "fedsmoo", json!({"prox": 0.1, "rho": 0.1})),
        ("fedlesam", "fedlesam", json!({"weighting": "uniform", "rho": 0.1})),
        ("fedlada", "fedlada", lada),
        ("fedinit_delta", "fedinit", init(json!({"weighting": "uniform", "server": "delta"}))),
        ("fedinit_modelmean", "fedinit", init(json!({"weighting": "uniform", "server": "model"}))),
        ("fedinit_feddyn", "fedinit", init(json!({"base": "feddyn", "prox": 0.1}))),
        ("fedinit_fedspeed", "fedinit", init(json!({"base": "fedspeed", "prox": 0.1, "rho": 0.1}))),
        ("afedpd", "afedpd", json!({"prox": 0.1})),
        ("fedadmm_active", "fedadmm", json!({"prox": 0.1})),
        // Its low-rank step is the identity where there is no matrix.
        ("fedslr_stage1_nothr", "fedslr", json!({"prox": 0.1})),
    ]
}

fn follow<S: Mean>(golden: &Golden, (name, kind, params): &(&str, &str, Value)) -> f64 {
    let trajectory = &golden.trajectories[*name];
    let mut federation = Federation::<S>::new(&golden.problem, kind, params);
    if let Some(norm) = trajectory.overrides.get("max_norm").and_then(Value::as_f64) {
        federation.clip = Some(norm);
    }
    if let Some(decay) = trajectory.overrides.get("wd").and_then(Value::as_f64) {
        federation.weight_decay = decay;
    }
    if *name == "fedslr_stage1_nothr" {
        federation.clip = None;
    }
    if *kind == "fedinit" {
        // The reference starts w_i at the first model.
        for state in &mut federation.states {
            state.insert("last".to_owned(), federation.server[MODEL].clone());
        }
    }
    distance(&federation.run(&golden.problem.schedule, trajectory.w.len()), &trajectory.w)
}

#[test]
fn every_trajectory_is_followed() {
    let golden = golden();
    for row in table() {
        let (double, single) = (follow::<f64>(&golden, &row), follow::<f32>(&golden, &row));
        assert!(double < 1e-9, "{} in f64: {double:e}", row.0);
        assert!(single < 2e-5, "{} in f32: {single:e}", row.0);
    }
}

#[test]
fn every_trajectory_is_in_the_table() {
    let told: BTreeSet<&str> = table().iter().map(|row| row.0).collect();
    let golden = golden();
    let known: BTreeSet<&str> = golden.trajectories.keys().map(String::as_str).collect();
    assert_eq!(told, known);
}

#[test]
fn another_key_gives_another_trajectory() {
    // The table would prove nothing if the keys were ignored.
    let golden = golden();
    for (name, kind, key, value) in [
        ("fedprox", "fedprox", "prox", json!(0.2)),
        ("fedadam_reddi", "fedadam", "form", json!("fl-simulator")),
        ("fedadam_reddi", "fedadam", "beta2", json!(0.9)),
        ("fedcm", "fedcm", "alpha", json!(0.2)),
        ("fedsam", "fedsam", "rho", json!(0.2)),
        ("fedgamma", "fedgamma", "rho", json!(0.2)),
        ("fedsmoo", "fedsmoo", "rho", json!(0.2)),
        ("fedlesam", "fedlesam", "rho", json!(0.2)),
        ("fedlada", "fedlada", "alpha", json!(0.6)),
        ("fedinit_delta", "fedinit", "beta", json!(0.2)),
        ("fedinit_delta", "fedinit", "server", json!("model")),
        ("afedpd", "afedpd", "prox", json!(0.2)),
    ] {
        let mut row = table().into_iter().find(|row| row.0 == name && row.1 == kind).unwrap();
        row.2.as_object_mut().unwrap().insert(key.to_owned(), value);
        let gap = follow::<f64>(&golden, &row);
        assert!(gap > 1e-4, "{name} with another `{key}`: {gap:e}");
    }
}

#[test]
fn the_problem_uses_the_constants_of_the_harness() {
    let defaults = golden().problem.defaults;
    for (key, value) in
        [("lr", 0.1), ("decay", 0.998), ("K", 3.0), ("wd", 0.001), ("lam", 0.1), ("max_norm", 10.0)]
    {
        assert_eq!(defaults[key], value, "{key}");
    }
}

#[test]
fn a_newcomer_keeps_mirrored_vectors_in_balance() {
    for rule in RULES {
        let problem = golden().problem;
        let mut federation = Federation::<f64>::new(&problem, rule.name, &json!({}));
        let rounds = [(vec![0, 1], (2, 2)), (vec![0, 2], (3, 2)), (vec![1], (3, 3)), (vec![3, 2], (4, 3))];
        for (t, (cohort, population)) in rounds.into_iter().enumerate() {
            federation.round_of(t, &cohort, population);
            let gap = federation.imbalance(population.0);
            assert!(gap < 1e-12, "{}, round {t}: {gap:e}", rule.name);
        }
    }
}

/// A stored run must go on with the numbers that it began with.
#[test]
fn the_first_four_rules_keep_their_bytes() {
    let problem = golden().problem;
    for (kind, params, want) in [
        ("fedavg", json!({}), 0x90ED_EDBC_6BA8_E6D2_u64),
        ("fedprox", json!({"prox": 0.3}), 0xA764_5D99_4D9A_354A),
        ("scaffold", json!({"server_lr": 0.7}), 0x986D_BD14_643A_CFE3),
        ("feddyn", json!({"prox": 0.13}), 0xC64D_5C29_3B18_364C),
    ] {
        let mut federation = Federation::<f32>::new(&problem, kind, &params);
        (federation.compat, federation.clip, federation.lr_decay) = (false, Some(0.5), 1.0);
        let mut hash = 0;
        for t in 0..40 {
            federation.lr = f64::from(0.1 * 0.998_f32.powi(t as i32));
            for w in federation.round(t, &problem.schedule[t % problem.schedule.len()]) {
                hash = seed::mix(hash ^ u64::from(w.to_bits()));
            }
        }
        assert_eq!(hash, want, "{kind}: {hash:016x}");
    }
}

#[test]
fn bad_parameters_are_named() {
    let message =
        |kind: &str, params: Value| make(kind, params.as_object().unwrap()).unwrap_err().to_string();
    assert!(message("fedavgg", json!({})).contains("expected one of afedpd"));
    assert!(message("fedprox", json!({"proxx": 1.0})).contains("proxx"));
    assert!(message("fedprox", json!({"prox": -1.0})).contains("prox"));
    assert!(message("feddyn", json!({"prox": 0.0})).contains("above 0"));
    assert!(message("fedinit", json!({"base": "fedinit"})).contains("no wrapper"));
    assert!(message("fedinit", json!({"base": "fedavgg"})).contains("`base`"));
    assert!(message("fedinit", json!({"base": "feddyn", "prox": -1.0})).contains("prox"));
    assert!(message("fedadam", json!({"tau": 0.0})).contains("tau"));
    assert!(message("fedcm", json!({"alpha": 1.5})).contains("alpha"));
}

#[test]
fn what_a_run_carries_is_optional() {
    // A trainer that knows no gradients (a bare vector) gives a plain run.
    for rule in RULES {
        let problem = golden().problem;
        let federation = Federation::<f32>::new(&problem, rule.name, &json!({}));
        let down = federation.down(0);
        let start = down[MODEL].clone();
        let end = start.iter().map(|w| w + 0.1).collect();
        let run = LocalRun::new(Arc::clone(&start), end, 2, 0.1);
        let finished = federation.algorithm.finish(run, &down, &federation.states[0]);
        let shapes: Vec<_> = finished.upload.iter().map(|(name, v)| (name.as_str(), v.len())).collect();
        assert_eq!(shapes, federation.algorithm.upload(start.len()), "{}", rule.name);
    }
}
