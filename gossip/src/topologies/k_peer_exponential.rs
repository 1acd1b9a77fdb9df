//! The k-peer exponential graph: in round t each node sends to those `j·(k + 1)^(t mod τ)` ahead,
//! `j = 1..=k`, `τ = ⌈log_{k+1} n⌉`, with weights `1/(k + 1)`.
//!
//! When n is a power of k + 1, τ consecutive rounds give the exact mean; `peers = 1` is the one-peer
//! exponential graph.

use crate::{
    ParamError, Row, Topology, View,
    topology::{circulant, params_of, parse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "k-peer-exponential",
    citation: "Assran et al., ICML 2019, arXiv:1811.10792; Ying et al., NeurIPS 2021, arXiv:2110.13363",
    make: |params| {
        let config: Config = parse("k-peer-exponential", params)?;
        if config.peers == 0 {
            let detail = "peers = 0, expected at least 1".to_owned();
            return Err(ParamError::Key { topology: "k-peer-exponential", detail });
        }
        Ok(Box::new(KPeerExponential(config)))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[topology]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Receivers of each node in a round, k. Default 2.
    pub peers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { peers: 2 }
    }
}

#[derive(Debug)]
struct KPeerExponential(Config);

impl KPeerExponential {
    /// `(k + 1)^0, (k + 1)^1, …` below `nodes`, at least one.
    fn strides(&self, nodes: usize) -> Vec<usize> {
        let next = |stride: &usize| stride.checked_mul(self.0.peers.saturating_add(1));
        let strides = std::iter::successors(Some(1_usize), next);
        strides.enumerate().take_while(|(at, stride)| *at == 0 || *stride < nodes).map(|(_, s)| s).collect()
    }
}

impl Topology for KPeerExponential {
    fn name(&self) -> &'static str {
        ROW.name
    }

    fn directed(&self) -> bool {
        true
    }

    fn period(&self, nodes: usize) -> Option<u64> {
        Some(self.strides(nodes).len() as u64)
    }

    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize> {
        let strides = self.strides(view.nodes);
        let stride = strides[(view.round % strides.len() as u64) as usize];
        // More than n − 1 hops only repeat themselves.
        let hops = (1..=self.0.peers.min(view.nodes)).map(|j| (j * stride) % view.nodes.max(1));
        circulant(node, view.nodes, hops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_multiples_of_the_stride() {
        let graph = KPeerExponential(Config { peers: 2 });
        let view = |round| View { nodes: 9, round, seed: 0 };
        assert_eq!(graph.period(9), Some(2));
        assert_eq!(graph.out_neighbours(0, &view(0)), [1, 2]);
        assert_eq!(graph.out_neighbours(1, &view(3)), [4, 7]);
    }

    #[test]
    fn no_peers_are_refused() {
        let params = serde_json::Map::from_iter([("peers".to_owned(), 0.into())]);
        assert!((ROW.make)(&params).unwrap_err().to_string().contains("peers = 0"));
    }
}
