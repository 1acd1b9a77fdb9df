//! Mixing as the decentralised algorithms use it, against trajectories of an independent implementation:
//! four nodes with quadratics `½ Σ a (x − c)²`, in `f64`. The algorithms here are a few lines of test.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use gossip::{
    Mixing, Schedule, Share,
    analysis::analyse,
    kernel::{PushSum, Scalar, mix, mix_repeatedly},
    machine::{Action, Barrier, Errand, Event, Machine, Member, Membership, Method},
    make,
    report::Mode,
};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use support::config;

type Matrix = Vec<Vec<f64>>;

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

fn ring() -> Mixing {
    schedule("ring", json!({}), 4).mixing(0).into_owned()
}

fn directed() -> Schedule {
    schedule("edges", json!({"edges": golden()["P_directed_edges_sender_receiver"]}), 4)
}

#[track_caller]
fn same(got: &[Vec<f64>], want: &Value) {
    let want = matrix(want);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.concat().iter().zip(want.concat()) {
        assert!((got - want).abs() < 1e-9, "{got} instead of {want}");
    }
}

/// `a + factor · b`, element by element.
fn plus(a: &[Vec<f64>], factor: f64, b: &[Vec<f64>]) -> Matrix {
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + factor * b).collect();
    a.iter().zip(b).map(row).collect()
}

fn gradients(at: &[Vec<f64>]) -> Matrix {
    static TASKS: LazyLock<(Matrix, Matrix)> =
        LazyLock::new(|| (matrix(&golden()["A"]), matrix(&golden()["C"])));
    let (a, c) = &*TASKS;
    let row = |(i, x): (usize, &Vec<f64>)| (0..3).map(|k| a[i][k] * (x[k] - c[i][k])).collect();
    at.iter().enumerate().map(row).collect()
}

/// Local steps with heavy ball `theta` and SAM radius `rho`.
fn local(x: &[Vec<f64>], (steps, eta): (usize, f64), theta: f64, rho: f64) -> Matrix {
    let (mut y, mut before) = (x.to_vec(), x.to_vec());
    for _ in 0..steps {
        let mut g = gradients(&y);
        if rho > 0.0 {
            let uphill: Matrix = g
                .iter()
                .map(|g| {
                    let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt().max(1e-12);
                    g.iter().map(|g| rho * g / norm).collect()
                })
                .collect();
            g = gradients(&plus(&y, 1.0, &uphill));
        }
        let next = plus(&plus(&y, -eta, &g), theta, &plus(&y, -1.0, &before));
        before = std::mem::replace(&mut y, next);
    }
    y
}

fn zeros() -> Matrix {
    vec![vec![0.0; 3]; 4]
}

#[test]
fn matrices_and_their_analysis() {
    let golden = golden();
    let dense = |mixing: &Mixing| -> Matrix {
        let unit = |j: usize| (0..4).map(|i| f64::from(u8::from(i == j))).collect::<Vec<_>>();
        let columns: Matrix = (0..4).map(|j| mixing.apply(&unit(j))).collect();
        (0..4).map(|i| columns.iter().map(|column| column[i]).collect()).collect()
    };
    same(&dense(&ring()), &golden["W_ring4_MH"]);
    same(&dense(&directed().mixing(0)), &golden["P_directed"]);
    let facts = analyse(&directed());
    assert!((facts.lambda - golden["P_lambda"].as_f64().unwrap()).abs() < 1e-9);
    assert!((facts.delta.n_min_pi - 8.0 / 13.0).abs() < 1e-9);
    same(&[facts.pi], &json!([golden["P_pi"]]));
}

