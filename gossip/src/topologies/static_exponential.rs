//! The static exponential graph: each node sends to those 1, 2, 4, … ahead, `τ = ⌈log₂ n⌉` of them.
//!
//! The disagreement shrinks by `1 − 2/(1 + τ)` a round for even n, faster for odd n.

use crate::{Row, topology::{NoKeys, params_of, parse, circulant, log2_ceil}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "static-exponential",
    citation: "Ying et al., NeurIPS 2021, arXiv:2110.13363",
    make: |params| {
        let NoKeys {} = parse("static-exponential", params)?;
        Ok(Box::new(StaticExponential))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct StaticExponential;

impl Topology for StaticExponential {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        circulant(node, view.nodes, (0..log2_ceil(view.nodes)).map(|k| 1 << k))
    }
}
