//! Every rule of the registry against trajectories of an independent implementation (four nodes with
//! quadratics `½ Σ a (x − c)²`, `f64`), and in the cases in which it must be another one.

#![allow(clippy::unwrap_used, reason = "tests")]

use gossip::{
    Params, Schedule, make,
    report::Mode,
    rule::{Chosen, Local, Matrix, Round, Rule, Task, choose},
    rules::{RULES, adpsgd::AdPsgd},
};
use serde_json::{Value, json};
use std::sync::Arc;

fn golden() -> Value {
    serde_json::from_str(include_str!("fixtures/decentralised.json")).unwrap()
}

fn matrix(value: &Value) -> Matrix {
    serde_json::from_value(value.clone()).unwrap()
}

fn schedule(kind: &str, keys: Value, nodes: usize) -> Schedule {
    let topology = make(kind, &serde_json::from_value(keys).unwrap()).unwrap();
    Schedule::new(Arc::from(topology), nodes, 0).unwrap()
}

fn ring() -> Schedule {
    schedule("ring", json!({}), 4)
}

fn directed() -> Schedule {
    schedule("edges", json!({"edges": golden()["P_directed_edges_sender_receiver"]}), 4)
}

fn chosen(name: &str, keys: &Value) -> Chosen {
    choose(name, &serde_json::from_value::<Params>(keys.clone()).unwrap()).unwrap()
}

/// Quadratics, K steps of size `eta`, and a compressor.
struct Quadratics {
    a: Matrix,
    c: Matrix,
    steps: usize,
    eta: f64,
    compress: fn(&[f64]) -> Vec<f64>,
}

impl Quadratics {
    fn golden(steps: usize) -> Self {
        let golden = golden();
        let (a, c) = (matrix(&golden["A"]), matrix(&golden["C"]));
        Self { a, c, steps, eta: 0.1, compress: <[f64]>::to_vec }
    }

    fn many(nodes: usize, steps: usize) -> Self {
        let value = |i: usize, k: usize| 0.3 + ((7 * i + 3 * k) % 5) as f64 / 3.0;
        let rows =
            |f: &dyn Fn(usize, usize) -> f64| (0..nodes).map(|i| (0..3).map(|k| f(i, k)).collect()).collect();
        let (a, c) = (rows(&value), rows(&|i, k| value(i + 1, 2 * k) * (i as f64 - 2.0)));
        Self { a, c, steps, eta: 0.1, compress: <[f64]>::to_vec }
    }

    fn slope(&self, node: usize, x: &[f64]) -> Vec<f64> {
        (0..x.len()).map(|k| self.a[node][k] * (x[k] - self.c[node][k])).collect()
    }
}

impl Task for Quadratics {
    fn train(&mut self, at: (usize, u64), start: &[f64], local: &Local, shift: Option<&[f64]>) -> Vec<f64> {
        let (mut y, mut before) = (start.to_vec(), start.to_vec());
        for _ in 0..self.steps {
            let mut g = self.slope(at.0, &y);
            if local.rho > 0.0 {
                let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt().max(1e-12);
                let probe: Vec<f64> = y.iter().zip(&g).map(|(y, g)| y + local.rho * g / norm).collect();
                g = self.slope(at.0, &probe);
            }
            let next = (0..y.len())
                .map(|k| {
                    let g = g[k] + local.prox * (y[k] - start[k]) + shift.map_or(0.0, |shift| shift[k]);
                    y[k] - self.eta * g + local.momentum * (y[k] - before[k])
                })
                .collect();
            before = std::mem::replace(&mut y, next);
        }
        y
    }

    fn gradient(&mut self, at: (usize, u64), point: &[f64]) -> Vec<f64> {
        self.slope(at.0, point)
    }

    fn compress(&mut self, _: (usize, u64), vector: &[f64]) -> Vec<f64> {
        (self.compress)(vector)
    }

    fn step(&self, _: u64) -> f64 {
        self.eta
    }
}

