//! Momentum, tracking, compressed differences and relayed sums on the test network: what peers do under loss,
//! repetition, reordering and restarts equals the rule for all nodes at once, and what happens when the
//! membership changes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use gossip::{
    Params, Schedule,
    machine::{Barrier, Config, Method, Phase},
    report::Mode,
    rule::{Local, Matrix, Round, Task, choose},
};
use serde_json::{Value, json};
use support::{CALM, Faults, Net, config};

/// The network's quadratics, for a rule.
struct Quadratics<'a>(&'a Net);

impl Task for Quadratics<'_> {
    fn train(&mut self, at: (usize, u64), start: &[f64], _: &Local, shift: Option<&[f64]>) -> Vec<f64> {
        let mut y = start.to_vec();
        for _ in 0..self.0.steps {
            let slope = self.gradient(at, &y);
            for k in 0..y.len() {
                y[k] -= self.0.eta * (slope[k] + shift.map_or(0.0, |shift| shift[k]));
            }
        }
        y
    }

    fn gradient(&mut self, (node, _): (usize, u64), point: &[f64]) -> Vec<f64> {
        let (a, c) = &self.0.tasks[&(node as u64)];
        (0..3).map(|k| a[k] * (point[k] - c[k])).collect()
    }

    fn compress(&mut self, _: (usize, u64), vector: &[f64]) -> Vec<f64> {
        (self.0.compress)(vector)
    }

    fn step(&self, _: u64) -> f64 {
        self.0.eta
    }
}

/// The largest coordinate alone.
fn top_1(v: &[f64]) -> Vec<f64> {
    let top = (0..v.len()).max_by(|a, b| v[*a].abs().total_cmp(&v[*b].abs())).unwrap();
    (0..v.len()).map(|k| if k == top { v[k] } else { 0.0 }).collect()
}

fn grid(v: &[f64]) -> Vec<f64> {
    v.iter().map(|v| 0.05 * (v / 0.05 + 0.5).floor()).collect()
}

const ROUNDS: usize = 30;

/// Models of all nodes at the beginning of each round, on a network on which everybody is killed and restarted
/// with its stored state now and then.
fn on_the_wire(net: &mut Net, nodes: usize, kills: bool) -> Vec<Matrix> {
    let mut models = vec![vec![Vec::new(); nodes]; ROUNDS + 1];
    let (mut at, mut down) = (40, None);
    while models.iter().flatten().any(Vec::is_empty) {
        assert!(net.now < 1_000_000, "stuck");
        let training = net.up().filter(|node| node.phase() == Phase::Training);
        for node in training.filter(|node| node.round() <= ROUNDS as u64) {
            let place = &mut models[node.round() as usize][node.me().id as usize];
            if place.is_empty() {
                *place = node.model().unwrap().to_vec();
            }
        }
        net.step();
        if kills && net.now > at {
            at = net.now + 25;
            if let Some(id) = down.take() {
                net.resume(id);
            } else {
                let id = (at / 25) % nodes as u64;
                net.crash(id);
                down = Some(id);
            }
        }
    }
    models
}

/// A rule of the registry, as peers and as a rule.
fn both(name: &str, keys: Value, mut config: Config, nodes: usize) -> (Net, gossip::rule::Chosen, Schedule) {
    let chosen = choose(name, &serde_json::from_value::<Params>(keys).unwrap()).unwrap();
    config.method = chosen.rule.method();
    assert_eq!(chosen.row.mode, config.mode);
    let schedule = Schedule::new(config.topology.clone(), nodes, config.seed).unwrap();
    (Net::new(config, nodes as u64, 7), chosen, schedule)
}

fn symmetric(kind: &str, keys: Value) -> Config {
    config(kind, keys, Mode::Symmetric, Barrier::Synchronous)
}

fn push(kind: &str, keys: Value) -> Config {
    // The guard is for runs, not part of the rule.
    Config { w_min: 0.0, ..config(kind, keys, Mode::Push, Barrier::Synchronous) }
}

#[test]
fn peers_follow_the_rules_on_a_bad_network() {
    let tree = json!({"edges": [[0, 1], [1, 2], [1, 3], [3, 4]], "directed": false});
    let lopsided = json!({"edges": [[0, 1], [0, 2], [1, 2], [2, 3], [3, 0]]});
    for (name, keys, config, nodes, compress) in [
        ("qg-dsgdm", json!({"theta": 0.7}), symmetric("ring", json!({})), 6, grid as fn(&[f64]) -> Vec<f64>),
        ("qg-dsgdm", json!({}), symmetric("base-graph", json!({})), 6, grid),
        ("gradient-tracking", json!({}), symmetric("ring", json!({})), 6, grid),
        ("gradient-tracking", json!({}), symmetric("base-graph", json!({})), 5, grid),
        ("push-diging", json!({}), push("static-exponential", json!({})), 6, grid),
        ("push-diging", json!({}), push("edges", lopsided.clone()), 4, grid),
        ("choco-sgd", json!({"gamma": 0.3}), symmetric("ring", json!({})), 6, top_1),
        ("choco-sgd", json!({"gamma": 0.3}), symmetric("star", json!({})), 5, top_1),
        ("qdfedavgm", json!({}), symmetric("torus", json!({})), 9, grid),
        ("relaysgd", json!({}), symmetric("path", json!({})), 6, grid),
        ("relaysgd", json!({}), symmetric("star", json!({})), 5, grid),
        ("relaysgd", json!({}), symmetric("edges", tree), 5, grid),
    ] {
        for faults in [CALM, Faults { loss: 0.3, duplicate: 0.3, delay: 40 }] {
            let (mut net, mut chosen, schedule) = both(name, keys.clone(), config.clone(), nodes);
            (net.faults, net.compress) = (faults, compress);
            if name == "qdfedavgm" {
                net.steps = 3;
            }
            // What was begun before these were set is without them.
            net.begin_again();
            let got = on_the_wire(&mut net, nodes, faults.loss > 0.0);
            chosen.rule.begin(vec![vec![0.0; 3]; nodes]);
            for (number, got) in (0..).zip(&got[1..]) {
                let mut task = Quadratics(&net);
                chosen.rule.round(Round { number, schedule: &schedule, task: &mut task }).unwrap();
                for (got, want) in got.concat().iter().zip(chosen.rule.models().concat()) {
                    assert!((got - want).abs() < 1e-9, "{name}, round {number}: {got} instead of {want}");
                }
            }
        }
    }
}

