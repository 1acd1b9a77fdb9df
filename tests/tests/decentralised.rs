//! The decentralised rules of `gossip` with the local plans and compressors of `algorithms`: the two pure
//! crates do not know each other, so it is here that their combination follows the golden vectors.

#![allow(clippy::unwrap_used, reason = "tests")]

use algorithms::{
    compress::Compressor,
    local::{LocalPlan, Probe, StepSize, Update, Walk},
};
use gossip::{
    Params, Schedule, make,
    rule::{Local, Matrix, Round, Task, choose},
};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};

fn golden() -> Value {
    serde_json::from_str(include_str!("../../gossip/tests/fixtures/decentralised.json")).unwrap()
}

fn matrix(value: &Value) -> Matrix {
    serde_json::from_value(value.clone()).unwrap()
}

/// Quadratics that are trained by the walk of the federated algorithms, in `f64`.
struct Walked {
    a: Matrix,
    c: Matrix,
    steps: usize,
    compressor: Option<Compressor>,
}

impl Walked {
    fn new(steps: usize) -> Self {
        let golden = golden();
        Self { a: matrix(&golden["A"]), c: matrix(&golden["C"]), steps, compressor: None }
    }
}

impl Task for Walked {
    fn train(&mut self, at: (usize, u64), start: &[f64], local: &Local, shift: Option<&[f64]>) -> Vec<f64> {
        let plan = LocalPlan {
            prox: local.prox,
            shift: shift.map(|shift| Arc::new(shift.to_vec())),
            probe: Probe::ascent(local.rho),
            update: match local.momentum {
                0.0 => Update::Sgd,
                momentum => Update::HeavyBall { momentum },
            },
            ..LocalPlan::default()
        };
        let size = StepSize { lr: 0.1, weight_decay: 0.0, clip: None, compat: false };
        let mut walk = Walk::new(&Arc::new(start.to_vec()), &plan, size);
        for _ in 0..self.steps {
            let gradient = |y: &[f64], grad: &mut [f64]| {
                for k in 0..3 {
                    grad[k] = self.a[at.0][k] * (y[k] - self.c[at.0][k]);
                }
                Ok::<_, Infallible>(())
            };
            walk.step(gradient).unwrap();
        }
        walk.finish().end
    }

    fn gradient(&mut self, at: (usize, u64), point: &[f64]) -> Vec<f64> {
        (0..3).map(|k| self.a[at.0][k] * (point[k] - self.c[at.0][k])).collect()
    }

    fn compress(&mut self, at: (usize, u64), vector: &[f64]) -> Vec<f64> {
        let Some(compressor) = &self.compressor else { return vector.to_vec() };
        let narrow: Vec<f32> = vector.iter().map(|v| *v as f32).collect();
        let seed = at.1 * 100 + at.0 as u64;
        let bytes = compressor.encode(&narrow, &[], seed).unwrap();
        let decoded = compressor.decode(&bytes, &[], narrow.len()).unwrap();
        decoded.into_iter().map(f64::from).collect()
    }

    fn step(&self, _: u64) -> f64 {
        0.1
    }
}

fn ring() -> Schedule {
    Schedule::new(Arc::from(make("ring", &Params::new()).unwrap()), 4, 0).unwrap()
}

/// The largest distance from the trajectory under `key`.
fn off(key: &str, name: &str, keys: Value, mut task: Walked) -> f64 {
    let mut rule = choose(name, &serde_json::from_value::<Params>(keys).unwrap()).unwrap().rule;
    rule.begin(vec![vec![0.0; 3]; 4]);
    let (schedule, mut worst) = (ring(), 0.0_f64);
    for (number, want) in (0..).zip(golden()[key].as_array().unwrap()) {
        rule.round(Round { number, schedule: &schedule, task: &mut task }).unwrap();
        let want = matrix(if want.is_array() { want } else { &want["x"] }).concat();
        let distance = |(got, want): (f64, f64)| (got - want).abs();
        worst = rule.models().concat().into_iter().zip(want).map(distance).fold(worst, f64::max);
    }
    worst
}

#[test]
fn local_plans_and_mixing_rules_together_follow_the_vectors() {
    for (key, name, keys, steps) in [
        ("dpsgd_atc_eta0.1_T3", "dpsgd", json!({}), 1),
        ("dfedavgm_K3_eta0.1_theta0.9_T2", "dfedavgm", json!({}), 3),
        // The plans divide by ‖g‖ + 1e-7, the reference by ‖g‖: 1e-9 in a step.
        ("dfedsam_K2_eta0.1_rho0.05_T2", "dfedsam", json!({"rho": 0.05}), 2),
        ("dfedsam_mgs_K2_eta0.1_rho0.05_Q4_T2", "dfedsam-mgs", json!({"rho": 0.05}), 2),
    ] {
        let off = off(key, name, keys, Walked::new(steps));
        let tolerance = if name.contains("sam") { 5e-9 } else { 1e-9 };
        assert!(off < tolerance, "{key}: {off}");
    }
}

#[test]
fn the_project_s_compressors_carry_choco() {
    let key = "choco_top1_eta0.1_gamma0.3_T3";
    let top_1 = Some(Compressor::TopK { ratio: 0.33 });
    let off_by = off(key, "choco-sgd", json!({"gamma": 0.3}), Walked { compressor: top_1, ..Walked::new(1) });
    // Through f32.
    assert!(off_by < 1e-6, "{off_by}");
    let fine = Some(Compressor::Int8 { block: 4 });
    let task = Walked { compressor: fine, ..Walked::new(3) };
    let off_by = off("dfedavgm_K3_eta0.1_theta0.9_T2", "qdfedavgm", json!({}), task);
    assert!(off_by > 0.0 && off_by < 0.05, "{off_by}: eight bits are close to none lost");
}
