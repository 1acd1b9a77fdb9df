//! A graph from a list of edges, with weights by the degrees, as given, or balanced by Sinkhorn's
//! iteration so that plain averaging is unbiased.

use crate::{
    ParamError, Row, Share, SizeError, Topology, View,
    topology::{params_of, parse, tidy},
};
use serde::{Deserialize, Serialize};

const NAME: &str = "edges";

/// The registry's row.
pub const ROW: Row = Row {
    name: NAME,
    citation: "Sinkhorn and Knopp, Pacific J. Math. 1967, 21(2) (balanced weights)",
    make: |params| {
        let config: Config = parse(NAME, params)?;
        let edges = Edges::new(&config).map_err(|detail| ParamError::Key { topology: NAME, detail })?;
        Ok(Box::new(edges))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[sender, receiver]` or `[sender, receiver, weight]`. Default: none, the graph of a single node.
    pub edges: Vec<Edge>,
    /// Whether an edge goes one way only. Default true; when false, each edge stands for both.
    pub directed: bool,
    /// Where the weights come from. Default `degree`.
    pub weights: Origin,
}

impl Default for Config {
    fn default() -> Self {
        Self { edges: Vec::new(), directed: true, weights: Origin::Degree }
    }
}

/// An edge as written in a run file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Edge {
    /// Sender and receiver.
    Plain(usize, usize),
    /// Sender, receiver and the sender's share for the receiver.
    Weighted(usize, usize, f64),
}

/// Where the weights of the edges come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// From the degrees, as for any other topology ([`crate::Weights`]).
    Degree,
    /// The third element of each edge; the sender keeps the rest of 1.
    Given,
    /// Doubly stochastic with these edges and self-loops: the uniform weights, scaled by rows and
    /// columns until both sum to 1. There are such weights when the graph is strongly connected.
    Sinkhorn,
}

/// Largest node id: what fits into memory as a graph, and a guard against a slip of the pen.
const MAX_NODE: usize = 65_535;

#[derive(Debug)]
struct Edges {
    directed: bool,
    graph: Vec<Vec<usize>>,
    columns: Option<Vec<Vec<Share>>>,
}

impl Edges {
    fn new(config: &Config) -> Result<Self, String> {
        let mut columns: Vec<Vec<Share>> = vec![Vec::new()];
        for edge in &config.edges {
            let (from, to, weight) = match *edge {
                Edge::Plain(from, to) => (from, to, None),
                Edge::Weighted(from, to, weight) => (from, to, Some(weight)),
            };
            if from == to || from.max(to) > MAX_NODE {
                return Err(format!("edges: {from} → {to}, expected two different ids up to {MAX_NODE}"));
            }
            let weight = match (config.weights, weight) {
                (Origin::Given, Some(weight)) if weight > 0.0 && weight <= 1.0 => weight,
                (Origin::Given, Some(weight)) => {
                    return Err(format!("edges: {from} → {to} has weight {weight}, expected above 0 and at most 1"));
                }
                (Origin::Given, None) => return Err(format!("edges: {from} → {to} has no weight")),
                (_, _) => 1.0,
            };
            columns.resize_with(columns.len().max(from.max(to) + 1), Vec::new);
            columns[from].push(Share { to, weight });
            if !config.directed {
                columns[to].push(Share { to: from, weight });
            }
        }
        sorted(&mut columns)?;
        let graph = columns.iter().map(|column| column.iter().map(|share| share.to).collect()).collect();
        let columns = match config.weights {
            Origin::Degree => None,
            Origin::Given => Some(with_rest(columns)?),
            Origin::Sinkhorn => Some(balanced(columns, config.directed)?),
        };
        Ok(Self { directed: config.directed, graph, columns })
    }
}

impl Topology for Edges {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        self.directed
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        if view.nodes == self.graph.len() {
            return Ok(());
        }
        let expected = format!("{}, as the edges name them", self.graph.len());
        Err(SizeError { topology: NAME, nodes: view.nodes, expected })
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let to = self.graph.get(node).cloned().unwrap_or_default();
        tidy(node, to.into_iter().filter(|to| *to < view.nodes).collect())
    }

    fn given(&self, view: &View) -> Option<Vec<Vec<Share>>> {
        self.columns.clone().filter(|columns| columns.len() == view.nodes)
    }
}

fn sorted(columns: &mut [Vec<Share>]) -> Result<(), String> {
    for (from, column) in columns.iter_mut().enumerate() {
        column.sort_by_key(|share| share.to);
        if let Some(pair) = column.windows(2).find(|pair| pair[0].to == pair[1].to) {
            return Err(format!("edges: {from} → {} is there twice", pair[0].to));
        }
    }
    Ok(())
}

fn with_rest(mut columns: Vec<Vec<Share>>) -> Result<Vec<Vec<Share>>, String> {
    for (from, column) in columns.iter_mut().enumerate() {
        let sent: f64 = column.iter().map(|share| share.weight).sum();
        if sent > 1.0 + 1e-12 {
            return Err(format!("edges: node {from} sends {sent}, expected at most 1 in all"));
        }
        insert_own(from, column, (1.0 - sent).max(0.0));
    }
    Ok(columns)
}

fn insert_own(node: usize, column: &mut Vec<Share>, weight: f64) {
    let at = column.partition_point(|share| share.to < node);
    column.insert(at, Share { to: node, weight });
}

/// Iterations of Sinkhorn's scaling, which converges linearly, before the graph counts as too lopsided.
const ITERATIONS: usize = 200_000;

/// `D_r A D_c` with `A` the edges and the self-loops; for undirected graphs `D_r = D_c`, so that the
/// result is symmetric to the last bit.
fn balanced(mut columns: Vec<Vec<Share>>, directed: bool) -> Result<Vec<Vec<Share>>, String> {
    let nodes = columns.len();
    columns.iter_mut().enumerate().for_each(|(from, column)| insert_own(from, column, 1.0));
    let row_sums = |by_column: &[f64]| {
        let mut sums = vec![0.0; nodes];
        for (column, scale) in columns.iter().zip(by_column) {
            for share in column {
                sums[share.to] += scale;
            }
        }
        sums
    };
    let column_sums = |by_row: &[f64]| -> Vec<f64> {
        columns.iter().map(|column| column.iter().map(|share| by_row[share.to]).sum()).collect()
    };
    let (mut rows, mut cols) = (vec![1.0; nodes], vec![1.0; nodes]);
    for _ in 0..ITERATIONS {
        let sums = row_sums(&cols);
        let off = rows.iter().zip(&sums).map(|(row, sum)| (row * sum - 1.0_f64).abs()).fold(0.0, f64::max);
        if off < 1e-14 * nodes as f64 {
            for (column, by_column) in columns.iter_mut().zip(&cols) {
                for share in column.iter_mut() {
                    share.weight = rows[share.to] * by_column;
                }
            }
            return Ok(columns);
        }
        if directed {
            rows = sums.iter().map(|sum| 1.0 / sum).collect();
            cols = column_sums(&rows).iter().map(|sum| 1.0 / sum).collect();
        } else {
            // Knight, Ruiz and Uçar 2014: the symmetric form of the same fixed point.
            rows = rows.iter().zip(&sums).map(|(row, sum)| (row / sum).sqrt()).collect();
            cols.clone_from(&rows);
        }
    }
    Err(format!("weights = \"sinkhorn\": no balance after {ITERATIONS} iterations, expected a strongly connected graph"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mixing, Weights};
    use serde_json::json;

    fn build(value: &serde_json::Value) -> Result<Box<dyn Topology>, ParamError> {
        (ROW.make)(value.as_object().unwrap())
    }

    fn mixing(value: &serde_json::Value, nodes: usize) -> Mixing {
        Mixing::new(build(value).unwrap().as_ref(), Weights::Push, &View { nodes, round: 0, seed: 0 }).unwrap()
    }

    const UNEVEN: [[usize; 2]; 5] = [[0, 1], [0, 2], [1, 2], [2, 3], [3, 0]];

    #[test]
    fn sinkhorn_makes_the_mean_unbiased() {
        let uneven = mixing(&json!({"edges": UNEVEN}), 4).row_sums();
        assert!(uneven.iter().any(|sum| (sum - 1.0).abs() > 0.1));
        for directed in [true, false] {
            let value = json!({"edges": UNEVEN, "weights": "sinkhorn", "directed": directed});
            let even = mixing(&value, 4).row_sums();
            assert!(even.iter().all(|sum| (sum - 1.0).abs() < 1e-12), "{even:?}");
        }
    }

    #[test]
    fn given_weights_are_taken_and_the_rest_is_kept() {
        let mixing = mixing(&json!({"edges": [[0, 1, 0.25], [1, 0, 0.1]], "weights": "given"}), 2);
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-14, "{got} {want}");
        close(mixing.apply(&[1.0, 0.0])[0], 0.75);
        close(mixing.apply(&[0.0, 1.0])[1], 0.9);
    }

    #[test]
    fn bad_edges_are_named() {
        for (value, message) in [
            (json!({"edges": [[1, 1]]}), "1 → 1"),
            (json!({"edges": [[0, 1], [0, 1]]}), "twice"),
            (json!({"edges": [[0, 1]], "weights": "given"}), "no weight"),
            (json!({"edges": [[0, 1, -0.5]], "weights": "given"}), "weight -0.5"),
            (json!({"edges": [[0, 1, 0.6], [0, 2, 0.6]], "weights": "given"}), "node 0 sends 1.2"),
            (json!({"edges": [[0, 1], [1, 2]], "weights": "sinkhorn"}), "strongly connected"),
            (json!({"edges": [[0, 99_999_999]]}), "up to 65535"),
            (json!({"edges": [[0]]}), "Edge"),
        ] {
            let error = build(&value).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let nodes = 5;
        let error = build(&json!({"edges": UNEVEN})).unwrap().check(&View { nodes, round: 0, seed: 0 });
        assert!(error.unwrap_err().to_string().contains("expected 4"));
    }
}
