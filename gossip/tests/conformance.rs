//! What every topology of the registry must keep, whichever file it comes from.

use gossip::{Mixing, MixingError, Params, Row, Topology, View, Weights, shares, topologies::TOPOLOGIES};

const SIZES: std::ops::Range<usize> = 0..34;

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
    variants
        .iter()
        .map(|params| (row.make)(params).expect("defaults and their opposites are valid"))
        .collect()
}

fn each(mut check: impl FnMut(&dyn Topology, &View)) {
    for topology in TOPOLOGIES.iter().flat_map(variants) {
        for nodes in SIZES {
            for round in 0..8 {
                check(topology.as_ref(), &View { nodes, round, seed: 7 });
            }
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
fn neighbours_are_ascending_distinct_others() {
    each(|topology, view| {
        for node in 0..view.nodes {
            let to = topology.out_neighbours(node, view);
            assert!(to.is_sorted_by(|a, b| a < b), "{topology:?} {view:?} {node}: {to:?}");
            assert!(
                to.iter().all(|to| *to < view.nodes && *to != node),
                "{topology:?} {view:?} {node}: {to:?}"
            );
            assert_eq!(to, topology.out_neighbours(node, view), "pure");
        }
    });
}

#[test]
fn undirected_means_that_each_edge_has_its_reverse() {
    each(|topology, view| {
        for node in 0..view.nodes {
            for to in topology.out_neighbours(node, view) {
                let back = topology.out_neighbours(to, view).contains(&node);
                assert!(back || topology.directed(), "{topology:?} {view:?}: {node} → {to}");
            }
        }
    });
}

#[test]
fn the_schedule_repeats_after_its_period() {
    each(|topology, view| {
        let Some(period) = topology.period(view.nodes) else { return };
        assert!(period > 0);
        let later = View { round: view.round + 5 * period, ..*view };
        for node in 0..view.nodes {
            assert_eq!(topology.out_neighbours(node, view), topology.out_neighbours(node, &later));
        }
    });
}

#[test]
fn news_of_any_node_reaches_all() {
    each(|topology, view| {
        if view.round > 0 || view.nodes == 0 {
            return;
        }
        let rounds = topology.period(view.nodes).unwrap_or(1).max(1) * view.nodes as u64;
        let mut knows = vec![false; view.nodes];
        knows[view.nodes / 2] = true;
        for round in 0..rounds {
            let view = View { round, ..*view };
            let senders: Vec<usize> = (0..view.nodes).filter(|node| knows[*node]).collect();
            for to in senders.into_iter().flat_map(|node| topology.out_neighbours(node, &view)) {
                knows[to] = true;
            }
        }
        assert!(knows.iter().all(|knows| *knows), "{topology:?} {view:?}: {knows:?}");
    });
}

#[test]
fn mixing_keeps_the_mass_and_symmetric_mixing_the_mean() {
    each(|topology, view| {
        let mixing = Mixing::new(topology, weights(topology), view).unwrap();
        let one = |sums: Vec<f64>| sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-12);
        assert!(one(mixing.column_sums()), "{topology:?} {view:?}");
        assert!(topology.directed() || one(mixing.row_sums()), "{topology:?} {view:?}");
        for node in 0..view.nodes {
            let own = shares(topology, weights(topology), node, view).unwrap();
            assert_eq!(own, mixing.column(node), "{topology:?} {view:?} {node}");
            assert!(own.iter().all(|share| share.weight > 0.0 && share.weight <= 1.0), "{own:?}");
            assert!(
                own.iter().any(|share| share.to == node),
                "a node keeps a part, or the graph may be periodic"
            );
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