#[test]
fn symmetric_algorithms() {
    let (golden, w) = (golden(), ring());
    let run = |key: &str, step: &dyn Fn(&Matrix) -> Matrix| {
        let mut x = zeros();
        for want in golden[key].as_array().unwrap() {
            x = step(&x);
            same(&x, want);
        }
    };
    run("dpsgd_awc_eta0.1_T3", &|x| plus(&mix(&w, x), -0.1, &gradients(x)));
    run("dpsgd_atc_eta0.1_T3", &|x| mix(&w, &plus(x, -0.1, &gradients(x))));
    run("dfedavgm_K3_eta0.1_theta0.9_T2", &|x| mix(&w, &local(x, (3, 0.1), 0.9, 0.0)));
    run("dfedsam_K2_eta0.1_rho0.05_T2", &|x| mix(&w, &local(x, (2, 0.1), 0.0, 0.05)));
    let schedule = schedule("ring", json!({}), 4);
    run("dfedsam_mgs_K2_eta0.1_rho0.05_Q4_T2", &|x| {
        mix_repeatedly(&schedule, 0, 4, &local(x, (2, 0.1), 0.0, 0.05))
    });
}

#[test]
fn algorithms_with_a_second_vector() {
    let (golden, w, p) = (golden(), ring(), directed().mixing(0).into_owned());
    let (mut x, mut y) = (zeros(), gradients(&zeros()));
    for want in golden["gt_eta0.1_T3"].as_array().unwrap() {
        let next = mix(&w, &plus(&x, -0.1, &y));
        y = plus(&plus(&mix(&w, &y), 1.0, &gradients(&next)), -1.0, &gradients(&x));
        x = next;
        same(&x, &want["x"]);
        same(&y, &want["y"]);
    }
    let (mut u, mut y) = (PushSum::new(zeros()), gradients(&zeros()));
    for want in golden["pushdiging_eta0.1_T3"].as_array().unwrap() {
        let before = gradients(&u.models());
        u.x = plus(&u.x, -0.1, &y);
        u.mix(&p);
        y = plus(&plus(&mix(&p, &y), 1.0, &gradients(&u.models())), -1.0, &before);
        same(&u.x, &want["u"]);
        same(&[u.w.clone()], &json!([want["v"]]));
        same(&u.models(), &want["x"]);
        same(&y, &want["y"]);
    }
    let (mut x, mut copies) = (zeros(), zeros());
    for want in golden["choco_top1_eta0.1_gamma0.3_T3"].as_array().unwrap() {
        let half = plus(&x, -0.1, &gradients(&x));
        for (copy, half) in copies.iter_mut().zip(&half) {
            let off = |k: &usize| (half[*k] - copy[*k]).abs();
            let top = (0..3).rev().max_by(|a, b| off(a).total_cmp(&off(b))).unwrap();
            copy[top] += half[top] - copy[top];
        }
        x = plus(&half, 0.3, &plus(&mix(&w, &copies), -1.0, &copies));
        same(&x, &want["x"]);
        same(&copies, &want["xhat"]);
    }
    let (mut x, mut copies) = (zeros(), zeros());
    for want in golden["qdfedavgm_public_copy_K3_eta0.1_theta0.9_s0.05_gamma1_T2"].as_array().unwrap() {
        let z = local(&x, (3, 0.1), 0.9, 0.0);
        let on_grid = |v: f64| 0.05 * (v / 0.05 + 0.5).floor();
        let q: Matrix =
            plus(&z, -1.0, &copies).iter().map(|v| v.iter().map(|v| on_grid(*v)).collect()).collect();
        copies = plus(&copies, 1.0, &q);
        x = plus(&z, 1.0, &plus(&mix(&w, &copies), -1.0, &copies));
        same(&x, &want["x"]);
        same(&copies, &want["xhat"]);
    }
}