fn run(rule: &mut dyn Rule, schedule: &Schedule, task: &mut Quadratics, rounds: u64) {
    rule.begin(vec![vec![0.0; 3]; schedule.nodes()]);
    (0..rounds).for_each(|number| rule.round(Round { number, schedule, task }).unwrap());
}

#[track_caller]
fn near(what: &str, got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.concat().iter().zip(want.concat()) {
        assert!((got - want).abs() <= tolerance, "{what}: {got} instead of {want}");
    }
}

/// Follows a trajectory: a list of matrices (`x`), or of objects of matrices by name.
fn follow(key: &str, name: &str, keys: &Value, (schedule, mut task): (Schedule, Quadratics)) {
    let mut rule = chosen(name, keys).rule;
    rule.begin(matrix(&golden()["X0"]));
    let trajectory = golden()[key].as_array().unwrap().clone();
    for (number, want) in (0..).zip(&trajectory) {
        rule.round(Round { number, schedule: &schedule, task: &mut task }).unwrap();
        let vectors = rule.vectors();
        for (vector, got) in &vectors {
            let want = if want.is_array() && *vector == "x" { want } else { &want[*vector] };
            // Masses are lists of numbers there.
            let want = match want {
                Value::Null => continue,
                Value::Array(rows) if rows[0].is_number() => rows.iter().map(|w| json!([w])).collect(),
                rows => rows.clone(),
            };
            near(&format!("{key}: {vector} after round {number}"), got, &matrix(&want), 1e-9);
        }
    }
    assert!(trajectory.len() > 1);
}

fn top_1(v: &[f64]) -> Vec<f64> {
    let top = (0..v.len()).rev().max_by(|a, b| v[*a].abs().total_cmp(&v[*b].abs())).unwrap();
    (0..v.len()).map(|k| if k == top { v[k] } else { 0.0 }).collect()
}

fn grid(v: &[f64]) -> Vec<f64> {
    v.iter().map(|v| 0.05 * (v / 0.05 + 0.5).floor()).collect()
}

#[test]
fn rules_follow_the_vectors() {
    let on_ring = |steps| (ring(), Quadratics::golden(steps));
    let on_edges = |steps| (directed(), Quadratics::golden(steps));
    let with = |compress| (ring(), Quadratics { compress, ..Quadratics::golden(1) });
    follow("dpsgd_awc_eta0.1_T3", "dpsgd", &json!({"form": "awc"}), on_ring(1));
    follow("dpsgd_atc_eta0.1_T3", "dpsgd", &json!({}), on_ring(1));
    follow("dpsgd_atc_eta0.1_T3", "dfedavg", &json!({}), on_ring(1));
    follow("dfedavgm_K3_eta0.1_theta0.9_T2", "dfedavgm", &json!({}), on_ring(3));
    follow("dfedavgm_K3_eta0.1_theta0.9_T2", "dfedavg", &json!({"momentum": 0.9}), on_ring(3));
    follow("dfedsam_K2_eta0.1_rho0.05_T2", "dfedsam", &json!({"rho": 0.05}), on_ring(2));
    follow("dfedsam_mgs_K2_eta0.1_rho0.05_Q4_T2", "dfedsam-mgs", &json!({"rho": 0.05}), on_ring(2));
    follow("sgp_eta0.1_T3", "sgp", &json!({}), on_edges(1));
    follow("sgp_K2_eta0.1_T2", "sgp", &json!({}), on_edges(2));
    follow("osgp_tau1_eta0.1_T4", "osgp", &json!({}), on_edges(1));
    follow("gt_eta0.1_T3", "gradient-tracking", &json!({}), on_ring(1));
    follow("pushdiging_eta0.1_T3", "push-diging", &json!({}), on_edges(1));
    follow("choco_top1_eta0.1_gamma0.3_T3", "choco-sgd", &json!({"gamma": 0.3}), with(top_1));
    let quantised = (ring(), Quadratics { compress: grid, ..Quadratics::golden(3) });
    follow("qdfedavgm_public_copy_K3_eta0.1_theta0.9_s0.05_gamma1_T2", "qdfedavgm", &json!({}), quantised);
}

