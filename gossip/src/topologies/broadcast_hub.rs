//! The broadcast hub, for tests: the edges of a star with push weights, so that mass gathers at the
//! hub. Node 0 keeps and sends 1/n each, a leaf half to itself and half to the hub.
//!
//! Known imbalance: `π = n/(3n − 2)` at the hub and `2/(3n − 2)` at a leaf, λ = ½ for n ≥ 3.

use crate::{Row, topology::{NoKeys, params_of, parse}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "broadcast-hub",
    citation: "Nedić, Olshevsky and Rabbat, Proc. IEEE 2018, arXiv:1709.08765 (push-sum imbalance)",
    make: |params| {
        let NoKeys {} = parse("broadcast-hub", params)?;
        Ok(Box::new(BroadcastHub))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct BroadcastHub;

impl Topology for BroadcastHub {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        if node == 0 { (1..view.nodes).collect() } else { vec![0] }
    }
}
