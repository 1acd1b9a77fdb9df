//! What every topology of the registry must keep, whichever file it comes from.

#![allow(clippy::unwrap_used, reason = "tests")]

use gossip::{Mixing, MixingError, Params, Row, Topology, View, Weights, shares, topologies::TOPOLOGIES};

/// Every row with its defaults, and with each boolean key turned round.
fn variants(row: &Row) -> Vec<Box<dyn Topology>> {
    let defaults = (row.defaults)();
    let mut variants = vec![defaults.clone()];
    for (key, value) in &defaults {
        if let Some(value) = value.as_bool() {
            let mut turned = defaults.clone();
            turned.insert(key.clone(), (!value).into());
            variants.push(turned);
        }
    }
    variants.iter().map(|params| (row.make)(params).unwrap()).collect()
}

/// Every supported size up to 20 and some beyond, in each of the first rounds.
fn each(mut check: impl FnMut(&dyn Topology, &View)) {
    for topology in TOPOLOGIES.iter().flat_map(variants) {
        for nodes in (0..=20).chain([25, 32, 33]) {
            let views = (0..6).map(|round| View { nodes, round, seed: 7 });
            let supported = |view: &View| topology.check(view).is_ok();
            views.filter(supported).for_each(|view| check(topology.as_ref(), &view));
        }
    }
}

fn weights(topology: &dyn Topology) -> Weights {
    if topology.directed() { Weights::Push } else { Weights::Metropolis }
}

#[test]
fn rows_are_named_cited_and_build_from_their_defaults() {
    for row in TOPOLOGIES {
        assert!(!row.citation.is_empty(), "{}", row.name);
        assert_eq!(gossip::make(row.name, &(row.defaults)()).unwrap().name(), row.name);
        assert!(gossip::make(row.name, &Params::new()).is_ok(), "{}: every key has a default", row.name);
        let unknown = Params::from_iter([("no_such_key".to_owned(), 1.into())]);
        let message = gossip::make(row.name, &unknown).unwrap_err().to_string();
        assert!(message.contains(row.name) && message.contains("no_such_key"), "{message}");
    }
    let mut names: Vec<&str> = TOPOLOGIES.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TOPOLOGIES.len());
}