#[test]
fn push_algorithms() {
    let (golden, p) = (golden(), directed().mixing(0).into_owned());
    for (key, steps) in [("sgp_eta0.1_T3", 1), ("sgp_K2_eta0.1_T2", 2)] {
        let mut state = PushSum::new(zeros());
        for want in golden[key].as_array().unwrap() {
            let z = state.models();
            state.x = plus(&plus(&state.x, 1.0, &local(&z, (steps, 0.1), 0.0, 0.0)), -1.0, &z);
            state.mix(&p);
            same(&state.x, &want["x"]);
            same(&[state.w.clone()], &json!([want["w"]]));
            same(&state.models(), &want["z"]);
        }
    }
    // Overlap of one round: what is sent in round k arrives in round k + 1.
    let (mut state, mut under_way) = (PushSum::new(zeros()), PushSum { x: zeros(), w: vec![0.0; 4] });
    for want in golden["osgp_tau1_eta0.1_T4"].as_array().unwrap() {
        state.x = plus(&state.x, -0.1, &gradients(&state.models()));
        let own: Vec<f64> = (0..4).map(|i| p.row(i).iter().find(|s| s.to == i).unwrap().weight).collect();
        let kept = PushSum {
            x: state.x.iter().zip(&own).map(|(x, own)| x.iter().map(|x| own * x).collect()).collect(),
            w: state.w.iter().zip(&own).map(|(w, own)| w * own).collect(),
        };
        state.mix(&p);
        let sent = PushSum {
            x: plus(&state.x, -1.0, &kept.x),
            w: state.w.iter().zip(&kept.w).map(|(all, kept)| all - kept).collect(),
        };
        state.x = plus(&kept.x, 1.0, &under_way.x);
        state.w = kept.w.iter().zip(&under_way.w).map(|(kept, arrived)| kept + arrived).collect();
        under_way = sent;
        same(&state.x, &want["x"]);
        same(&[state.w.clone()], &json!([want["w"]]));
        let total: f64 = state.w.iter().chain(&under_way.w).sum();
        assert!((total - want["total_weight_incl_inflight"].as_f64().unwrap()).abs() < 1e-9);
    }
}

#[test]
fn pairs_average() {
    let golden = &golden()["adpsgd_eta0.1_sched"];
    let mut x = zeros();
    for (pair, want) in golden["sched"].as_array().unwrap().iter().zip(golden["X"].as_array().unwrap()) {
        let pair: Vec<usize> = serde_json::from_value(pair.clone()).unwrap();
        let gradient = gradients(&x)[pair[0]].clone();
        let half = |to: &usize| Share { to: *to, weight: 0.5 };
        let averaged = vec![half(pair.iter().min().unwrap()), half(pair.iter().max().unwrap())];
        let kept = |node| vec![Share { to: node, weight: 1.0 }];
        let column = |node| if pair.contains(&node) { averaged.clone() } else { kept(node) };
        x = mix(&Mixing::from_columns((0..4).map(column).collect()), &x);
        for (x, g) in x[pair[0]].iter_mut().zip(gradient) {
            *x -= 0.1 * g;
        }
        same(&x, want);
    }
}

#[test]
fn multiple_gossip_over_a_period_is_the_exact_mean() {
    for kind in ["one-peer-exponential", "one-peer-hypercube", "base-graph"] {
        let graph = schedule(kind, json!({}), 8);
        let models: Vec<Vec<f64>> =
            (0..8).map(|i| vec![f64::from(i * i), 1.0 / (1.0 + f64::from(i))]).collect();
        let period = graph.period().unwrap();
        for round in 0..3 {
            for model in mix_repeatedly(&graph, round, period, &models) {
                for (k, x) in model.iter().enumerate() {
                    let mean = models.iter().map(|model| model[k]).sum::<f64>() / 8.0;
                    assert!((x - mean).abs() < 1e-12, "{kind}: {x} instead of {mean}");
                }
            }
        }
        let narrow: Vec<Vec<f32>> = models.iter().map(|m| m.iter().map(|x| *x as f32).collect()).collect();
        let mixed = mix_repeatedly(&graph, 0, period, &narrow);
        assert!(mixed.iter().all(|model| (model[0] - 17.5).abs() < 1e-5), "{kind}: {mixed:?}");
    }
}

