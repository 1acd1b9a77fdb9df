//! From a graph to weights: how a node splits what it has over itself and its receivers, and the
//! matrix that all nodes together apply in one round.
//!
//! `P[to][from]` is the share of `from` that reaches `to`. Columns always sum to 1, so that no mass
//! is made or lost. With [`Weights::Metropolis`] rows do as well, and plain averaging is unbiased;
//! with [`Weights::Push`] they need not, and the receivers have to divide by the mass that they hold
//! (push-sum, Kempe, Dobra and Gehrke 2003).
//!
//! Weights are multiples of [`GRID`]: what goes out is rounded down and the node keeps the exact rest,
//! so that columns sum to 1 without rounding, and in symmetric matrices rows as well. Mass that is
//! split by them ([`crate::Mass`]) adds up to the last bit for ever. The shift is below 4e-15.

use crate::{SizeError, Topology, View};
use serde::{Deserialize, Serialize};

/// The unit of weights and of mass, 2⁻⁴⁸.
pub const GRID: f64 = 1.0 / (1_u64 << 48) as f64;

/// How a node splits its mass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// `1 / (1 + max(deg_i, deg_j))` on each edge, the rest stays: symmetric and doubly stochastic.
    /// Undirected graphs only (Xiao and Boyd 2004).
    Metropolis,
    /// `1 / (outdeg + 1)` for each receiver and for itself: column-stochastic, for any graph; a
    /// sender needs to know nothing about others (Assran et al. 2019, arXiv:1811.10792).
    Push,
}

/// What a node keeps or sends in a round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The receiver, or the node itself.
    pub to: usize,
    /// Its part of the sender's mass, from 0 to 1, a multiple of [`GRID`].
    pub weight: f64,
}

/// Why a graph has no such weights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MixingError {
    /// Metropolis weights need that each edge has its reverse.
    #[error(
        "topology `{topology}` is directed: Metropolis weights need an undirected one, expected push weights"
    )]
    Directed {
        /// The topology.
        topology: &'static str,
    },
    /// No such graph over so many nodes.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// Column `node` of the round's matrix: its shares in ascending order of receivers, itself included,
/// summing to 1. What a peer needs in order to send, without the whole matrix.
///
/// # Panics
/// If there is no such node.
pub fn shares(
    topology: &dyn Topology,
    weights: Weights,
    node: usize,
    view: &View,
) -> Result<Vec<Share>, MixingError> {
    check(topology, weights, view)?;
    if let Some(mut given) = topology.given(view) {
        return Ok(on_grid(node, given.swap_remove(node)));
    }
    let degree = |other| topology.out_neighbours(other, view).len();
    Ok(split(node, topology.out_neighbours(node, view), weights, degree))
}

/// The matrix of one round, by columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixing {
    columns: Vec<Vec<Share>>,
}

impl Mixing {
    /// The matrix that `topology` induces in the round of `view`.
    pub fn new(topology: &dyn Topology, weights: Weights, view: &View) -> Result<Self, MixingError> {
        check(topology, weights, view)?;
        if let Some(given) = topology.given(view) {
            return Ok(Self::from_columns(given));
        }
        let receivers = topology.graph(view);
        let degrees: Vec<usize> = receivers.iter().map(Vec::len).collect();
        let column = |(node, to)| split(node, to, weights, |other| degrees[other]);
        Ok(Self { columns: receivers.into_iter().enumerate().map(column).collect() })
    }

    /// A matrix by its columns, each ascending in receivers and with the sender's own share, which is
    /// replaced by what the others leave of 1.
    pub fn from_columns(columns: Vec<Vec<Share>>) -> Self {
        Self {
            columns: columns.into_iter().enumerate().map(|(node, column)| on_grid(node, column)).collect(),
        }
    }

    /// Number of nodes, `n`.
    pub fn nodes(&self) -> usize {
        self.columns.len()
    }

