//! Trajectories of the four-client quadratic problem against an independent float64 implementation
//! (numpy), and the exact degenerate cases between algorithms.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use algorithms::{
    Algorithm, LocalRun, MODEL, Params, RoundFacts, Vectors,
    fold::{Accumulator, UploadFacts},
    local::{StepSize, step},
    make,
};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Deserialize)]
struct Golden {
    problem: Problem,
    trajectories: BTreeMap<String, Trajectory>,
}

#[derive(Deserialize)]
struct Trajectory {
    overrides: serde_json::Map<String, serde_json::Value>,
    w: Vec<Vec<f64>>,
}

#[derive(Deserialize, Clone)]
struct Problem {
    #[serde(rename = "A")]
    a: Vec<Vec<Vec<f64>>>,
    #[serde(rename = "B")]
    b: Vec<Vec<f64>>,
    w0: Vec<f64>,
    sizes: Vec<f64>,
    schedule: Vec<Vec<usize>>,
    defaults: BTreeMap<String, f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("fixtures/golden.json")).unwrap()
}

impl Problem {
    fn gradient(&self, client: usize, w: &[f32]) -> Vec<f32> {
        let diff: Vec<f64> = w.iter().zip(&self.b[client]).map(|(w, b)| f64::from(*w) - b).collect();
        self.a[client]
            .iter()
            .map(|row| row.iter().zip(&diff).map(|(a, d)| a * d).sum::<f64>() as f32)
            .collect()
    }
}

/// A federation without a network: the algorithm's two sides and the accumulators, nothing else.
struct Federation {
    problem: Problem,
    algorithm: Box<dyn Algorithm>,
    server: Vectors,
    states: Vec<Vectors>,
    clip: Option<f32>,
    compat: bool,
    steps: u32,
    weight_decay: f32,
}

impl Federation {
    fn new(problem: &Problem, kind: &str, params: &serde_json::Value) -> Self {
        let params: Params = params.as_object().unwrap().clone();
        let algorithm = make(kind, &params).unwrap();
        let w: Vec<f32> = problem.w0.iter().map(|v| *v as f32).collect();
        let mut server = Vectors::from([(MODEL.to_owned(), Arc::new(w))]);
        for name in algorithm.server_vectors() {
            server.insert((*name).to_owned(), Arc::new(vec![0.0; problem.w0.len()]));
        }
        let states = vec![Vectors::new(); problem.sizes.len()];
        Self {
            problem: problem.clone(),
            algorithm,
            server,
            states,
            clip: Some(10.0),
            compat: true,
            steps: 3,
            weight_decay: 0.001,
        }
    }

    fn round(&mut self, t: usize, cohort: &[usize]) -> Vec<f32> {
        let lr = 0.1 * 0.998_f32.powi(t as i32);
        let d = self.problem.w0.len();
        let size = StepSize { lr, weight_decay: self.weight_decay, clip: self.clip, compat: self.compat };
        let mut folds: Vec<Accumulator> =
            self.algorithm.folds().into_iter().map(|fold| Accumulator::new(fold, d)).collect();
        for &client in cohort {
            let plan = self.algorithm.plan(&self.server, &self.states[client]);
            let start = self.server[MODEL].clone();
            let mut w = start.as_ref().clone();
            for _ in 0..self.steps {
                let mut gradient = self.problem.gradient(client, &w);
                step(&mut w, &mut gradient, &start, &plan, &size);
            }
            let run = LocalRun { start, end: w, steps: self.steps, lr };
            let finished = self.algorithm.finish(run, &self.server, &self.states[client]);
            self.states[client] = finished.next;
            let facts = UploadFacts { examples: self.problem.sizes[client] as u64, steps: self.steps, lr };
            for fold in &mut folds {
                let from = finished.upload[fold.fold().from].clone();
                fold.accumulate(&from, &facts);
            }
        }
        let mean = folds
            .into_iter()
            .map(|fold| (fold.fold().into.to_owned(), Arc::new(fold.mean().unwrap())))
            .collect();
        let population = self.problem.sizes.len();
        let facts = RoundFacts { included: cohort.len(), population, population_before: population };
        self.algorithm.apply(&mut self.server, &mean, &facts);
        self.server[MODEL].as_ref().clone()
    }

