//! Nodes with unequal numbers of examples: where every example counts alike, they find the minimum of the sum over
//! all examples, whatever the network does and whoever joins or leaves; where all have as many, nothing changes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use gossip::{
    kernel::mix,
    machine::{Barrier, Config, Machine, MachineError, Member, Membership, Method, Phase},
    report::Mode,
};
use serde_json::json;
use support::{CALM, Faults, Net, config};

/// Largest distance from `point` of a model that a round has just ended with.
fn distance(net: &Net, point: &[f64]) -> f64 {
    let ended = net.up().filter(|node| node.phase() == Phase::Training);
    let off = |node: &support::Node| {
        node.model().unwrap().iter().zip(point).map(|(x, p)| (x - p).abs()).fold(0.0, f64::max)
    };
    let all: Vec<f64> = ended.map(off).collect();
    assert!(!all.is_empty());
    all.into_iter().fold(0.0, f64::max)
}

fn weighted(kind: &str, keys: serde_json::Value, mode: Mode, method: Method) -> Config {
    Config { method, weighted: true, ..config(kind, keys, mode, Barrier::Synchronous) }
}

#[test]
fn every_example_counts_alike() {
    let lopsided = json!({"edges": [[0, 1], [0, 2], [1, 2], [2, 3], [3, 0]]});
    for (kind, keys, mode, method, tolerance) in [
        // Averaging is exact in every round: the minimum in closed form.
        ("full", json!({}), Mode::Symmetric, Method::Average, 1e-9),
        ("full", json!({}), Mode::Push, Method::Average, 1e-9),
        // A constant step leaves nodes apart by as much.
        ("ring", json!({}), Mode::Symmetric, Method::Average, 0.02),
        ("ring", json!({}), Mode::Symmetric, Method::Momentum { theta: 0.5 }, 0.02),
        ("ring", json!({}), Mode::Symmetric, Method::Compressed { gamma: 0.5 }, 0.03),
        ("path", json!({}), Mode::Symmetric, Method::Relay, 0.02),
        ("edges", lopsided, Mode::Push, Method::Average, 0.02),
    ] {
        let way = weighted(kind, keys, mode, method);
        let mut net = Net::sized(way, 4, (3, 5));
        net.faults = Faults { loss: 0.2, duplicate: 0.1, delay: 10 };
        net.eta = if tolerance < 1e-6 { 0.02 } else { 0.002 };
        net.begin_again();
        assert!(net.run_to_round(6_000));
        let (optimum, off) = (net.optimum(), distance(&net, &net.optimum()));
        assert!(off < tolerance, "{kind}, {method:?}: {off}");
        // What every node alike would have found is another point.
        let same: Vec<_> = (0..4).map(|id| net.tasks[&id].clone()).collect();
        let alike = |k: usize| {
            same.iter().map(|(a, c)| a[k] * c[k]).sum::<f64>() / same.iter().map(|(a, _)| a[k]).sum::<f64>()
        };
        assert!((0..3).map(|k| (alike(k) - optimum[k]).abs()).fold(0.0, f64::max) > 5.0 * tolerance);
    }
}

#[test]
fn the_course_is_that_of_weighted_changes() {
    let mut net = Net::sized(weighted("ring", json!({}), Mode::Symmetric, Method::Average), 5, (8, 3));
    assert!(net.run_to_round(1));
    let schedule =
        gossip::Schedule::new(weighted("ring", json!({}), Mode::Symmetric, Method::Average).topology, 5, 5);
    let (schedule, mut models) = (schedule.unwrap(), vec![vec![0.0; 3]; 5]);
    // 1, 4, 7, 10 and 13 examples.
    for (id, model) in models.iter_mut().enumerate() {
        let (a, c) = &net.tasks[&(id as u64)];
        let weight = 5.0 * (1 + 3 * id) as f64 / 35.0;
        (0..3).for_each(|k| model[k] -= weight * 0.05 * a[k] * (0.0 - c[k]));
    }
    models = mix(&schedule.mixing(0), &models);
    for (node, want) in net.up().zip(&models) {
        let got = node.model().unwrap();
        if node.round() == 1 && node.phase() == Phase::Training {
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?} {want:?}");
        }
    }
}

#[test]
fn with_as_many_examples_nothing_changes() {
    let bits = |weighted: bool| {
        let way = config("static-exponential", json!({}), Mode::Push, Barrier::Synchronous);
        let mut net = Net::new(Config { weighted, ..way }, 6, 4);
        assert!(net.run_to_round(25));
        let model = |node: &support::Node| node.model().unwrap().iter().map(|x| x.to_bits()).collect();
        net.up().map(|node| (node.round(), model(node))).collect::<Vec<(u64, Vec<u64>)>>()
    };
    assert_eq!(bits(true), bits(false));
}

#[test]
fn whoever_takes_part_counts() {
    let mut net = Net::sized(weighted("full", json!({}), Mode::Push, Method::Average), 6, (6, 4));
    net.faults = Faults { loss: 0.2, duplicate: 0.1, delay: 10 };
    net.run_until(300);
    net.crash(5);
    net.run_until(400);
    net.evict(5, 0);
    net.join(9);
    net.run_until(900);
    net.leave(2);
    while !net.peers[&2].left {
        net.step();
    }
    net.evict(2, 1);
    net.agree();
    (net.faults, net.eta) = (CALM, 0.02);
    let round = net.lowest_round() + 1_500;
    assert!(net.run_to_round(round));
    let off = distance(&net, &net.optimum());
    assert!(off < 1e-6, "{off}");
}

#[test]
fn tracked_gradients_cannot_be_weighted() {
    let members = Membership::new((0..4).map(|id| Member { id, incarnation: 0 }));
    let way = weighted("ring", json!({}), Mode::Symmetric, Method::Tracking);
    let refused = Machine::new(way, members.live()[0], members, (0, vec![0.0]));
    assert_eq!(refused.unwrap_err(), MachineError::NotWeighted);
}
