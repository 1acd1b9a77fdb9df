//! The star: node 0 talks to everyone, the others only to it.
//!
//! With Metropolis weights the disagreement shrinks by `1 − 1/n` a round. All traffic passes one node
//! and the graph dies with it.

use crate::{Row, topology::{NoKeys, params_of, parse}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "star",
    citation: "Xiao and Boyd, Systems & Control Letters 2004, 53(1)",
    make: |params| {
        let NoKeys {} = parse("star", params)?;
        Ok(Box::new(Star))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct Star;

impl Topology for Star {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        if node == 0 { (1..view.nodes).collect() } else { vec![0] }
    }
}