    fn run(&mut self, schedule: &[Vec<usize>], rounds: usize) -> Vec<Vec<f32>> {
        (0..rounds).map(|t| self.round(t, &schedule[t % schedule.len()])).collect()
    }
}

fn check(name: &str, kind: &str, params: &serde_json::Value) {
    let golden = golden();
    let trajectory = &golden.trajectories[name];
    let mut federation = Federation::new(&golden.problem, kind, params);
    if let Some(norm) = trajectory.overrides.get("max_norm").and_then(serde_json::Value::as_f64) {
        federation.clip = Some(norm as f32);
    }
    let got = federation.run(&golden.problem.schedule, trajectory.w.len());
    for (round, (got, want)) in got.iter().zip(&trajectory.w).enumerate() {
        for (got, want) in got.iter().zip(want) {
            let error = (f64::from(*got) - want).abs();
            assert!(error < 2e-5, "{name}, round {round}: {got} instead of {want}");
        }
    }
}

#[test]
fn fedavg_follows_the_reference() {
    check("fedavg", "fedavg", &serde_json::json!({"weighting": "uniform"}));
    check("fedavg_weighted", "fedavg", &serde_json::json!({"weighting": "examples"}));
    check("fedavg_clip0p5", "fedavg", &serde_json::json!({"weighting": "uniform"}));
}

#[test]
fn fedprox_follows_the_reference() {
    check("fedprox", "fedprox", &serde_json::json!({"weighting": "uniform", "prox": 0.1}));
}

#[test]
fn scaffold_follows_the_reference() {
    check("scaffold", "scaffold", &serde_json::json!({}));
}

#[test]
fn feddyn_follows_the_reference() {
    check("feddyn", "feddyn", &serde_json::json!({"prox": 0.1}));
    check("feddyn_clip1", "feddyn", &serde_json::json!({"prox": 0.1}));
}

#[test]
fn the_problem_uses_the_constants_above() {
    let defaults = golden().problem.defaults;
    for (key, value) in
        [("lr", 0.1), ("decay", 0.998), ("K", 3.0), ("wd", 0.001), ("lam", 0.1), ("max_norm", 10.0)]
    {
        assert_eq!(defaults[key], value, "{key}");
    }
}

#[test]
fn fedprox_without_prox_is_fedavg_exactly() {
    let problem = golden().problem;
    for compat in [false, true] {
        let mut prox = Federation::new(&problem, "fedprox", &serde_json::json!({"prox": 0.0}));
        let mut avg = Federation::new(&problem, "fedavg", &serde_json::json!({}));
        (prox.compat, avg.compat) = (compat, compat);
        assert_eq!(prox.run(&problem.schedule, 12), avg.run(&problem.schedule, 12));
    }
}