#[test]
fn pairs_follow_the_vectors() {
    let golden = &golden()["adpsgd_eta0.1_sched"];
    let (mut rule, mut task) = (AdPsgd::new(Local::SGD), Quadratics::golden(1));
    rule.begin(vec![vec![0.0; 3]; 4]);
    let pairs: Vec<(usize, usize)> = serde_json::from_value(golden["sched"].clone()).unwrap();
    for (pair, want) in pairs.into_iter().zip(golden["X"].as_array().unwrap()) {
        rule.exchange(0, pair, &mut task);
        near("adpsgd", &rule.models(), &matrix(want), 1e-9);
    }
}

#[test]
fn the_total_mass_of_overlapping_push_is_kept() {
    let mut rule = gossip::rule::Push::overlapping(Local::SGD, 3);
    let (graph, mut task) = (directed(), Quadratics::golden(1));
    rule.begin(vec![vec![0.0; 3]; 4]);
    for number in 0..20 {
        rule.round(Round { number, schedule: &graph, task: &mut task }).unwrap();
        assert!((rule.total() - 4.0).abs() < 1e-12);
    }
}

/// Models after some rounds over 8 nodes.
fn models(name: &str, keys: &Value, kind: &str, steps: usize) -> Matrix {
    let mut rule = chosen(name, keys).rule;
    run(rule.as_mut(), &schedule(kind, json!({}), 8), &mut Quadratics::many(8, steps), 6);
    rule.models()
}

#[test]
fn as_many_mixing_steps_as_a_period_are_training_with_everybody() {
    let everybody = models("dfedsam", &json!({}), "full", 3);
    for kind in ["one-peer-hypercube", "base-graph"] {
        near(kind, &models("dfedsam-mgs", &json!({"repeats": 3}), kind, 3), &everybody, 1e-12);
    }
    near(
        "exponential",
        &models("dfedsam-mgs", &json!({"repeats": 3}), "one-peer-exponential", 3),
        &everybody,
        1e-12,
    );
}

#[test]
fn where_one_rule_is_another() {
    for kind in ["ring", "static-exponential", "one-peer-exponential"] {
        let mut push = chosen("sgp", &json!({})).rule;
        run(push.as_mut(), &schedule(kind, json!({}), 8), &mut Quadratics::many(8, 2), 6);
        assert_eq!(push.models(), models("dpsgd", &json!({}), kind, 2), "{kind}: to the bit");
        assert!(push.vectors()[1].1.iter().all(|w| w[0] == 1.0), "{kind}");
    }
    let plain = models("dfedavg", &json!({}), "ring", 3);
    for (name, keys) in [
        ("dfedavgm", json!({"momentum": 0.0})),
        ("dfedsam", json!({"rho": 0.0})),
        ("dfedinit", json!({"relax": 0.0})),
        ("dfedsam-mgs", json!({"rho": 0.0, "repeats": 1})),
        ("dfedsgpsm", json!({"rho": 0.0, "momentum": 0.0})),
        ("qg-dsgdm", json!({"theta": 0.0})),
    ] {
        near(name, &models(name, &keys, "ring", 3), &plain, 1e-12);
    }
    // Without loss in the compressor the copies are the models.
    let lossless = models("qdfedavgm", &json!({}), "ring", 3);
    near("qdfedavgm", &lossless, &models("dfedavgm", &json!({}), "ring", 3), 1e-12);
    assert_ne!(models("dfedinit", &json!({}), "ring", 3), plain);
    assert_ne!(models("sgp", &json!({"prox": 1.0}), "ring", 3), plain, "a prox term goes with any mixing");
}

