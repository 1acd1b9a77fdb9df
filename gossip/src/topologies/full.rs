//! The full graph: everyone talks to everyone, so that one round gives the exact mean.
//!
//! The yardstick for the other topologies, and the dearest: n − 1 messages per node and round.

use crate::{
    ParamError, Row, Topology, View,
    topology::{circulant, params_of, parse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "full",
    citation: "Lian et al., NeurIPS 2017, arXiv:1705.09056 (W = 11ᵀ/n)",
    make: |params| {
        let Config {} = parse("full", params)?;
        Ok::<_, ParamError>(Box::new(Full))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

#[derive(Debug)]
struct Full;

impl Topology for Full {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        false
    }

    fn period(&self, _nodes: usize) -> Option<u64> {
        Some(1)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        circulant(node, view.nodes, 1..view.nodes)
    }
}
