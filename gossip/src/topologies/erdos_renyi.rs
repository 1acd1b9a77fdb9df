//! The Erdős–Rényi graph: each pair of nodes is joined with the same probability, once for the whole
//! run. Drawn anew until it is connected.

use crate::{
    ParamError, Row, SizeError, Topology, View,
    analysis::components,
    seed::Stream,
    topology::{params_of, parse},
};
use serde::{Deserialize, Serialize};

const NAME: &str = "erdos-renyi";
/// Draws before the probability counts as too low.
const DRAWS: u64 = 200;

/// The registry's row.
pub const ROW: Row = Row {
    name: NAME,
    citation: "Erdős and Rényi, Publicationes Mathematicae 1959, 6; Gilbert, Ann. Math. Stat. 1959, 30(4)",
    make: |params| {
        let config: Config = parse(NAME, params)?;
        if let Some(p) = config.probability.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            let detail = format!("probability = {p}, expected above 0 and at most 1");
            return Err(ParamError::Key { topology: NAME, detail });
        }
        Ok(Box::new(ErdosRenyi(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Probability of an edge. By default `2 ln n / n`, at which the graph is nearly always connected.
    pub probability: Option<f64>,
}

#[derive(Debug)]
struct ErdosRenyi(Config);

impl ErdosRenyi {
    fn draw(&self, view: &View) -> Option<Vec<Vec<usize>>> {
        let nodes = view.nodes;
        let default = || (2.0 * libm::log(nodes as f64) / nodes as f64).min(1.0);
        let probability = self.0.probability.unwrap_or_else(default);
        (0..DRAWS).find_map(|draw| {
            let mut stream = Stream::new(view.seed, NAME, &[nodes as u64, draw]);
            let mut graph = vec![Vec::new(); nodes];
            for high in 0..nodes {
                for low in 0..high {
                    if stream.unit() < probability {
                        graph[low].push(high);
                        graph[high].push(low);
                    }
                }
            }
            (components(&graph).len() <= 1).then_some(graph)
        })
    }
}

impl Topology for ErdosRenyi {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        let expected = || format!("a higher probability: {DRAWS} draws gave no connected graph");
        let error = || SizeError { topology: NAME, nodes: view.nodes, expected: expected() };
        self.draw(view).map(|_| ()).ok_or_else(error)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        self.graph(view).swap_remove(node)
    }

    fn graph(&self, view: &View) -> Vec<Vec<usize>> {
        let sorted = |mut to: Vec<usize>| {
            to.sort_unstable();
            to
        };
        let graph = self.draw(view).unwrap_or_else(|| vec![Vec::new(); view.nodes]);
        graph.into_iter().map(sorted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { nodes: 24, round: 0, seed: 3 };

    #[test]
    fn the_seed_draws_the_graph_and_the_round_does_not() {
        let graph = |view: View| ErdosRenyi(Config::default()).graph(&view);
        assert_eq!(graph(VIEW), graph(View { round: 5, ..VIEW }));
        assert_ne!(graph(VIEW), graph(View { seed: 4, ..VIEW }));
    }

    #[test]
    fn edges_are_as_frequent_as_asked() {
        let edges = |seed| -> usize {
            let graph = ErdosRenyi(Config { probability: Some(0.3) }).graph(&View { seed, ..VIEW });
            graph.iter().map(Vec::len).sum::<usize>() / 2
        };
        let mean = (0..100).map(edges).sum::<usize>() as f64 / 100.0;
        // 276 pairs; the standard deviation of the mean is 0.76.
        assert!((mean - 82.8).abs() < 4.0, "{mean}");
    }

    #[test]
    fn a_hopeless_probability_is_an_error() {
        let error = ErdosRenyi(Config { probability: Some(1e-6) }).check(&VIEW).unwrap_err();
        assert!(error.to_string().contains("24 nodes"), "{error}");
    }
}