/// Distance from the common optimum of a run with a node that dies and is evicted, one that dies and comes
/// back as new, one that joins and one that leaves; then many calm rounds.
fn after_changes(config: Config, steps: u64, rounds: u64) -> (f64, Net) {
    let mut net = Net::new(config, 7, 11);
    (net.eta, net.steps) = (0.02, steps);
    net.faults = Faults { loss: 0.1, duplicate: 0.1, delay: 10 };
    net.begin_again();
    net.run_until(600);
    net.crash(5);
    net.run_until(700);
    net.evict(5, 0);
    net.run_until(1_000);
    net.crash(2);
    net.run_until(1_050);
    net.evict(2, 1);
    net.run_until(1_200);
    net.join(2);
    net.run_until(1_500);
    net.join(9);
    net.run_until(2_000);
    net.leave(3);
    while !net.peers[&3].left {
        net.step();
    }
    net.evict(3, 4);
    net.agree();
    net.faults = CALM;
    let round = net.lowest_round() + rounds;
    assert!(net.run_to_round(round));
    (net.distance(&net.optimum()), net)
}

#[test]
fn tracking_finds_the_optimum_of_those_who_are_left() {
    for (mode, kind, barrier) in [
        (Mode::Symmetric, "ring", Barrier::Synchronous),
        (Mode::Symmetric, "ring", Barrier::Asynchronous),
        (Mode::Push, "static-exponential", Barrier::Synchronous),
        (Mode::Push, "one-peer-exponential", Barrier::Synchronous),
        (Mode::Push, "static-exponential", Barrier::Bounded { rounds: 1 }),
    ] {
        for steps in [1, 3] {
            let tracking = Config { method: Method::Tracking, ..config(kind, json!({}), mode, barrier) };
            let (off, net) = after_changes(tracking.clone(), steps, 2_000);
            let (plain, _) = after_changes(Config { method: Method::Average, ..tracking }, steps, 2_000);
            assert!(off < 1e-7 && plain > 1e-3, "{kind}, {barrier:?}, {steps} steps: {off}, without {plain}");
            // Σ y = Σ g was looked at after every event, also under loss and with other members.
            assert!(net.tracked > 2_000, "{kind}, {barrier:?}: {}", net.tracked);
            // It can fail: without one of the nodes it does.
            let all: Vec<_> = net.up().collect();
            let missing = Net::tracked_gap(&all[1..]);
            assert!(missing.is_none_or(|(gap, size)| gap > 1e-3 * size), "{missing:?}");
        }
    }
}

#[test]
fn compressed_and_relayed_runs_survive_changes_of_the_membership() {
    let run = |method, kind: &str, rounds| {
        after_changes(Config { method, ..symmetric(kind, json!({})) }, 1, rounds).0
    };
    let plain = run(Method::Average, "ring", 1_000);
    let compressed = run(Method::Compressed { gamma: 1.0 }, "ring", 1_000);
    assert!((compressed - plain).abs() < 0.05, "without loss in the compressor: {compressed} {plain}");
    let relayed = run(Method::Relay, "path", 1_000);
    assert!(relayed < 0.3, "{relayed}");
}

#[test]
fn differences_that_a_deadline_cut_off_are_not_missing() {
    for (kind, compress) in [("ring", top_1 as fn(&[f64]) -> Vec<f64>), ("star", grid)] {
        let mut config = symmetric(kind, json!({}));
        (config.method, config.deadline_ms) = (Method::Compressed { gamma: 0.2 }, Some(25));
        let mut net = Net::new(config, 8, 2);
        (net.eta, net.compress) = (0.0, compress);
        net.faults = Faults { loss: 0.3, duplicate: 0.2, delay: 15 };
        net.begin_again();
        let moved: Vec<f64> = (0..8).map(|id| f64::from(id * id)).collect();
        net.set_models(&moved);
        assert!(net.run_to_round(300));
        net.faults = CALM;
        let round = net.lowest_round() + 600;
        assert!(net.run_to_round(round));
        // Nodes may be a round apart, but nothing moves any more.
        let sum = net.up().map(|node| node.model().unwrap()[0]).sum::<f64>();
        assert!((sum - 140.0).abs() < 1e-6, "{kind}: {sum}");
        let off = net.distance(&[17.5, 0.0, 0.0]);
        assert!(off < if kind == "ring" { 1e-6 } else { 0.3 }, "{kind}: {off}");
    }
}

#[test]
fn a_method_without_its_mode_is_refused() {
    use gossip::machine::{Machine, Member, Membership};
    let members = Membership::new((0..4).map(|id| Member { id, incarnation: 0 }));
    for method in [Method::Relay, Method::Compressed { gamma: 1.0 }, Method::Momentum { theta: 0.5 }] {
        let config = Config { method, ..push("static-exponential", json!({})) };
        let refused = Machine::new(config, members.live()[0], members.clone(), (0, vec![0.0]));
        assert!(refused.unwrap_err().to_string().contains("symmetric mode"));
    }
}