#[test]
fn everybody_finds_the_common_optimum() {
    let task = |steps| Quadratics { eta: 0.02, ..Quadratics::many(8, steps) };
    let optimum: Vec<f64> = {
        let Quadratics { a, c, .. } = task(1);
        let sum = |f: &dyn Fn(usize) -> f64| (0..8).map(f).sum::<f64>();
        (0..3).map(|k| sum(&|i| a[i][k] * c[i][k]) / sum(&|i| a[i][k])).collect()
    };
    let off = |name: &str, kind: &str, keys: &Value| {
        let mut rule = chosen(name, keys).rule;
        run(rule.as_mut(), &schedule(kind, json!({}), 8), &mut task(1), 3_000);
        let far =
            |model: &Vec<f64>| model.iter().zip(&optimum).map(|(x, o)| (x - o).abs()).fold(0.0, f64::max);
        rule.models().iter().map(far).fold(0.0, f64::max)
    };
    for (name, kind) in [("gradient-tracking", "ring"), ("push-diging", "reset-chain")] {
        assert!(off(name, kind, &json!({})) < 1e-6, "{name}: no bias at a constant step");
    }
    let biased = off("dpsgd", "ring", &json!({}));
    assert!(biased > 0.05, "{biased}");
    for (name, kind, keys) in [
        ("sgp", "static-exponential", json!({})),
        ("dfedsgpsm", "static-exponential", json!({"momentum": 0.3})),
        ("osgp", "static-exponential", json!({})),
        ("choco-sgd", "static-exponential", json!({})),
        ("relaysgd", "path", json!({})),
        ("qg-dsgdm", "ring", json!({})),
    ] {
        let off = off(name, kind, &keys);
        assert!(off < 1.0, "{name}: {off}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let message = |name: &str, keys: Value| {
        choose(name, &serde_json::from_value::<Params>(keys).unwrap()).unwrap_err().to_string()
    };
    for (name, keys, want) in [
        ("spg", json!({}), "expected one of adpsgd, choco-sgd"),
        ("sgp", json!({"tau": 2}), "unknown field `tau`"),
        ("sgp", json!({"momentum": 1.0}), "must be below 1"),
        ("sgp", json!({"rho": -1.0}), "`rho` is -1"),
        ("osgp", json!({"tau": 0}), "`tau` is 0"),
        ("dfedsam-mgs", json!({"repeats": 0}), "`repeats` is 0"),
        ("choco-sgd", json!({"gamma": 2.0}), "`gamma` is 2"),
        ("dpsgd", json!({"form": "cta"}), "unknown variant `cta`"),
    ] {
        let message = message(name, keys);
        assert!(message.contains(want) && message.contains(name), "{message}");
    }
    let mut rule = chosen("dfedavg", &json!({})).rule;
    rule.begin(vec![vec![0.0; 3]; 4]);
    let (graph, mut task) = (directed(), Quadratics::golden(1));
    let error = rule.round(Round { number: 0, schedule: &graph, task: &mut task }).unwrap_err().to_string();
    assert!(error.contains("edges") && error.contains("push"), "{error}");
    let mut rule = chosen("relaysgd", &json!({})).rule;
    rule.begin(vec![vec![0.0; 3]; 4]);
    let error = rule.round(Round { number: 0, schedule: &ring(), task: &mut task }).unwrap_err();
    assert!(error.to_string().contains("tree"), "{error}");
}

#[test]
fn every_row_can_be_built() {
    for row in RULES {
        let mut keys = (row.defaults)();
        keys.insert("rho".into(), json!(0.1));
        let chosen = choose(row.name, &keys).unwrap();
        assert_eq!(chosen.local, Local { rho: 0.1, ..row.local });
        assert!(!row.citation.is_empty());
        let kind = match (row.mode, row.name) {
            (_, "relaysgd") => "path",
            (_, "adpsgd") => "random-pair",
            (Mode::Push, _) => "static-exponential",
            (Mode::Symmetric, _) => "ring",
        };
        let mut rule = chosen.rule;
        run(rule.as_mut(), &schedule(kind, json!({}), 5), &mut Quadratics::many(5, 2), 3);
        assert!(rule.models().concat().iter().all(|x| x.is_finite()) && rule.models()[0] != vec![0.0; 3]);
    }
}