/// Twenty rounds of both, compared as bytes.
fn sgp_equals_dpsgd<T: Scalar>(graph: &Schedule) {
    let (nodes, mut x) = (graph.nodes(), Vec::new());
    for node in 0..nodes {
        x.push(vec![T::of(node as f64 / 7.0), T::of(1.0 / (1.0 + node as f64))]);
    }
    let mut push = PushSum::new(x.clone());
    let step = |node: usize, z: &[T]| -> Vec<T> {
        z.iter().map(|z| T::of(-0.1 * (1.0 + node as f64)) * (*z - T::of(node as f64))).collect()
    };
    for round in 0..20 {
        for (node, model) in push.models().iter().enumerate() {
            gossip::kernel::add(&mut push.x[node], &step(node, model));
        }
        push.mix(&graph.mixing(round));
        for (node, model) in x.iter_mut().enumerate() {
            let change = step(node, model);
            gossip::kernel::add(model, &change);
        }
        x = mix(&graph.mixing(round), &x);
        assert!(push.w.iter().all(|w| *w == 1.0), "{:?}", push.w);
        assert_eq!(push.models(), x);
    }
}

#[test]
fn push_over_doubly_stochastic_matrices_is_plain_averaging_to_the_bit() {
    for (kind, nodes) in [
        ("ring", 5),
        ("torus", 12),
        ("star", 7),
        ("static-exponential", 11),
        ("one-peer-exponential", 6),
        ("base-graph", 7),
        ("erdos-renyi", 9),
    ] {
        sgp_equals_dpsgd::<f64>(&schedule(kind, json!({}), nodes));
        sgp_equals_dpsgd::<f32>(&schedule(kind, json!({}), nodes));
    }
}

#[test]
fn row_stochastic_averaging_finds_the_wrong_optimum() {
    let graph = directed().topology().graph(&gossip::View { nodes: 4, round: 0, seed: 0 });
    // Each receiver averages evenly over itself and its senders.
    let senders =
        |to: usize| (0..4).filter(|from| *from == to || graph[*from].contains(&to)).collect::<Vec<_>>();
    let mut x = zeros();
    for _ in 0..30_000 {
        let stepped = plus(&x, -0.002, &gradients(&x));
        for (to, x) in x.iter_mut().enumerate() {
            let from = senders(to);
            *x = (0..3)
                .map(|k| from.iter().map(|i| stepped[*i][k]).sum::<f64>() / from.len() as f64)
                .collect();
        }
    }
    let (right, wrong) = ([2.0 / 9.0, 1.0 / 3.0, 13.0 / 9.0], [0.4019, 0.0953, 1.6032]);
    for k in 0..3 {
        assert!((x[0][k] - wrong[k]).abs() < 1e-3, "{x:?}");
        assert!((x[0][k] - right[k]).abs() > 0.1);
    }
    let (mut state, p) = (PushSum::new(zeros()), directed().mixing(0).into_owned());
    for _ in 0..30_000 {
        state.x = plus(&state.x, -0.002, &gradients(&state.models()));
        state.mix(&p);
    }
    for model in state.models() {
        assert!(model.iter().zip(right).all(|(x, right)| (x - right).abs() < 0.02), "{model:?}");
    }
}

/// What nodes do alone.
#[derive(Clone, Copy)]
struct Alone {
    steps: u64,
    momentum: f64,
    compress: fn(&[f64]) -> Vec<f64>,
}

const ONE_STEP: Alone = Alone { steps: 1, momentum: 0.0, compress: <[f64]>::to_vec };

impl Alone {
    fn change(self, node: usize, errand: &Errand<f64>) -> Vec<f64> {
        let (mut y, mut before) = (errand.model.to_vec(), errand.model.to_vec());
        for _ in 0..self.steps {
            let slope = &gradients(&vec![y.clone(); 4])[node];
            let shift = |k: usize| errand.shift.as_ref().map_or(0.0, |shift| shift[k]);
            let next = (0..3)
                .map(|k| y[k] - 0.1 * (slope[k] + shift(k)) + self.momentum * (y[k] - before[k]))
                .collect();
            before = std::mem::replace(&mut y, next);
        }
        y.iter().zip(&*errand.model).map(|(y, x)| y - x).collect()
    }
}

