//! The one-peer hypercube: in round t, pairs of nodes whose ids differ in bit `t mod D` average.
//! Powers of two only, `n = 2^D`: D rounds give the exact mean, undirected, one message each.

use crate::{Row, SizeError, topology::{NoKeys, params_of, parse, log2_ceil, power_of_two}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "one-peer-hypercube",
    citation: "Cybenko, J. Parallel Distrib. Comput. 1989, 7(2) (dimension exchange)",
    make: |params| {
        let NoKeys {} = parse("one-peer-hypercube", params)?;
        Ok(Box::new(OnePeerHypercube))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct OnePeerHypercube;

impl Topology for OnePeerHypercube {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn period(&self, nodes: usize) -> Option<u64> {
        Some(u64::from(log2_ceil(nodes).max(1)))
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        power_of_two(ROW.name, view.nodes)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let to = node ^ (1 << (view.round % u64::from(log2_ceil(view.nodes).max(1))));
        if to < view.nodes { vec![to] } else { Vec::new() }
    }
}
