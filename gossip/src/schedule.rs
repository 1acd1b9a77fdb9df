//! The mixing matrices of a whole run: one period computed once, or each round as it comes.

use crate::{Mixing, MixingError, Topology, View, Weights};
use std::{borrow::Cow, sync::Arc};

/// A topology over a fixed set of nodes, with its matrices.
///
/// Undirected graphs get Metropolis weights in either mode: peers know the graph, so they know each
/// other's degrees, and mass then stays even without faults. Directed graphs get push weights.
#[derive(Debug, Clone)]
pub struct Schedule {
    topology: Arc<dyn Topology>,
    view: View,
    /// One period; empty when the schedule never repeats.
    rounds: Vec<Mixing>,
}

impl Schedule {
    /// The schedule of `topology` over `nodes` nodes.
    pub fn new(topology: Arc<dyn Topology>, nodes: usize, seed: u64) -> Result<Self, MixingError> {
        let mut schedule = Self { topology, view: View { nodes, round: 0, seed }, rounds: Vec::new() };
        // The first round stands for all when it comes to errors: checks do not depend on the round.
        schedule.compute(0)?;
        let period = schedule.topology.period(nodes).unwrap_or(0);
        schedule.rounds = (0..period).map(|round| schedule.compute(round)).collect::<Result<_, _>>()?;
        Ok(schedule)
    }

    fn compute(&self, round: u64) -> Result<Mixing, MixingError> {
        let weights = if self.topology.directed() { Weights::Push } else { Weights::Metropolis };
        Mixing::new(self.topology.as_ref(), weights, &View { round, ..self.view })
    }

    /// The matrix of a round.
    pub fn mixing(&self, round: u64) -> Cow<'_, Mixing> {
        match round.checked_rem(self.rounds.len() as u64) {
            Some(at) => Cow::Borrowed(&self.rounds[at as usize]),
            None => {
                Cow::Owned(self.compute(round).expect("checked for round 0, and checks are for all rounds"))
            }
        }
    }

    /// Rounds after which the matrices repeat; `None` when they never do.
    pub fn period(&self) -> Option<u64> {
        (!self.rounds.is_empty()).then_some(self.rounds.len() as u64)
    }

    /// Number of nodes, `n`.
    pub fn nodes(&self) -> usize {
        self.view.nodes
    }

    /// The topology.
    pub fn topology(&self) -> &Arc<dyn Topology> {
        &self.topology
    }

    /// The same topology over another number of nodes.
    pub fn resized(&self, nodes: usize) -> Result<Self, MixingError> {
        Self::new(Arc::clone(&self.topology), nodes, self.view.seed)
    }

    /// Whether every matrix equals its transpose, so that plain averaging can be done pair by pair.
    pub fn symmetric(&self) -> bool {
        !self.topology.directed() && self.rounds.iter().all(Mixing::symmetric)
    }
}
