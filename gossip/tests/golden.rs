//! The analysis against numbers of an independent implementation, against closed forms, and the exact
//! averaging that some schedules are for.

#![allow(clippy::unwrap_used, reason = "tests")]

use gossip::{Params, Schedule, View, analysis::analyse, make};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, f64::consts::PI, sync::Arc};

fn schedule(kind: &str, keys: Value, nodes: usize) -> Schedule {
    let params: Params = serde_json::from_value(keys).unwrap();
    Schedule::new(Arc::from(make(kind, &params).unwrap()), nodes, 0).unwrap()
}

fn plain(kind: &str, nodes: usize) -> Schedule {
    schedule(kind, json!({}), nodes)
}

fn lambda(schedule: &Schedule) -> f64 {
    analyse(schedule).lambda
}

#[track_caller]
fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() < 1e-9, "{what}: {got} instead of {want}");
}

/// Largest distance of a period's product from the exact mean.
fn distance_from_mean(schedule: &Schedule) -> f64 {
    let (n, period) = (schedule.nodes(), schedule.period().unwrap());
    let unit = |node: usize| (0..n).map(|i| f64::from(u8::from(i == node))).collect::<Vec<_>>();
    let product = |node| (0..period).fold(unit(node), |x, round| schedule.mixing(round).apply(&x));
    let off = (0..n).flat_map(product).map(|x| (x - 1.0 / n as f64).abs());
    off.fold(0.0, f64::max)
}

#[derive(Deserialize)]
struct Golden {
    spectra: BTreeMap<String, Facts>,
    one_peer: BTreeMap<usize, f64>,
    kpeer: BTreeMap<String, KPeer>,
}

#[derive(Deserialize)]
struct Facts {
    lambda: f64,
    delta_inf: f64,
    delta_min: f64,
}

#[derive(Deserialize)]
struct KPeer {
    rounds: u64,
    #[serde(rename = "max_dev_from_J")]
    max_deviation: f64,
}

fn spectra() -> Golden {
    serde_json::from_str(include_str!("fixtures/spectra.json")).unwrap()
}

fn named(name: &str) -> Schedule {
    let (family, size) = name.rsplit_once('_').unwrap();
    if let Some((rows, columns)) = size.split_once('x') {
        let rows: usize = rows.parse().unwrap();
        let kind = family.strip_suffix("_mh").unwrap();
        return schedule(kind, json!({"rows": rows}), rows * columns.parse::<usize>().unwrap());
    }
    let kind = match family {
        "exp_colstoch" => "static-exponential",
        "directed_ring_half" => "directed-ring",
        "broadcast_hub" => "broadcast-hub",
        "reset_chain" => "reset-chain",
        family => family.strip_suffix("_mh").unwrap(),
    };
    plain(kind, size.parse().unwrap())
}

#[test]
fn rates_and_imbalance_equal_the_reference() {
    for (name, want) in spectra().spectra {
        let got = analyse(&named(&name));
        close(got.lambda, want.lambda, &name);
        close(got.delta.n_min_pi, want.delta_inf, &name);
        close(got.delta.inf_w, want.delta_min, &name);
        assert_eq!((got.components.len(), got.cycle_period), (1, 1), "{name}");
    }
}

#[test]
fn closed_forms_hold() {
    let cos = |angle: f64| angle.cos();
    for n in 5..40 {
        let (size, half) = (n as f64, format!("n = {n}"));
        close(lambda(&plain("ring", n)), 1.0 / 3.0 + 2.0 / 3.0 * cos(2.0 * PI / size), &half);
        close(lambda(&plain("directed-ring", n)), cos(PI / size), &half);
        close(lambda(&plain("path", n)), 1.0 / 3.0 + 2.0 / 3.0 * cos(PI / size), &half);
        close(lambda(&plain("star", n)), 1.0 - 1.0 / size, &half);
        close(lambda(&plain("full", n)), 0.0, &half);
        let log = (n - 1).ilog2() + 1;
        let exponential = 1.0 - 2.0 / f64::from(1 + log);
        let got = analyse(&plain("static-exponential", n));
        close(got.transient, got.lambda, "normal");
        assert!(
            n % 2 == 0 && (got.lambda - exponential).abs() < 1e-9 || n % 2 == 1 && got.lambda < exponential
        );
        let hub = analyse(&plain("broadcast-hub", n));
        close(hub.pi[0], size / (3.0 * size - 2.0), &half);
        close(hub.pi[n - 1], 2.0 / (3.0 * size - 2.0), &half);
        close(hub.lambda, 0.5, &half);
    }
    for (rows, columns) in [(3, 3), (3, 4), (4, 6), (5, 5), (3, 11)] {
        let want = (3.0 + 2.0 * cos(2.0 * PI / f64::from(rows.max(columns)))) / 5.0;
        close(lambda(&schedule("torus", json!({"rows": rows}), (rows * columns) as usize)), want, "torus");
    }
    for bits in 1..=7 {
        close(lambda(&plain("hypercube", 1 << bits)), f64::from(bits - 1) / f64::from(bits + 1), "hypercube");
    }
    for n in [4, 6, 8, 10, 12, 16, 20] {
        let half = |power: usize| 0.5_f64.powi(power as i32);
        let want = n as f64 * half(n - 2) / (2.5 - half(n - 1));
        close(analyse(&plain("reset-chain", n)).delta.n_min_pi, want, "reset chain");
    }
}

