//! The torus: a grid whose rows and columns are closed, four neighbours each. A prime number of nodes
//! gives a ring.
//!
//! With a and b both at least 3 the disagreement shrinks by `(3 + 2 cos(2π/max(a, b)))/5` a round.

use crate::{
    Row, SizeError, Topology, View,
    topology::{lattice, lattice_error, params_of, parse, tidy},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "torus",
    citation: "Ying et al., NeurIPS 2021, arXiv:2110.13363 (compared there)",
    make: |params| {
        let config: Config = parse("torus", params)?;
        Ok(Box::new(Torus(config)))
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
struct Torus(Config);

impl Topology for Torus {
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
        let at = |row: usize, column: usize| (row % rows) * columns + column % columns;
        let vertical = [at(row + 1, column), at(row + rows - 1, column)];
        let horizontal = [at(row, column + 1), at(row, column + columns - 1)];
        tidy(node, [vertical, horizontal].concat())
    }
}