    /// Column `from`: what that node keeps and sends.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn column(&self, from: usize) -> &[Share] {
        &self.columns[from]
    }

    /// Row `to`: from whom that node receives, itself included, ascending; `Share::to` is the sender.
    pub fn row(&self, to: usize) -> Vec<Share> {
        let from = |(from, column): (usize, &Vec<Share>)| {
            let found = column.iter().find(|share| share.to == to)?;
            Some(Share { to: from, weight: found.weight })
        };
        self.columns.iter().enumerate().filter_map(from).collect()
    }

    /// Receivers of each node, without itself.
    pub fn graph(&self) -> Vec<Vec<usize>> {
        let others = |(node, column): (usize, &Vec<Share>)| {
            column.iter().map(|share| share.to).filter(|to| *to != node).collect()
        };
        self.columns.iter().enumerate().map(others).collect()
    }

    /// Whether `P` equals its transpose to the last bit.
    pub fn symmetric(&self) -> bool {
        (0..self.nodes()).all(|node| self.row(node) == self.columns[node])
    }

    /// `P x`: one round of mixing one scalar per node.
    ///
    /// # Panics
    /// If `x` does not have one element per node.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.nodes(), "mixing: one value per node");
        let mut mixed = vec![0.0; x.len()];
        for (column, x) in self.columns.iter().zip(x) {
            for share in column {
                mixed[share.to] += share.weight * x;
            }
        }
        mixed
    }

    /// Sum of each row: all 1 when the matrix is doubly stochastic.
    pub fn row_sums(&self) -> Vec<f64> {
        self.apply(&vec![1.0; self.nodes()])
    }

    /// Sum of each column: always 1 up to rounding.
    pub fn column_sums(&self) -> Vec<f64> {
        self.columns.iter().map(|column| column.iter().map(|share| share.weight).sum()).collect()
    }
}

fn check(topology: &dyn Topology, weights: Weights, view: &View) -> Result<(), MixingError> {
    topology.check(view)?;
    if weights == Weights::Metropolis && topology.directed() {
        return Err(MixingError::Directed { topology: topology.name() });
    }
    Ok(())
}

fn split(node: usize, to: Vec<usize>, weights: Weights, degree: impl Fn(usize) -> usize) -> Vec<Share> {
    let own_degree = to.len();
    let weight = |other: usize| match weights {
        Weights::Metropolis => 1.0 / (1 + own_degree.max(degree(other))) as f64,
        Weights::Push => 1.0 / (1 + own_degree) as f64,
    };
    let mut shares: Vec<Share> = to.into_iter().map(|to| Share { to, weight: weight(to) }).collect();
    let at = shares.partition_point(|share| share.to < node);
    shares.insert(at, Share { to: node, weight: 0.0 });
    on_grid(node, shares)
}

fn on_grid(node: usize, mut column: Vec<Share>) -> Vec<Share> {
    let mut kept = 1.0;
    for share in column.iter_mut().filter(|share| share.to != node) {
        share.weight = (share.weight / GRID).floor() * GRID;
        kept -= share.weight;
    }
    column.iter_mut().filter(|share| share.to == node).for_each(|own| own.weight = kept.max(0.0));
    column
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 ↔ i: unequal degrees, where the two kinds of weights differ.
    #[derive(Debug)]
    struct Star;

    impl Topology for Star {
        fn name(&self) -> &'static str {
            "star"
        }
        fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
            if node == 0 { (1..view.nodes).collect() } else { vec![0] }
        }
    }

    const VIEW: View = View { nodes: 4, round: 0, seed: 0 };

    fn close(got: &[f64], want: &[f64]) {
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-15), "{got:?} {want:?}");
    }

    #[test]
    fn metropolis_averages_without_bias() {
        let mixing = Mixing::new(&Star, Weights::Metropolis, &VIEW).unwrap();
        close(&mixing.row_sums(), &[1.0; 4]);
        close(&mixing.column_sums(), &[1.0; 4]);
        close(&mixing.apply(&[1.0, 0.0, 0.0, 0.0]), &[0.25; 4]);
        close(&mixing.apply(&[0.0, 1.0, 0.0, 0.0]), &[0.25, 0.75, 0.0, 0.0]);
    }

    #[test]
    fn push_keeps_the_mass_but_moves_it_to_the_hub() {
        let mixing = Mixing::new(&Star, Weights::Push, &VIEW).unwrap();
        close(&mixing.row_sums(), &[1.75, 0.75, 0.75, 0.75]);
        close(&mixing.column_sums(), &[1.0; 4]);
        close(&mixing.apply(&[0.0, 1.0, 0.0, 0.0]), &[0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn a_node_alone_keeps_everything() {
        let alone = shares(&Star, Weights::Push, 0, &View { nodes: 1, ..VIEW }).unwrap();
        assert_eq!(alone, [Share { to: 0, weight: 1.0 }]);
    }
}
