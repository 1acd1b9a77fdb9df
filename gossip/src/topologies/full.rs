//! The full graph: everyone talks to everyone, so that one round gives the exact mean.
//!
//! The yardstick for the other topologies, and the dearest: n − 1 messages per node and round.

use crate::{Row, topology::{NoKeys, params_of, parse, circulant}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "full",
    citation: "Lian et al., NeurIPS 2017, arXiv:1705.09056 (W = 11ᵀ/n)",
    make: |params| {
        let NoKeys {} = parse("full", params)?;
        Ok(Box::new(Full))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct Full;

impl Topology for Full {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        circulant(node, view.nodes, 1..view.nodes)
    }
}