/// Machines in step on a perfect network: models and masses after each round.
fn machines(
    (kind, keys): (&str, &Value),
    (mode, method): (Mode, Method),
    alone: Alone,
    rounds: u64,
) -> Vec<(Matrix, Vec<f64>)> {
    let members = Membership::new((0..4).map(|id| Member { id, incarnation: 0 }));
    let start = |member| {
        let mut config = config(kind, keys.clone(), mode, Barrier::Synchronous);
        // The guard would step in on the uneven graph.
        (config.w_min, config.method) = (0.0, method);
        Machine::new(config, member, members.clone(), (0, vec![0.0; 3])).unwrap()
    };
    let mut nodes: Vec<Machine<f64>> = members.live().into_iter().map(start).collect();
    let mut out = Vec::new();
    for round in 0..rounds {
        let mut inbox = Vec::new();
        for (id, node) in nodes.iter_mut().enumerate() {
            let errand = node.errand().unwrap();
            let change = alone.change(id, &errand);
            let difference =
                errand.off((&errand.model, &change), &[0.0; 3]).map(|off| (alone.compress)(&off).into());
            let done = errand.done(change, (0.1, alone.steps), difference);
            inbox.extend(node.handle(Event::Trained { round, done }, round));
        }
        while let Some(action) = inbox.pop() {
            if let Action::Send(envelope) = action {
                inbox.extend(nodes[envelope.to.id as usize].handle(Event::Received(envelope), round));
            }
        }
        let models = nodes.iter().map(|node| node.model().unwrap().to_vec()).collect();
        out.push((models, nodes.iter().map(|node| node.mass().value()).collect()));
    }
    out
}

#[test]
fn machines_in_step_follow_the_vectors() {
    let golden = golden();
    let edges = json!({"edges": golden["P_directed_edges_sender_receiver"]});
    for ((models, masses), want) in machines(("edges", &edges), (Mode::Push, Method::Average), ONE_STEP, 3)
        .iter()
        .zip(golden["sgp_eta0.1_T3"].as_array().unwrap())
    {
        same(models, &want["z"]);
        same(std::slice::from_ref(masses), &json!([want["w"]]));
    }
    for mode in [Mode::Symmetric, Mode::Push] {
        let rounds = machines(("ring", &json!({})), (mode, Method::Average), ONE_STEP, 3);
        for ((models, masses), want) in rounds.iter().zip(golden["dpsgd_atc_eta0.1_T3"].as_array().unwrap()) {
            same(models, want);
            assert!(masses.iter().all(|w| *w == 1.0), "{masses:?}");
        }
    }
}

#[test]
fn machines_that_do_more_than_average_follow_the_vectors() {
    let top_1 = |v: &[f64]| -> Vec<f64> {
        let top = (0..v.len()).rev().max_by(|a, b| v[*a].abs().total_cmp(&v[*b].abs())).unwrap();
        (0..v.len()).map(|k| if k == top { v[k] } else { 0.0 }).collect()
    };
    let grid = |v: &[f64]| -> Vec<f64> { v.iter().map(|v| 0.05 * (v / 0.05 + 0.5).floor()).collect() };
    let edges = json!({"edges": golden()["P_directed_edges_sender_receiver"]});
    let (ring, none) = ("ring", json!({}));
    let symmetric = |method| (Mode::Symmetric, method);
    let choco = Alone { compress: top_1, ..ONE_STEP };
    let quantised = Alone { steps: 3, momentum: 0.9, compress: grid };
    for (key, graph, how, alone) in [
        ("gt_eta0.1_T3", (ring, &none), symmetric(Method::Tracking), ONE_STEP),
        ("pushdiging_eta0.1_T3", ("edges", &edges), (Mode::Push, Method::Tracking), ONE_STEP),
        ("choco_top1_eta0.1_gamma0.3_T3", (ring, &none), symmetric(Method::Compressed { gamma: 0.3 }), choco),
        (
            "qdfedavgm_public_copy_K3_eta0.1_theta0.9_s0.05_gamma1_T2",
            (ring, &none),
            symmetric(Method::Compressed { gamma: 1.0 }),
            quantised,
        ),
    ] {
        let golden = golden();
        let want = golden[key].as_array().unwrap();
        let rounds = machines(graph, how, alone, want.len() as u64);
        for ((models, _), want) in rounds.iter().zip(want) {
            same(models, &want["x"]);
        }
    }
}
