//! Random pairs: in each round one pair of nodes, drawn evenly, averages; with `matching`, all nodes
//! are paired at random (one stays alone when their number is odd).
//!
//! The matrix of a single exchange contracts in expectation by `λ₂(E WᵀW) = 1 − 1/(n − 1)`.

use crate::{
    Row, Topology, View,
    seed::Stream,
    topology::{params_of, parse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "random-pair",
    citation: "Boyd, Ghosh, Prabhakar and Shah, IEEE Trans. Inf. Theory 2006, 52(6); Lian et al., ICML 2018, arXiv:1710.06952",
    make: |params| {
        let config: Config = parse("random-pair", params)?;
        Ok(Box::new(RandomPair(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pair all nodes in each round, instead of two. Default false.
    pub matching: bool,
}

#[derive(Debug)]
struct RandomPair(Config);

impl Topology for RandomPair {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn period(&self, _nodes: usize) -> Option<u64> {
        None
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        self.graph(view).swap_remove(node)
    }

    fn graph(&self, view: &View) -> Vec<Vec<usize>> {
        let mut stream = Stream::new(view.seed, ROW.name, &[view.nodes as u64, view.round]);
        let count = if self.0.matching { view.nodes } else { 2 };
        let mut graph = vec![Vec::new(); view.nodes];
        for pair in stream.choose((0..view.nodes).collect(), count).chunks_exact(2) {
            graph[pair[0]].push(pair[1]);
            graph[pair[1]].push(pair[0]);
        }
        graph
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mixing, Weights};

    fn view(round: u64) -> View {
        View { nodes: 8, round, seed: 2 }
    }

    #[test]
    fn one_pair_or_all() {
        for (matching, paired) in [(false, 2), (true, 8)] {
            let graph = RandomPair(Config { matching }).graph(&view(1));
            assert_eq!(graph.iter().filter(|to| to.len() == 1).count(), paired);
        }
    }

    #[test]
    fn an_exchange_contracts_at_the_known_rate() {
        // The matrix is a projection, so E‖Wx − x̄‖² / ‖x − x̄‖² = λ₂ = 6/7 for any x on K₈.
        let x = [3.0, -1.0, 0.0, 2.0, -4.0, 1.0, 0.5, -1.5];
        let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let left = |round| {
            let mixing = Mixing::new(&RandomPair(Config::default()), Weights::Metropolis, &view(round));
            square(&mixing.unwrap().apply(&x))
        };
        let mean = (0..20_000).map(left).sum::<f64>() / 20_000.0 / square(&x);
        assert!((mean - 6.0 / 7.0).abs() < 0.003, "{mean}");
    }
}