#[test]
fn every_topology_of_the_list_is_there() {
    let names: Vec<&str> = TOPOLOGIES.iter().map(|row| row.name).collect();
    for name in [
        "base-graph",
        "broadcast-hub",
        "directed-ring",
        "edges",
        "erdos-renyi",
        "full",
        "grid",
        "hypercube",
        "k-peer-exponential",
        "one-peer-exponential",
        "one-peer-hypercube",
        "path",
        "random-k-out",
        "random-pair",
        "reset-chain",
        "ring",
        "star",
        "static-exponential",
        "torus",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn each_topology_has_a_size_and_says_which_it_lacks() {
    for topology in TOPOLOGIES.iter().flat_map(variants) {
        let check = |nodes| topology.check(&View { nodes, round: 0, seed: 7 });
        assert!((1..10).any(|nodes| check(nodes).is_ok()), "{topology:?}");
        for error in (1..40).filter_map(|nodes| check(nodes).err()) {
            assert_eq!(error.topology, topology.name());
            // What it would compute for them anyway must not panic.
            let view = View { nodes: error.nodes, round: 1, seed: 7 };
            topology.graph(&view);
            assert!(matches!(
                Mixing::new(topology.as_ref(), weights(topology.as_ref()), &view),
                Err(MixingError::Size(_))
            ));
        }
    }
}

#[test]
fn neighbours_are_ascending_distinct_others() {
    each(|topology, view| {
        let graph = topology.graph(view);
        assert_eq!(graph, topology.graph(view), "pure");
        for (node, to) in graph.iter().enumerate() {
            assert!(to.is_sorted_by(|a, b| a < b), "{topology:?} {view:?} {node}: {to:?}");
            assert!(
                to.iter().all(|to| *to < view.nodes && *to != node),
                "{topology:?} {view:?} {node}: {to:?}"
            );
            if view.round < 2 {
                assert_eq!(*to, topology.out_neighbours(node, view), "{topology:?} {view:?} {node}");
            }
        }
    });
}

#[test]
fn known_edges_are_there() {
    let table: [(&str, usize, usize, &[usize]); 22] = [
        ("ring", 6, 0, &[1, 5]),
        ("ring", 2, 0, &[1]),
        ("directed-ring", 6, 5, &[0]),
        ("path", 6, 0, &[1]),
        ("path", 6, 3, &[2, 4]),
        ("grid", 12, 0, &[1, 4]),
        ("grid", 12, 5, &[1, 4, 6, 9]),
        ("grid", 7, 3, &[2, 4]),
        ("torus", 12, 0, &[1, 3, 4, 8]),
        ("torus", 9, 4, &[1, 3, 5, 7]),
        ("star", 5, 0, &[1, 2, 3, 4]),
        ("star", 5, 3, &[0]),
        ("full", 4, 2, &[0, 1, 3]),
        ("hypercube", 8, 5, &[1, 4, 7]),
        ("one-peer-hypercube", 8, 5, &[4]),
        ("static-exponential", 10, 8, &[0, 2, 6, 9]),
        ("one-peer-exponential", 10, 9, &[0]),
        ("k-peer-exponential", 9, 8, &[0, 1]),
        ("broadcast-hub", 4, 0, &[1, 2, 3]),
        ("broadcast-hub", 4, 2, &[0]),
        ("reset-chain", 5, 0, &[1]),
        ("reset-chain", 5, 3, &[0, 4]),
    ];
    for (kind, nodes, node, want) in table {
        let topology = gossip::make(kind, &Params::new()).unwrap();
        assert_eq!(topology.out_neighbours(node, &View { nodes, round: 0, seed: 0 }), want, "{kind}");
    }
}

#[test]
fn undirected_means_that_each_edge_has_its_reverse() {
    each(|topology, view| {
        let graph = topology.graph(view);
        let edges = graph.iter().enumerate().flat_map(|(node, to)| to.iter().map(move |to| (node, *to)));
        for (node, to) in edges.filter(|_| !topology.directed()) {
            assert!(graph[to].contains(&node), "{topology:?} {view:?}: {node} → {to}");
        }
    });
}

#[test]
fn the_schedule_repeats_after_its_period() {
    each(|topology, view| {
        let Some(period) = topology.period(view.nodes) else { return };
        assert!(period > 0);
        let later = View { round: view.round + 5 * period, ..*view };
        assert_eq!(topology.graph(view), topology.graph(&later));
        assert_eq!(topology.given(view), topology.given(&later));
    });
}

#[test]
fn news_of_any_node_reaches_all() {
    each(|topology, view| {
        if view.round > 0 || view.nodes == 0 {
            return;
        }
        // A single random pair a round takes n log n rounds or so.
        let rounds = topology.period(view.nodes).map_or(30, |period| period) * view.nodes as u64;
        let mut knows = vec![false; view.nodes];
        knows[view.nodes / 2] = true;
        for round in 0..rounds {
            let graph = topology.graph(&View { round, ..*view });
            let before = knows.clone();
            for to in graph.iter().zip(before).filter(|(_, knows)| *knows).flat_map(|(to, _)| to) {
                knows[*to] = true;
            }
            if knows.iter().all(|knows| *knows) {
                return;
            }
        }
        panic!("{topology:?} {view:?}: {knows:?}");
    });
}

#[test]
fn mixing_keeps_the_mass_and_symmetric_mixing_the_mean() {
    each(|topology, view| {
        let mixing = Mixing::new(topology, weights(topology), view).unwrap();
        assert!(mixing.column_sums().iter().all(|sum| *sum == 1.0), "{topology:?} {view:?}");
        if !topology.directed() {
            assert!(mixing.symmetric(), "{topology:?} {view:?}");
            assert!(mixing.row_sums().iter().all(|sum| *sum == 1.0), "{topology:?} {view:?}");
        }
        for node in (0..view.nodes).take(if view.round == 0 { 3 } else { 0 }) {
            let own = shares(topology, weights(topology), node, view).unwrap();
            assert_eq!(own, mixing.column(node), "{topology:?} {view:?} {node}");
            assert!(own.iter().all(|share| share.weight > 0.0 && share.weight <= 1.0), "{own:?}");
            assert!(own.iter().any(|share| share.to == node), "a node keeps a part, or all may be periodic");
        }
    });
}

#[test]
fn metropolis_weights_are_refused_for_directed_graphs() {
    each(|topology, view| {
        let got = Mixing::new(topology, Weights::Metropolis, view);
        let expected = MixingError::Directed { topology: topology.name() };
        assert_eq!(got.err(), topology.directed().then_some(expected));
    });
}
