//! The ring: each node talks to its two neighbours.
//!
//! The cheapest connected graph and the slowest: with Metropolis weights the disagreement shrinks
//! per round by `1/3 + (2/3) cos(2π/n)` (n ≥ 5), about `1 − 4π²/(3n²)`.

use crate::{Row, topology::{NoKeys, params_of, parse, circulant}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "ring",
    citation: "Lian et al., NeurIPS 2017, arXiv:1705.09056",
    make: |params| {
        let NoKeys {} = parse("ring", params)?;
        Ok(Box::new(Ring))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct Ring;

impl Topology for Ring {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        circulant(node, view.nodes, [1, view.nodes.saturating_sub(1)])
    }
}
