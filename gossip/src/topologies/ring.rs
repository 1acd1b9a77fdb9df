//! The ring: each node talks to its two neighbours, or only to its successor when `directed`.
//!
//! The cheapest connected graph and the slowest: with Metropolis weights the disagreement shrinks
//! per round by `1/3 + (2/3) cos(2π/n)` (n ≥ 5), about `1 − 4π²/(3n²)`; directed, by `cos(π/n)`.

use crate::{
    ParamError, Row, Topology, View,
    topology::{circulant, params_of, parse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "ring",
    citation: "Lian et al., NeurIPS 2017, arXiv:1705.09056",
    make: |params| {
        let config: Config = parse("ring", params)?;
        Ok::<_, ParamError>(Box::new(Ring(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Send to the successor alone, instead of to both neighbours.
    pub directed: bool,
}

#[derive(Debug)]
struct Ring(Config);

impl Topology for Ring {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        self.0.directed
    }

    fn period(&self, _nodes: usize) -> Option<u64> {
        Some(1)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let back = (!self.0.directed).then(|| view.nodes.saturating_sub(1));
        circulant(node, view.nodes, [1].into_iter().chain(back))
    }
}
