//! The one-peer exponential graph: in round t each node sends to the node `2^(t mod τ)` ahead,
//! `τ = ⌈log₂ n⌉`, half of its mass.
//!
//! One message per node and round, as a directed ring, but when n is a power of two the product of
//! τ consecutive rounds is the exact mean. For other n it only contracts (n = 6: by 0.6 a round).

use crate::{Row, topology::{NoKeys, params_of, parse, circulant, log2_ceil}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "one-peer-exponential",
    citation: "Ying et al., NeurIPS 2021, arXiv:2110.13363; Assran et al., ICML 2019, arXiv:1811.10792",
    make: |params| {
        let NoKeys {} = parse("one-peer-exponential", params)?;
        Ok(Box::new(OnePeerExponential))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct OnePeerExponential;

impl Topology for OnePeerExponential {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn period(&self, nodes: usize) -> Option<u64> {
        Some(u64::from(log2_ceil(nodes).max(1)))
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let hops = u64::from(log2_ceil(view.nodes).max(1));
        // The shift is below ⌈log₂ n⌉, so the hop is below n.
        circulant(node, view.nodes, [1 << (view.round % hops)])
    }
}
