//! The reset chain, for tests: node i sends to i + 1 and back to 0, node 0 only to 1.
//!
//! Strongly connected with a wide spectral gap, and yet exponentially unbalanced: the last nodes hold
//! `n·2^−(n−2) / (2.5 − 2^−(n−1))` of their fair share. The graph on which push-sum training needs the
//! starvation guard.

use crate::{Row, topology::{NoKeys, params_of, parse}, Topology, View};

/// The registry's row.
pub const ROW: Row = Row {
    name: "reset-chain",
    citation: "Nedić and Olshevsky, IEEE TAC 2015, arXiv:1303.2289 (imbalance exponential in n)",
    make: |params| {
        let NoKeys {} = parse("reset-chain", params)?;
        Ok(Box::new(ResetChain))
    },
    defaults: || params_of(&NoKeys::default()),
};

#[derive(Debug)]
struct ResetChain;

impl Topology for ResetChain {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let next = Some(node + 1).filter(|next| *next < view.nodes);
        (node > 0).then_some(0).into_iter().chain(next).collect()
    }
}
