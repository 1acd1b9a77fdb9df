//! The path: a ring that is cut open; each node talks to the one before and the one after.
//!
//! With Metropolis weights the disagreement shrinks by `1/3 + (2/3) cos(π/n)` a round (n ≥ 3).

use crate::{Row, topology::{NoKeys, params_of, parse}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "path",
    citation: "Xiao and Boyd, Systems & Control Letters 2004, 53(1)",
    make: |params| {
        let NoKeys {} = parse("path", params)?;
        Ok(Box::new(Path))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct Path;

impl Topology for Path {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let neighbours = node.checked_sub(1).into_iter().chain([node + 1]);
        neighbours.filter(|to| *to < view.nodes).collect()
    }
}