#[test]
fn two_nodes_have_the_textbook_chain() {
    for (a, b) in [(0.5, 0.25), (0.5, 0.1), (0.9, 0.8)] {
        let edges = json!({"edges": [[0, 1, a], [1, 0, b]], "weights": "given"});
        let got = analyse(&schedule("edges", edges, 2));
        close(got.lambda, f64::abs(1.0 - a - b), "lambda");
        close(got.pi[0], b / (a + b), "pi");
        close(got.delta.n_min_pi, 2.0 * f64::min(a, b) / (a + b), "delta");
    }
}

#[test]
fn one_peer_and_k_peer_exponential_graphs_are_exact_where_they_should() {
    for (n, want) in spectra().one_peer {
        close(lambda(&plain("one-peer-exponential", n)), want, &format!("{n}"));
    }
    for log in 1..=7 {
        for kind in ["one-peer-exponential", "one-peer-hypercube"] {
            let graph = plain(kind, 1 << log);
            assert_eq!((distance_from_mean(&graph), graph.period()), (0.0, Some(log)), "{kind}");
            let facts = analyse(&graph);
            assert_eq!((facts.lambda, facts.exact_after), (0.0, Some(log)), "{kind}");
        }
    }
    for (name, want) in spectra().kpeer {
        let (k, n) = name.strip_prefix("kpeer_exp_k").unwrap().split_once("_n").unwrap();
        let graph =
            schedule("k-peer-exponential", json!({"peers": k.parse::<u32>().unwrap()}), n.parse().unwrap());
        assert_eq!(graph.period(), Some(want.rounds), "{name}");
        close(distance_from_mean(&graph), want.max_deviation, &name);
    }
}

#[test]
fn base_graphs_are_short_sparse_and_exact() {
    let table: BTreeMap<usize, BTreeMap<usize, u64>> =
        serde_json::from_str(include_str!("fixtures/base_graph_lengths.json")).unwrap();
    let mut checked = 0;
    for k in 1..=4 {
        for n in 1..=64 {
            let graph = schedule("base-graph", json!({"degree": k}), n);
            if let Some(want) = table[&k].get(&n) {
                assert_eq!(graph.period(), Some(*want), "n = {n}, k = {k}");
                checked += 1;
            }
            let distance = distance_from_mean(&graph);
            assert!(distance < 1e-12, "n = {n}, k = {k}: {distance}");
            assert!(graph.symmetric());
            let rounds = 0..graph.period().unwrap();
            let degree = rounds.flat_map(|round| graph.mixing(round).graph()).map(|to| to.len()).max();
            assert!(degree.unwrap() <= k, "n = {n}, k = {k}");
        }
    }
    assert!(checked > 200);
}

#[test]
fn broken_graphs_are_recognised() {
    let given = |edges: Value, n| analyse(&schedule("edges", json!({"edges": edges, "weights": "given"}), n));
    let rotating = given(json!([[0, 1, 1.0], [1, 2, 1.0], [2, 0, 1.0]]), 3);
    assert_eq!((rotating.cycle_period, rotating.lambda), (3, 1.0));
    let split = given(json!([[0, 1, 0.5], [1, 0, 0.5], [1, 2, 0.25], [3, 2, 0.5], [2, 3, 0.5]]), 4);
    assert_eq!((split.components, split.diameter, split.lambda), (vec![vec![0, 1], vec![2, 3]], None, 1.0));
}

#[test]
fn sinkhorn_balances_a_lopsided_graph() {
    let chain = plain("reset-chain", 8).topology().graph(&View { nodes: 8, round: 0, seed: 0 });
    let edges: Vec<[usize; 2]> =
        chain.iter().enumerate().flat_map(|(from, to)| to.iter().map(move |to| [from, *to])).collect();
    let facts = analyse(&schedule("edges", json!({"edges": edges, "weights": "sinkhorn"}), 8));
    assert!(facts.row_error < 1e-12 && facts.delta.inf_w > 1.0 - 1e-9, "{facts:?}");
}

#[test]
fn schedules_without_a_period_are_sampled() {
    for (kind, keys) in
        [("random-pair", json!({"matching": true})), ("random-k-out", json!({"redraw": true}))]
    {
        let facts = analyse(&schedule(kind, keys, 12));
        assert!(!facts.periodic && facts.lambda > 0.1 && facts.lambda < 0.9, "{kind}: {facts:?}");
    }
}
