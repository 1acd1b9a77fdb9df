//! The rate at which disagreement shrinks, against eigenvalues from an independent implementation,
//! and the exact averaging that the one-peer exponential graph is for.

use gossip::{Mixing, Params, View, Weights, make};
use serde::Deserialize;
use std::collections::BTreeMap;

type Matrix = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Golden {
    lambda: BTreeMap<String, f64>,
}

/// The product of one period, as columns: what becomes of each unit vector.
fn period_product(kind: &str, params: &Params, weights: Weights, nodes: usize) -> (Matrix, u64) {
    let topology = make(kind, params).expect("valid keys");
    let period = topology.period(nodes).expect("these schedules repeat");
    let columns = (0..nodes).map(|node| {
        let mut x = vec![0.0; nodes];
        x[node] = 1.0;
        for round in 0..period {
            let mixing = Mixing::new(topology.as_ref(), weights, &View { nodes, round, seed: 0 });
            x = mixing.expect("weights that fit the graph").apply(&x);
        }
        x
    });
    (columns.collect(), period)
}

fn deviation_from_mean(mut product: Matrix) -> Matrix {
    let mean = 1.0 / product.len() as f64;
    product.iter_mut().flatten().for_each(|x| *x -= mean);
    product
}

fn square(m: &Matrix) -> Matrix {
    let mut out = vec![vec![0.0; m.len()]; m.len()];
    for (out, column) in out.iter_mut().zip(m) {
        for (factor, column) in column.iter().zip(m) {
            out.iter_mut().zip(column).for_each(|(out, x)| *out += factor * x);
        }
    }
    out
}

/// Spectral radius by repeated squaring: `‖M^(2^s)‖^(1/2^s)`, rescaled on the way.
fn spectral_radius(mut m: Matrix) -> f64 {
    let mut log = 0.0;
    for s in 0..36 {
        let norm = m.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        if norm < 1e-13 {
            return 0.0;
        }
        m.iter_mut().flatten().for_each(|x| *x /= norm);
        log += norm.ln() / 2.0_f64.powi(s);
        m = square(&m);
    }
    log.exp()
}

fn rate(name: &str) -> f64 {
    let (family, nodes) = name.rsplit_once('_').expect("names end in the number of nodes");
    let directed = Params::from_iter([("directed".to_owned(), true.into())]);
    let (kind, params, weights) = match family {
        "ring_mh" => ("ring", Params::new(), Weights::Metropolis),
        "full_mh" => ("full", Params::new(), Weights::Metropolis),
        "directed_ring_half" => ("ring", directed, Weights::Push),
        "one_peer_exponential" => ("one-peer-exponential", Params::new(), Weights::Push),
        other => panic!("{other}"),
    };
    let (product, period) = period_product(kind, &params, weights, nodes.parse().expect("a number"));
    spectral_radius(deviation_from_mean(product)).powf(1.0 / period as f64)
}

#[test]
fn disagreement_shrinks_at_the_known_rate() {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/spectra.json")).unwrap();
    for (name, want) in &golden.lambda {
        let got = rate(name);
        assert!((got - want).abs() < 1e-9, "{name}: {got} instead of {want}");
    }
}

#[test]
fn the_one_peer_exponential_graph_averages_powers_of_two_exactly() {
    for log in 1..=7 {
        let nodes = 1 << log;
        let (product, period) = period_product("one-peer-exponential", &Params::new(), Weights::Push, nodes);
        assert_eq!(period, log);
        // Powers of two: no rounding at all.
        assert!(product.iter().flatten().all(|x| *x == 1.0 / nodes as f64), "{nodes}");
    }
}

#[test]
