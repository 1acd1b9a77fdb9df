//! Personal models: what Ditto promises exactly, what frozen parts and the sparse step are by hand, and that a
//! base does not notice what is personal.
#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]
#![allow(clippy::single_range_in_vec_init, reason = "one range of tensors is what is meant")]

mod common;

use algorithms::{
    LocalRun, Vectors,
    local::{LocalPlan, StepSize, Update, Walk},
    personal::{OWN, Own, PERSONAL},
};
use common::{Federation, distance, golden};
use serde_json::json;
use std::{convert::Infallible, sync::Arc};

const ROUNDS: usize = 12;

fn ditto(keys: &serde_json::Value) -> Federation<f64> {
    Federation::new(&golden().problem, "ditto", keys)
}

#[test]
fn the_shared_model_of_ditto_is_its_bases_to_the_bit() {
    let schedule = golden().problem.schedule;
    for base in ["fedavg", "scaffold", "feddyn", "fedsmoo", "afedpd", "fedinit"] {
        for lambda in [0.0, 0.1, 3.0] {
            let mut wrapped =
                Federation::<f32>::new(&golden().problem, "ditto", &json!({"base": base, "lambda": lambda}));
            let mut bare = Federation::<f32>::new(&golden().problem, base, &json!({}));
            assert_eq!(wrapped.run(&schedule, ROUNDS), bare.run(&schedule, ROUNDS), "{base} {lambda}");
        }
    }
}

#[test]
fn without_a_pull_ditto_is_local_training_exactly() {
    let mut federation = ditto(&json!({"lambda": 0.0}));
    let schedule = golden().problem.schedule;
    let mut alone: Vec<Option<Vec<f64>>> = vec![None; 4];
    for t in 0..ROUNDS {
        let cohort = &schedule[t % schedule.len()];
        let lr = federation.lr * federation.lr_decay.powi(t as i32);
        for &client in cohort {
            let from = alone[client].take().unwrap_or_else(|| federation.w());
            alone[client] = Some(federation.walk(client, (&Arc::new(from), LocalPlan::default()), lr).end);
        }
        federation.round(t, cohort);
    }
    for (client, alone) in alone.into_iter().enumerate() {
        assert_eq!(federation.states[client][PERSONAL].as_slice(), alone.unwrap(), "client {client}");
    }
}

#[test]
fn ditto_comes_to_the_optimum_of_its_objective() {
    // The shared model stands still, so v_i goes to the zero of A (v - b) + λ (v - w).
    let lambda = 0.7;
    let problem = golden().problem;
    let mut federation =
        Federation::<f64>::plain(&problem, "ditto", &json!({"lambda": lambda, "server_lr": 0.0}));
    federation.run(&[vec![0, 1, 2, 3]], 400);
    for client in 0..4 {
        let v = federation.states[client][PERSONAL].as_ref().clone();
        let slope = problem.gradient(client, &v).into_iter().zip(v.iter().zip(&problem.w0));
        let rest = slope.map(|(g, (v, w))| (g + lambda * (v - w)).abs()).fold(0.0, f64::max);
        assert!(rest < 1e-9, "client {client}: {rest:e}");
    }
    // A stronger pull keeps it nearer to the shared model.
    let gap = |lambda: f64| {
        let mut federation = ditto(&json!({"lambda": lambda}));
        federation.run(&[vec![0, 1, 2, 3]], 40);
        distance(&[federation.w()], &[federation.states[0][PERSONAL].as_ref().clone()])
    };
    assert!(gap(0.0) > gap(0.5) && gap(0.5) > gap(4.0), "{} {} {}", gap(0.0), gap(0.5), gap(4.0));
}

fn steps(from: &[f64], plan: &LocalPlan<f64>, gradient: &[f64], count: usize) -> LocalRun<f64> {
    let size = StepSize { lr: 0.1, weight_decay: 0.0, clip: Some(1.0), compat: false };
    let mut walk = Walk::new(&Arc::new(from.to_vec()), plan, size);
    for _ in 0..count {
        let Ok(()) = walk.step(|_, grad| {
            grad.copy_from_slice(gradient);
            Ok::<_, Infallible>(())
        });
    }
    walk.finish()
}

#[test]
fn frozen_parts_stay_and_do_not_count_in_the_norm() {
    let frozen = Some(Arc::from([1..3]));
    for update in [Update::Sgd, Update::HeavyBall { momentum: 0.5 }] {
        let plan = LocalPlan { frozen: Some(Arc::from([1..3])), update, prox: 0.3, ..LocalPlan::default() };
        let run = steps(&[1.0, 2.0, 3.0, 4.0], &plan, &[0.5, 1e9, -1e9, 0.0], 3);
        assert_eq!(run.end[1..], [2.0, 3.0, 4.0]);
        assert!(run.end[0] < 1.0);
    }
    // A gradient of length 0.5 in what is free: the clip at 1 does nothing.
    let plan = LocalPlan { frozen, ..LocalPlan::default() };
    assert!((steps(&[1.0; 4], &plan, &[0.5, 9.0, 9.0, 0.0], 1).end[0] - 0.95).abs() < 1e-15);
}

