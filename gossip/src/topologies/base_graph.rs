//! The Base-(k+1) graph: a short schedule of sparse undirected graphs, at most k neighbours each, after
//! which every node holds the exact mean, for any number of nodes.
//!
//! Built from three pieces. `H(m)`, for m whose prime factors are at most k + 1: cliques along each
//! digit of the node's id in a mixed radix. The simple base graph, for any n: split the nodes by the
//! digits of n in base k + 1, average within each part, let the larger parts give to the smaller ones in
//! turn, average within the parts again. The base graph: take out the smooth part of n where that is
//! not longer.

use crate::{
    ParamError, Row, Share, Topology, View,
    topology::{params_of, parse},
};
use serde::{Deserialize, Serialize};
use std::ops::Range;

const NAME: &str = "base-graph";

/// The registry's row.
pub const ROW: Row = Row {
    name: NAME,
    citation: "Takezawa et al., NeurIPS 2023, arXiv:2305.11420",
    make: |params| {
        let config: Config = parse(NAME, params)?;
        if config.degree == 0 {
            let detail = "degree = 0, expected at least 1".to_owned();
            return Err(ParamError::Key { topology: NAME, detail });
        }
        Ok(Box::new(BaseGraph(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest number of neighbours in a round, k. Default 1: pairs.
    pub degree: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { degree: 1 }
    }
}

#[derive(Debug)]
struct BaseGraph(Config);

impl Topology for BaseGraph {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn period(&self, nodes: usize) -> Option<u64> {
        Some(base(nodes, self.0.degree).len().max(1) as u64)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        self.graph(view).swap_remove(node)
    }

    fn graph(&self, view: &View) -> Vec<Vec<usize>> {
        let mut graph = vec![Vec::new(); view.nodes];
        for (a, b, _) in round(view, self.0.degree) {
            graph[a].push(b);
            graph[b].push(a);
        }
        for to in &mut graph {
            to.sort_unstable();
        }
        graph
    }

    fn given(&self, view: &View) -> Option<Vec<Vec<Share>>> {
        let mut columns: Vec<Vec<Share>> =
            (0..view.nodes).map(|node| vec![Share { to: node, weight: 1.0 }]).collect();
        for (a, b, weight) in round(view, self.0.degree) {
            for (from, to) in [(a, b), (b, a)] {
                columns[from][0].weight -= weight;
                columns[from].push(Share { to, weight });
            }
        }
        for column in &mut columns {
            column.sort_by_key(|share| share.to);
        }
        Some(columns)
    }
}

/// Undirected edges with their weights; what is left of 1 stays with the node.
type Round = Vec<(usize, usize, f64)>;

fn round(view: &View, k: usize) -> Round {
    let mut rounds = base(view.nodes, k);
    let at = view.round.checked_rem(rounds.len() as u64);
    at.map_or_else(Vec::new, |at| rounds.swap_remove(at as usize))
}

fn clique(nodes: &[usize]) -> Round {
    let weight = 1.0 / nodes.len() as f64;
    let pairs = nodes.iter().enumerate().flat_map(|(at, a)| nodes[..at].iter().map(move |b| (*b, *a)));
    pairs.map(|(a, b)| (a, b, weight)).collect()
}

/// Factors of `m` between 2 and k + 1, the smallest first; `None` when some prime factor is larger.
fn factors(mut m: usize, k: usize) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for factor in (2..=m.min(k.saturating_add(1))).rev() {
        while m > 1 && m.is_multiple_of(factor) {
            m /= factor;
            found.push(factor);
        }
    }
    found.reverse();
    (m == 1).then_some(found)
}

/// The largest divisor of `n` without a prime factor above k + 1.
fn smooth_part(n: usize, k: usize) -> usize {
    let mut rest = n;
    for factor in 2..=n.min(k.saturating_add(1)) {
        while rest.is_multiple_of(factor) {
            rest /= factor;
        }
    }
    n / rest
}

/// `H(m, k)` over `nodes`, whose number has the factors given; a single idle round for one node.
fn hypercubes(nodes: &[usize], factors: &[usize]) -> Vec<Round> {
    if factors.is_empty() {
        return vec![Vec::new()];
    }
    let mut stride = 1;
    let mut rounds = Vec::new();
    for factor in factors {
        let block = stride * factor;
        let starts = (0..nodes.len()).filter(|at| (at % block) < stride);
        let members = |at: usize| (0..*factor).map(|j| nodes[at + j * stride]).collect::<Vec<_>>();
        rounds.push(starts.flat_map(|at| clique(&members(at))).collect());
        stride = block;
    }
    rounds
}

/// One digit of n in base k + 1: `blocks` blocks of `size` nodes, a power of k + 1.
struct Part {
    nodes: Vec<usize>,
    size: usize,
    /// `H` over the whole part, and over all its blocks at once.
    whole: Vec<Round>,
    blocks: Vec<Round>,
    /// Rounds of `blocks` (or of `whole`, for a part below k + 1) done after the giving.
    done: usize,
}

impl Part {
    fn new(range: Range<usize>, size: usize, k: usize) -> Self {
        let nodes: Vec<usize> = range.collect();
        // A digit times a power of k + 1, and such a power: both have small factors.
        let whole = hypercubes(&nodes, &factors(nodes.len(), k).unwrap_or_default());
        let inner = factors(size, k).unwrap_or_default();
        let each: Vec<Vec<Round>> = nodes.chunks(size).map(|block| hypercubes(block, &inner)).collect();
        let rounds = each.first().map_or(0, Vec::len);
        let blocks = (0..rounds).map(|r| each.iter().flat_map(|block| block[r].clone()).collect()).collect();
        Self { nodes, size, whole, blocks, done: 0 }
    }

    fn within(&mut self, k: usize) -> Round {
        let rounds = if self.nodes.len() <= k { &self.whole } else { &self.blocks };
        let round = rounds[self.done % rounds.len()].clone();
        self.done += 1;
        round
    }
}

fn parts(n: usize, k: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut size = (k + 1).pow(n.checked_ilog(k + 1).unwrap_or(0));
    let mut start = 0;
    while start < n {
        let end = start + (n - start) / size * size;
        if end > start {
            parts.push(Part::new(start..end, size, k));
        }
        (start, size) = (end, size / (k + 1));
    }
    parts
}

/// The simple base graph `S(n, k)`.
fn simple(n: usize, k: usize) -> Vec<Round> {
    if let Some(factors) = factors(n, k) {
        return hypercubes(&(0..n).collect::<Vec<_>>(), &factors);
    }
    let mut parts = parts(n, k);
    let first = parts[0].whole.len();
    let mut rounds = Vec::new();
    while parts[0].done < parts[0].blocks.len() {
        let m = rounds.len();
        rounds.push(if m < first {
            parts.iter().flat_map(|part| part.whole[m % part.whole.len()].clone()).collect()
        } else {
            giving(&mut parts, m - first, k)
        });
    }
    rounds
}

/// A round in which part `giver` gives to all smaller parts, and the parts before it average within.
fn giving(parts: &mut [Part], giver: usize, k: usize) -> Round {
    let mut round = Vec::new();
    let last = parts.len() - 1;
    if let Some(part) = parts.get(giver) {
        let rest: usize = parts[giver..].iter().map(|part| part.nodes.len()).sum();
        let mut free: Vec<Vec<usize>> = part.nodes.chunks(part.size).map(<[usize]>::to_vec).collect();
        let weight = part.nodes.len() as f64 / rest as f64 / free.len() as f64;
        let takers = parts[giver + 1..].iter().rev().flat_map(|part| &part.nodes);
        for taker in takers {
            round.extend(free.iter_mut().filter_map(Vec::pop).map(|from| (from, *taker, weight)));
        }
    }
    for (at, part) in parts.iter_mut().enumerate() {
        if at < giver || (at == giver && at == last) {
            round.extend(part.within(k));
        }
    }
    round
}

/// The base graph `B(n, k)`.
fn base(n: usize, k: usize) -> Vec<Round> {
    if n < 2 {
        return vec![Vec::new(); n];
    }
    let direct = simple(n, k);
    let smooth = smooth_part(n, k);
    if smooth == 1 {
        return direct;
    }
    let rest = n / smooth;
    let inner = simple(rest, k);
    let outer = factors(smooth, k).unwrap_or_default();
    if direct.len() < inner.len() + outer.len() {
        return direct;
    }
    let shifted = |(a, b, weight): &(usize, usize, f64), chunk: usize| (a + chunk * rest, b + chunk * rest, *weight);
    let chunks = |round: &Round| (0..smooth).flat_map(|chunk| round.iter().map(move |edge| shifted(edge, chunk))).collect();
    let mut rounds: Vec<Round> = inner.iter().map(chunks).collect();
    let classes: Vec<Vec<Round>> = (0..rest)
        .map(|class| hypercubes(&(0..smooth).map(|q| q * rest + class).collect::<Vec<_>>(), &outer))
        .collect();
    rounds.extend((0..outer.len()).map(|r| classes.iter().flat_map(|class| class[r].clone()).collect()));
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_found_when_they_are_small_enough() {
        assert_eq!(factors(12, 3), Some(vec![3, 4]));
        assert_eq!(factors(10, 2), None);
        assert_eq!(factors(1, 1), Some(vec![]));
        assert_eq!((smooth_part(60, 2), smooth_part(7, 4)), (12, 1));
    }

    #[test]
    fn five_nodes_in_pairs_give_the_published_schedule() {
        // V_1 = {0, 1, 2, 3}, V_2 = {4}: two rounds within V_1, one in which 3 gives 4/5 to 4, two within.
        let rounds = base(5, 1);
        assert_eq!(rounds.len(), 5);
        assert_eq!(rounds[2], [(3, 4, 0.8)]);
        assert_eq!((rounds[0].len(), rounds[4].len()), (2, 2));
    }

    #[test]
    fn no_neighbours_are_refused() {
        let params = serde_json::Map::from_iter([("degree".to_owned(), 0.into())]);
        assert!((ROW.make)(&params).unwrap_err().to_string().contains("degree = 0"));
    }
}
