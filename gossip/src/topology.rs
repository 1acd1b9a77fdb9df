//! What a topology is: the receivers of each node in each round. One file of [`crate::topologies`]
//! holds one topology with its keys, and the registry makes it known by name.

use crate::{Share, topologies::TOPOLOGIES};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Keys of a topology by name, as the run file gives them under `[topology]`, without `kind`.
pub type Params = serde_json::Map<String, serde_json::Value>;

/// All that a topology may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Live nodes, `n`. Ids are `0..n`.
    pub nodes: usize,
    /// The round, from 0 on.
    pub round: u64,
    /// The run's seed, for topologies that are drawn at random.
    pub seed: u64,
}

/// The graph of each round. Pure: equal input, equal output.
pub trait Topology: Send + Sync + Debug {
    /// `kind` in a run file.
    fn name(&self) -> &'static str;

    /// Whether an edge may lack its reverse. Directed graphs need [`crate::Weights::Push`].
    fn directed(&self) -> bool {
        false
    }

    /// Rounds after which the graphs repeat, at least 1, for `nodes` live nodes; `None` when they
    /// never do.
    fn period(&self, _nodes: usize) -> Option<u64> {
        Some(1)
    }

    /// Whether there is such a graph over `view.nodes` nodes with that seed, in any round.
    fn check(&self, _view: &View) -> Result<(), SizeError> {
        Ok(())
    }

    /// Nodes to which `node` sends in the round of `view`: ascending, distinct, never itself.
    fn out_neighbours(&self, node: usize, view: &View) -> Vec<usize>;

    /// [`Topology::out_neighbours`] of every node. Topologies that are drawn as a whole override it.
    fn graph(&self, view: &View) -> Vec<Vec<usize>> {
        (0..view.nodes).map(|node| self.out_neighbours(node, view)).collect()
    }

    /// Weights that belong to the topology, by columns, ascending in receivers and with the sender's
    /// own share; `None` when the weights follow from the degrees ([`crate::Weights`]).
    fn given(&self, _view: &View) -> Option<Vec<Vec<Share>>> {
        None
    }
}

/// A topology that has no graph over so many nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topology `{topology}` has no graph over {nodes} nodes: expected {expected}")]
pub struct SizeError {
    /// The topology.
    pub topology: &'static str,
    /// Live nodes.
    pub nodes: usize,
    /// What would do.
    pub expected: String,
}

/// The configuration of a topology without keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoKeys {}

/// One row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// `kind` in a run file.
    pub name: &'static str,
    /// The paper.
    pub citation: &'static str,
    /// Builds the topology, or says which key is wrong.
    pub make: fn(&Params) -> Result<Box<dyn Topology>, ParamError>,
    /// The documented defaults, as a run file would give them.
    pub defaults: fn() -> Params,
}

/// Why a topology cannot be built from a run file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// No topology of that name.
    #[error("unknown topology `{name}`, expected one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// A key is unknown or its value has the wrong type.
    #[error("topology `{topology}`: {detail}")]
    Key {
        /// The topology.
        topology: &'static str,
        /// What serde found.
        detail: String,
    },
}

/// Builds the topology of that name.
pub fn make(name: &str, params: &Params) -> Result<Box<dyn Topology>, ParamError> {
    TOPOLOGIES.iter().find(|row| row.name == name).map_or_else(
        || {
            let known = TOPOLOGIES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            Err(ParamError::Unknown { name: name.to_owned(), known })
        },
        |row| (row.make)(params),
    )
}

/// The topology's own configuration struct from the run file's keys; unknown keys are errors.
pub(crate) fn parse<C: DeserializeOwned>(topology: &'static str, params: &Params) -> Result<C, ParamError> {
    serde_json::from_value(serde_json::Value::Object(params.clone()))
        .map_err(|error| ParamError::Key { topology, detail: error.to_string() })
}

/// The keys of a configuration struct, for [`Row::defaults`].
pub(crate) fn params_of<C: Serialize>(config: &C) -> Params {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => Params::new(),
    }
}

/// The receivers `node + hop mod nodes`, in the form that [`Topology::out_neighbours`] promises.
/// Hops are below `nodes`; one or no node has no neighbour.
pub(crate) fn circulant(node: usize, nodes: usize, hops: impl IntoIterator<Item = usize>) -> Vec<usize> {
    if nodes < 2 {
        return Vec::new();
    }
    tidy(node, hops.into_iter().map(|hop| (node + hop) % nodes).collect())
}

/// Rows and columns of a lattice: `rows` if given, else the most square division there is.
pub(crate) fn lattice(rows: Option<usize>, nodes: usize) -> Option<(usize, usize)> {
    let squarest = || (1..=nodes.isqrt().max(1)).rev().find(|rows| nodes.is_multiple_of(*rows));
    let rows = rows.or_else(squarest)?;
    (rows > 0 && nodes.is_multiple_of(rows)).then(|| (rows, nodes / rows))
}

/// The error of a lattice that `nodes` do not fill.
pub(crate) fn lattice_error(topology: &'static str, rows: Option<usize>, nodes: usize) -> SizeError {
    SizeError { topology, nodes, expected: format!("a multiple of rows = {}", rows.unwrap_or_default()) }
}

/// For graphs that exist only over `2^D` nodes.
pub(crate) fn power_of_two(topology: &'static str, nodes: usize) -> Result<(), SizeError> {
    if nodes < 2 || nodes.is_power_of_two() {
        return Ok(());
    }
    Err(SizeError { topology, nodes, expected: "a power of two".to_owned() })
}

/// Ascending, distinct, without `node`: the form that [`Topology::out_neighbours`] promises.
pub(crate) fn tidy(node: usize, mut to: Vec<usize>) -> Vec<usize> {
    to.retain(|to| *to != node);
    to.sort_unstable();
    to.dedup();
    to
}

/// `⌈log₂ nodes⌉`, 0 for fewer than two nodes.
pub(crate) fn log2_ceil(nodes: usize) -> u32 {
    nodes.saturating_sub(1).checked_ilog2().map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log2_ceil_is_the_ceiling() {
        let expected = [0, 0, 1, 2, 2, 3, 3, 3, 3, 4];
        for (nodes, expected) in expected.into_iter().enumerate() {
            assert_eq!(log2_ceil(nodes), expected, "{nodes}");
        }
        assert_eq!(log2_ceil(usize::MAX), usize::BITS);
    }

    #[test]
    fn bad_keys_are_named() {
        let message = |name: &str, key: &str| {
            let params = Params::from_iter([(key.to_owned(), 3.into())]);
            make(name, &params).unwrap_err().to_string()
        };
        let unknown = message("rng", "x");
        assert!(
            unknown.contains("expected one of") && unknown.contains("one-peer-exponential, "),
            "{unknown}"
        );
        assert!(message("ring", "directd").contains("directd"));
        assert!(message("random-pair", "matching").contains("expected a boolean"));
    }
}