#[test]
fn one_client_scaffold_is_sgd() {
    let mut problem = golden().problem;
    problem.a.truncate(1);
    problem.b.truncate(1);
    problem.sizes.truncate(1);
    let schedule = vec![vec![0]];
    let scaffold = Federation::new(&problem, "scaffold", &serde_json::json!({})).run(&schedule, 20);
    let sgd = Federation::new(&problem, "fedavg", &serde_json::json!({})).run(&schedule, 20);
    for (a, b) in scaffold.iter().flatten().zip(sgd.iter().flatten()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn one_step_full_participation_scaffold_is_fedavg() {
    let problem = golden().problem;
    let everyone = vec![vec![0, 1, 2, 3]];
    let run = |kind: &str, params: serde_json::Value| {
        let mut federation = Federation::new(&problem, kind, &params);
        (federation.steps, federation.clip) = (1, None);
        federation.run(&everyone, 30)
    };
    let scaffold = run("scaffold", serde_json::json!({}));
    let avg = run("fedavg", serde_json::json!({"weighting": "uniform"}));
    for (a, b) in scaffold.iter().flatten().zip(avg.iter().flatten()) {
        assert!((a - b).abs() < 2e-5, "{a} {b}");
    }
}

#[test]
fn scaffold_keeps_the_mean_of_control_variates() {
    let problem = golden().problem;
    let mut federation = Federation::new(&problem, "scaffold", &serde_json::json!({}));
    for t in 0..40 {
        federation.round(t, &problem.schedule[t % problem.schedule.len()]);
        for (k, c) in federation.server["c"].iter().enumerate() {
            let own: f32 = federation.states.iter().map(|s| s.get("c").map_or(0.0, |c| c[k])).sum();
            assert!((own / 4.0 - c).abs() < 2e-5, "round {t}: {own} {c}");
        }
    }
}

#[test]
fn feddyn_keeps_the_mean_of_its_memories() {
    let problem = golden().problem;
    let mut federation = Federation::new(&problem, "feddyn", &serde_json::json!({}));
    for t in 0..40 {
        federation.round(t, &problem.schedule[t % problem.schedule.len()]);
        for (k, h) in federation.server["h"].iter().enumerate() {
            let own: f32 = federation.states.iter().map(|s| s.get("h").map_or(0.0, |h| h[k])).sum();
            assert!((own / 4.0 - h).abs() < 2e-5, "round {t}: {own} {h}");
        }
    }
}

#[test]
fn corrected_methods_reach_the_optimum_where_fedavg_is_biased() {
    let problem = golden().problem;
    let everyone = [vec![0, 1, 2, 3]];
    let error = |kind: &str| {
        let mut federation = Federation::new(&problem, kind, &serde_json::json!({}));
        (federation.steps, federation.weight_decay, federation.clip) = (5, 0.0, None);
        let mut w = Vec::new();
        for _ in 0..800 {
            w = federation.round(0, &everyone[0]);
        }
        // At the optimum the sum of the clients' gradients is zero.
        let mut total = vec![0.0_f64; w.len()];
        for client in 0..4 {
            for (total, g) in total.iter_mut().zip(problem.gradient(client, &w)) {
                *total += f64::from(g);
            }
        }
        total.iter().map(|g| g * g).sum::<f64>().sqrt()
    };
    assert!(error("fedavg") > 1e-2);
    assert!(error("scaffold") < 1e-4, "{}", error("scaffold"));
    assert!(error("feddyn") < 1e-4, "{}", error("feddyn"));
}

#[test]
fn a_newcomer_keeps_the_mean_of_control_variates() {
    // Round with clients 0 and 1 of a population of two, then 2 joins (its state is zero).
    let problem = golden().problem;
    let mut federation = Federation::new(&problem, "scaffold", &serde_json::json!({}));
    let d = problem.w0.len();
    let mut before = 2;
    for (t, (cohort, population)) in [(vec![0, 1], 2), (vec![0, 2], 3), (vec![1], 4)].into_iter().enumerate()
    {
        let lr = 0.1;
        let mut folds: Vec<Accumulator> =
            federation.algorithm.folds().into_iter().map(|fold| Accumulator::new(fold, d)).collect();
        for client in &cohort {
            let start = federation.server[MODEL].clone();
            let end: Vec<f32> =
                start.iter().enumerate().map(|(k, w)| w - 0.01 * (k + client + t) as f32).collect();
            let run = LocalRun { start, end, steps: 3, lr };
            let finished = federation.algorithm.finish(run, &federation.server, &federation.states[*client]);
            federation.states[*client] = finished.next;
            for fold in &mut folds {
                fold.accumulate(&finished.upload["delta"], &UploadFacts { examples: 1, steps: 3, lr });
            }
        }
        let mean = folds
            .into_iter()
            .map(|fold| (fold.fold().into.to_owned(), Arc::new(fold.mean().unwrap())))
            .collect();
        let facts = RoundFacts { included: cohort.len(), population, population_before: before };
        federation.algorithm.apply(&mut federation.server, &mean, &facts);
        before = population;
        for (k, c) in federation.server["c"].iter().enumerate() {
            let own: f32 = federation.states.iter().map(|s| s.get("c").map_or(0.0, |c| c[k])).sum();
            assert!((own / population as f32 - c).abs() < 1e-5, "round {t}: {own} {c}");
        }
    }
}

#[test]
fn bad_parameters_are_named() {
    let message = |kind: &str, params: serde_json::Value| {
        make(kind, params.as_object().unwrap()).unwrap_err().to_string()
    };
    assert!(message("fedavgg", serde_json::json!({})).contains("expected one of fedavg"));
    assert!(message("fedprox", serde_json::json!({"proxx": 1.0})).contains("proxx"));
    assert!(message("fedprox", serde_json::json!({"prox": -1.0})).contains("prox"));
    assert!(message("feddyn", serde_json::json!({"prox": 0.0})).contains("above 0"));
}
