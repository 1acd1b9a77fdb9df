//! The grid: rows and columns without wrap, up to four neighbours each. A prime number of nodes gives
//! a path.

use crate::{
    Row, SizeError, Topology, View,
    topology::{lattice, lattice_error, params_of, parse, tidy},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "grid",
    citation: "Ying et al., NeurIPS 2021, arXiv:2110.13363 (compared there)",
    make: |params| {
        let config: Config = parse("grid", params)?;
        Ok(Box::new(Grid(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Rows, a divisor of the number of nodes; by default the most square division.
    pub rows: Option<usize>,
}

#[derive(Debug)]
struct Grid(Config);

impl Topology for Grid {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        let error = || lattice_error(ROW.name, self.0.rows, view.nodes);
        lattice(self.0.rows, view.nodes).map(|_| ()).ok_or_else(error)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let Some((rows, columns)) = lattice(self.0.rows, view.nodes) else { return Vec::new() };
        let (row, column) = (node / columns.max(1), node % columns.max(1));
        let mut to = Vec::new();
        to.extend((row > 0).then(|| node - columns));
        to.extend((row + 1 < rows).then(|| node + columns));
        to.extend((column > 0).then(|| node - 1));
        to.extend((column + 1 < columns).then(|| node + 1));
        tidy(node, to)
    }
}
