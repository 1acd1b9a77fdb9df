//! The directed ring: each node sends to its successor, half of its mass.
//!
//! The smallest strongly connected graph: one message per node and round. The disagreement shrinks
//! by `cos(π/n)` a round.

use crate::{Row, topology::{NoKeys, params_of, parse, circulant}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "directed-ring",
    citation: "Nedić and Olshevsky, IEEE TAC 2015, arXiv:1303.2289 (push-sum over directed graphs)",
    make: |params| {
        let NoKeys {} = parse("directed-ring", params)?;
        Ok(Box::new(DirectedRing))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct DirectedRing;

impl Topology for DirectedRing {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        circulant(node, view.nodes, [1])
    }
}
