//! The hypercube: each node talks to those whose id differs in one bit. Powers of two only.
//!
//! log₂ n messages per node; the disagreement shrinks by `(D − 1)/(D + 1)` a round, `n = 2^D`.

use crate::{Row, SizeError, topology::{NoKeys, params_of, parse, log2_ceil, power_of_two, tidy}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "hypercube",
    citation: "Cybenko, J. Parallel Distrib. Comput. 1989, 7(2) (diffusion on hypercubes)",
    make: |params| {
        let NoKeys {} = parse("hypercube", params)?;
        Ok(Box::new(Hypercube))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct Hypercube;

impl Topology for Hypercube {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        power_of_two(ROW.name, view.nodes)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let others = (0..log2_ceil(view.nodes)).map(|bit| node ^ (1 << bit));
        tidy(node, others.filter(|to| *to < view.nodes).collect())
    }
}
