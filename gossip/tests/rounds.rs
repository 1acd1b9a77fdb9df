//! Barriers, the guard, restarts and partitions on the test network: what the run comes to, not only that
//! no mass is lost.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use gossip::{machine::Barrier, report::Mode};
use serde_json::json;
use support::{CALM, Faults, Net, Return, config};

/// Bits of all models after some rounds.
fn fingerprint(net: &Net) -> Vec<(u64, Vec<u64>)> {
    let bits = |model: Vec<f64>| model.into_iter().map(f64::to_bits).collect();
    net.up().map(|node| (node.round(), bits(node.model().unwrap()))).collect()
}

/// Stops each node at the end of the round, so that all are in the same one.
fn in_step(kind: &str, mode: Mode, seed: u64, faults: Faults) -> Vec<Vec<u64>> {
    let mut net = Net::new(config(kind, json!({}), mode, Barrier::Synchronous), 6, seed);
    // The same tasks whatever the network does.
    net.tasks = Net::new(config(kind, json!({}), mode, Barrier::Synchronous), 6, 0).tasks;
    net.faults = faults;
    let mut models = vec![Vec::new(); 6];
    while models.iter().any(Vec::is_empty) {
        net.step();
        for (id, (round, model)) in fingerprint(&net).into_iter().enumerate() {
            if round == 30 && models[id].is_empty() {
                models[id] = model;
            }
        }
    }
    models
}

#[test]
fn a_synchronous_run_does_not_depend_on_the_network() {
    for (kind, mode) in [
        ("static-exponential", Mode::Push),
        ("random-k-out", Mode::Push),
        ("base-graph", Mode::Symmetric),
        ("star", Mode::Symmetric),
    ] {
        let calm = in_step(kind, mode, 0, CALM);
        for seed in 1..4 {
            let faults = Faults { loss: 0.3, duplicate: 0.3, delay: 40 };
            assert_eq!(in_step(kind, mode, seed, faults), calm, "{kind}");
        }
    }
}

#[test]
fn symmetric_mode_keeps_the_sum_of_the_models_under_loss_and_deadlines() {
    for (kind, barrier) in [
        ("ring", Barrier::Synchronous),
        ("base-graph", Barrier::Bounded { rounds: 1 }),
        ("random-pair", Barrier::Asynchronous),
    ] {
        let mut config = config(kind, json!({}), Mode::Symmetric, barrier);
        config.deadline_ms = Some(30);
        let mut net = Net::new(config, 8, 2);
        net.faults = Faults { loss: 0.3, duplicate: 0.2, delay: 10 };
        net.eta = 0.0;
        // Everybody moves once, by its own amount, and then only mixes.
        let moved: Vec<f64> = (0..8).map(|id| f64::from(id * id)).collect();
        net.set_models(&moved);
        assert!(net.run_to_round(400));
        net.faults = CALM;
        let sum = |net: &Net| net.up().map(|node| node.numerator()[0]).sum::<f64>();
        let round = net.lowest_round() + 300;
        assert!(net.run_to_round(round));
        assert!((sum(&net) - moved.iter().sum::<f64>()).abs() < 1e-6, "{kind}: {}", sum(&net));
        assert!(net.distance(&[17.5, 0.0, 0.0]) < 0.5, "{kind}: {}", net.distance(&[17.5, 0.0, 0.0]));
    }
}

#[test]
fn the_guard_bounds_what_starvation_amplifies() {
    let run = |w_min: f64| {
        let mut config = config("reset-chain", json!({}), Mode::Push, Barrier::Synchronous);
        config.w_min = w_min;
        let mut net = Net::new(config, 12, 4);
        for (diagonal, _) in net.tasks.values_mut() {
            diagonal.iter_mut().for_each(|a| *a = 0.5 + 0.25 * *a);
        }
        let mut largest: f64 = 0.0;
        while net.lowest_round() < 1_500 && largest < 1e6 {
            net.step();
            largest = largest.max(net.distance(&[0.0; 3]));
        }
        (largest, net.lowest_mass)
    };
    let (largest, lowest) = run(0.0);
    assert!(largest > 1e6 && lowest < 0.02, "{largest} {lowest}");
    for w_min in [0.1, 0.3] {
        let (largest, lowest) = run(w_min);
        assert!(largest < 20.0 && lowest >= w_min, "{w_min}: {largest} {lowest}");
    }
}

#[test]
fn a_restart_with_the_stored_state_loses_nothing() {
    for seed in 0..20 {
        let mut net =
            Net::new(config("one-peer-exponential", json!({}), Mode::Push, Barrier::Synchronous), 8, seed);
        net.faults = Faults { loss: 0.2, duplicate: 0.2, delay: 10 };
        net.eta = 0.01;
        for id in 0..8 {
            net.run_until(net.now + 60);
            net.crash(id);
            net.run_until(net.now + 40);
            net.resume(id);
        }
        let round = net.lowest_round() + 100;
        assert!(net.run_to_round(round), "seed {seed}");
        assert_eq!(net.total(), 8.0);
    }
}

/// Distance from the common optimum before, during and long after a partition, and the total at the end.
fn partition(evict: bool, return_by: Return) -> ([f64; 3], f64) {
    let mut config = config("static-exponential", json!({}), Mode::Push, Barrier::Asynchronous);
    config.retry_ms = 5;
    let mut net = Net::new(config, 8, 6);
    (net.eta, net.return_by) = (0.01, return_by);
    net.faults = Faults { loss: 0.05, duplicate: 0.05, delay: 3 };
    net.run_until(4_000);
    let optimum = net.optimum();
    let before = net.distance(&optimum);
    net.cut = (0..3).collect();
    net.run_until(4_200);
    for (a, b) in (0..3).flat_map(|a| (3..8).map(move |b| (a, b))) {
        if evict {
            net.evict(b, a);
            net.evict(a, b);
        } else {
            net.suspect(a, b, true);
            net.suspect(b, a, true);
        }
    }
    net.run_until(7_000);
    let during = net.distance(&optimum);
    net.cut.clear();
    for (a, b) in (0..3).flat_map(|a| (3..8).map(move |b| (a, b))) {
        net.suspect(a, b, false);
        net.suspect(b, a, false);
    }
    net.agree();
    let healed = net.now;
    net.run_until(healed + 4_000);
    ([before, during, net.distance(&optimum)], net.total())
}

#[test]
fn after_a_partition_all_come_together_again() {
    for (evict, return_by) in [(false, Return::Carry), (true, Return::Carry), (true, Return::Copy)] {
        let ([before, during, after], total) = partition(evict, return_by);
        let what = format!("evict {evict}, {return_by:?}: {before} {during} {after}, total {total}");
        println!("{what}");
        assert!(before < 0.3 && during > 2.0 * before && after < 0.3, "{what}");
        assert!(evict || total == 8.0, "{what}");
        assert!((total - 8.0).abs() < 1.5, "{what}");
    }
}
