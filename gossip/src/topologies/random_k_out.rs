//! Random k-out: each node sends to k others drawn at random, and to its successor on a ring.
//!
//! Without the ring small k leaves the graph disconnected more often than not (n = 16, k = 2: strongly
//! connected in 12 % of the draws); with it, it is strongly connected by construction. `redraw` draws
//! new receivers each round: fast, but single nodes may run low on mass, which is what the starvation
//! guard is for.

use crate::{
    ParamError, Row, SizeError, Topology, View,
    analysis::components,
    seed::Stream,
    topology::{params_of, parse, tidy},
};
use serde::{Deserialize, Serialize};

const NAME: &str = "random-k-out";
/// Draws before k counts as too low.
const DRAWS: u64 = 200;

/// The registry's row.
pub const ROW: Row = Row {
    name: NAME,
    citation: "Fenner and Frieze, Combinatorica 1982, 2(4); Kempe, Dobra and Gehrke, FOCS 2003 (redrawn)",
    make: |params| {
        let config: Config = parse(NAME, params)?;
        if config.degree == 0 {
            let detail = "degree = 0, expected at least 1".to_owned();
            return Err(ParamError::Key { topology: NAME, detail });
        }
        Ok(Box::new(RandomKOut(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Receivers drawn for each node, k. Default 2.
    pub degree: usize,
    /// Send to the successor on a directed ring as well. Default true.
    pub ring: bool,
    /// Draw new receivers in each round, instead of once. Default false.
    pub redraw: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { degree: 2, ring: true, redraw: false }
    }
}

#[derive(Debug)]
struct RandomKOut(Config);

impl RandomKOut {
    fn draw(&self, view: &View, draw: u64) -> Vec<Vec<usize>> {
        let round = if self.0.redraw { view.round } else { 0 };
        let mut stream = Stream::new(view.seed, NAME, &[view.nodes as u64, round, draw]);
        let receivers = |node| {
            let others = (0..view.nodes).filter(|other| *other != node).collect();
            let mut to = stream.choose(others, self.0.degree);
            to.extend(self.0.ring.then(|| (node + 1) % view.nodes));
            tidy(node, to)
        };
        (0..view.nodes).map(receivers).collect()
    }

    /// Only a graph that stays and has no ring has to be connected by luck.
    fn lucky(&self, view: &View) -> Option<Vec<Vec<usize>>> {
        if self.0.ring || self.0.redraw {
            return Some(self.draw(view, 0));
        }
        (0..DRAWS).map(|draw| self.draw(view, draw)).find(|graph| components(graph).len() <= 1)
    }
}

impl Topology for RandomKOut {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn period(&self, _nodes: usize) -> Option<u64> {
        (!self.0.redraw).then_some(1)
    }

    fn check(&self, view: &View) -> Result<(), SizeError> {
        let expected = || format!("ring = true or a higher degree: {DRAWS} draws gave no strongly connected graph");
        let error = || SizeError { topology: NAME, nodes: view.nodes, expected: expected() };
        self.lucky(view).map(|_| ()).ok_or_else(error)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        self.graph(view).swap_remove(node)
    }

    fn graph(&self, view: &View) -> Vec<Vec<usize>> {
        self.lucky(view).unwrap_or_else(|| vec![Vec::new(); view.nodes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { nodes: 16, round: 0, seed: 1 };

    fn graph(config: Config, view: View) -> Vec<Vec<usize>> {
        RandomKOut(config).graph(&view)
    }

    #[test]
    fn each_node_draws_k_and_has_its_successor() {
        for (node, to) in graph(Config::default(), VIEW).iter().enumerate() {
            assert!(to.contains(&((node + 1) % 16)) && (2..=3).contains(&to.len()), "{node}: {to:?}");
        }
        assert!(graph(Config { ring: false, ..Config::default() }, VIEW).iter().all(|to| to.len() == 2));
    }

    #[test]
    fn redrawn_graphs_change_with_the_round() {
        let redrawn = Config { redraw: true, ..Config::default() };
        let later = View { round: 1, ..VIEW };
        assert_ne!(graph(redrawn, VIEW), graph(redrawn, later));
        assert_eq!(graph(Config::default(), VIEW), graph(Config::default(), later));
    }

    #[test]
    fn without_a_ring_luck_can_run_out() {
        let lonely = RandomKOut(Config { degree: 1, ring: false, redraw: false });
        assert!(lonely.check(&View { nodes: 64, ..VIEW }).unwrap_err().to_string().contains("ring = true"));
    }
}