#[test]
fn the_sparse_step_is_the_soft_threshold() {
    let plan = |threshold| LocalPlan { update: Update::Sparse { threshold }, ..LocalPlan::default() };
    let gradient = [0.3, -0.3, 0.02, 0.0];
    let one = steps(&[0.0, 0.0, 0.0, 0.5], &plan(0.1), &gradient, 1).end;
    for (got, want) in one.iter().zip([-0.02, 0.02, 0.0, 0.49]) {
        assert!((got - want).abs() < 1e-15, "{one:?}");
    }
    assert_eq!(
        steps(&[0.0; 4], &plan(f64::INFINITY), &gradient, 5).end,
        [0.0; 4],
        "everything is shrunk to zero"
    );
    assert_eq!(
        steps(&[0.1; 4], &plan(0.0), &gradient, 3),
        steps(&[0.1; 4], &LocalPlan::default(), &gradient, 3)
    );
}

#[test]
fn every_base_stands_still_where_parts_are_personal() {
    let tensors = [("body".to_owned(), 3), ("head".to_owned(), 2)];
    let own = Own::new(&["head".to_owned()], &tensors).unwrap().unwrap();
    for rule in algorithms::rules::RULES.iter().filter(|rule| rule.name != "fedlada") {
        let mut federation = Federation::<f32>::new(&golden().problem, rule.name, &json!({}));
        let before = federation.w();
        let mut parts = vec![Vectors::new(); 4];
        for t in 0..6 {
            federation.personal_round(t, &own, &mut parts);
            let now = federation.w();
            assert_eq!(now[3..], before[3..], "{}, round {t}", rule.name);
            assert!(now[..3].iter().all(|w| w.is_finite()), "{}, round {t}", rule.name);
        }
        assert_ne!(federation.w()[..3], before[..3], "{}", rule.name);
        assert!(
            parts.iter().all(|part| part[OWN].len() == 2 && part[OWN].as_slice() != &before[3..]),
            "{}",
            rule.name
        );
        assert_ne!(parts[0][OWN], parts[1][OWN], "{}", rule.name);
    }
}

/// Singular values of a 2 × 2 matrix, the larger one first.
fn singular(m: &[f64]) -> [f64; 2] {
    let (square, det) = (m.iter().map(|x| x * x).sum::<f64>(), (m[0] * m[3] - m[1] * m[2]).abs());
    let (sum, gap) = ((square + 2.0 * det).sqrt(), (square - 2.0 * det).max(0.0).sqrt());
    [f64::midpoint(sum, gap), (sum - gap) / 2.0]
}

fn fedslr(threshold: f64) -> Federation<f64> {
    let keys = json!({"prox": 0.1, "rank_threshold": threshold});
    let mut federation = Federation::new(&golden().problem, "fedslr", &keys);
    federation.algorithm.lay_out(&[vec![2, 2], vec![1]]);
    federation
}

#[test]
fn fedslr_shrinks_what_feddyn_comes_to() {
    let mut plain = Federation::<f64>::new(&golden().problem, "feddyn", &json!({"prox": 0.1}));
    let z = plain.round(0, &[0, 1]);
    for threshold in [0.001, 0.01, 0.05] {
        let w = fedslr(threshold).round(0, &[0, 1]);
        for (before, after) in singular(&z[..4]).into_iter().zip(singular(&w[..4])) {
            assert!(
                ((before - threshold / 0.1).max(0.0) - after).abs() < 1e-7,
                "{threshold}: {before} {after}"
            );
        }
        assert_eq!(w[4], z[4], "what is no matrix stays");
    }
    let mut whole = fedslr(0.0);
    let schedule = golden().problem.schedule;
    let mut plain = Federation::<f64>::new(&golden().problem, "feddyn", &json!({"prox": 0.1}));
    assert_eq!(
        whole.run(&schedule, ROUNDS),
        plain.run(&schedule, ROUNDS),
        "without a threshold it is FedDyn"
    );
    assert!(!whole.server.contains_key("w.factors"));
}

#[test]
fn fedslr_leaves_factors_that_make_the_model() {
    let mut federation = fedslr(1e3);
    for t in 0..3 {
        let w = federation.round(t, &[0, 1, 2]);
        assert_eq!(w[..4], [0.0; 4], "everything of rank is gone");
        let name = federation.algorithm.packed().unwrap();
        let packed = federation.server[name].clone();
        assert!(packed.len() < w.len(), "{packed:?}");
        assert_eq!(federation.algorithm.unpack(&packed, &[vec![2, 2], vec![1]]).unwrap(), w);
    }
    assert!(federation.imbalance(4) < 1e-12, "the mean of the memories is as without");
    // The sparse part of a worker is its own: it fits what the shared model cannot.
    let own = &federation.states[0][PERSONAL];
    assert!(own.iter().any(|p| *p != 0.0));
    let model = federation.algorithm.personal_model(&federation.server["w"], &federation.states[0]).unwrap();
    for ((model, w), p) in model.iter().zip(federation.w()).zip(own.iter()) {
        assert_eq!(*model, p + w);
    }
    assert_eq!(federation.algorithm.personal_model(&federation.server["w"], &federation.states[3]), None);
    // A strong pull to zero leaves nothing.
    let keys = json!({"sparse_threshold": 1e6});
    let mut sparse = Federation::<f64>::new(&golden().problem, "fedslr", &keys);
    sparse.round(0, &[0, 1]);
    assert_eq!(sparse.states[0][PERSONAL].as_slice(), [0.0; 5]);
}
