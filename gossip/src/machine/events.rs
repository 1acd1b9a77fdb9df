//! What goes into a [`super::Machine`] and what comes out of it.

use super::{Done, Envelope, Membership, Method};
use crate::{Mass, MixingError, Topology, report::Mode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// When a node goes on to its next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Barrier {
    /// When everything of its round has arrived and has been taken. Transfers are applied in the order of
    /// their senders, so that without deadlines and evictions the run does not depend on the network.
    Synchronous,
    /// When everything up to `rounds` rounds back has arrived; the rest is applied as it comes.
    Bounded {
        /// How far a node may run ahead of what it has not heard of.
        rounds: u64,
    },
    /// At once.
    Asynchronous,
}

/// What all nodes of a run agree on.
#[derive(Debug, Clone)]
pub struct Config {
    /// The graph.
    pub topology: Arc<dyn Topology>,
    /// How to mix.
    pub mode: Mode,
    /// What is mixed.
    pub method: Method,
    /// Whether every example counts alike, by what the membership says of them, instead of every node.
    pub weighted: bool,
    /// When to go on.
    pub barrier: Barrier,
    /// The run's seed.
    pub seed: u64,
    /// The starvation guard: a node sends no more than what leaves it this mass, or its own weight in the
    /// matrix where that is less (push mode). 0.3 unless there is a reason; 0 turns it off.
    pub w_min: f64,
    /// Milliseconds after which a round goes on without those that are missing; `None` waits for ever.
    pub deadline_ms: Option<u64>,
    /// Milliseconds until a transfer or a question is repeated; doubles up to eight times this.
    pub retry_ms: u64,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<T> {
    /// The node starts, or resumes after a crash with its stored state.
    Start,
    /// The training that [`Action::Train`] asked for is done.
    Trained {
        /// The round asked for.
        round: u64,
        /// What it gave.
        done: Done<T>,
    },
    /// A message arrived.
    Received(Envelope<T>),
    /// Somebody joined, left or was found dead; merged with what is known.
    Membership(Membership),
    /// A peer cannot be reached at the moment, or can again.
    Suspected {
        /// Which peer.
        id: u64,
        /// Whether it is suspected from now on.
        suspected: bool,
    },
    /// This node shall leave in good order.
    Leave,
    /// The time asked for by [`Action::WakeAt`].
    Tick,
}

/// What a driver has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<T> {
    /// Send it; it may be lost.
    Send(Envelope<T>),
    /// Train what [`super::Machine::errand`] says and answer with [`Event::Trained`].
    Train {
        /// The round to answer with.
        round: u64,
    },
    /// Call with [`Event::Tick`] at this time. Replaces the earlier request.
    WakeAt(u64),
    /// The membership changed. The sum of `account` over the live members is the new epoch's total.
    Epoch {
        /// The new epoch.
        number: u64,
        /// This node's part of the total.
        account: Mass,
        /// The topology has no graph over so many nodes: the run's ring takes its place.
        fallback: Option<String>,
    },
    /// This node was evicted: it does nothing any more. It may come back as its next incarnation, a new
    /// [`super::Machine`] with mass 1: with its own model when it was merely cut off with others, with a
    /// sponsor's when it is behind.
    Evicted,
    /// The node has handed over everything and may be turned off. Evict it from the membership.
    Left,
    /// An event that makes no sense, and why; nothing was changed.
    Ignored(String),
}

/// Why there is no such machine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MachineError {
    /// The member does not take part.
    #[error("member {id} (incarnation {incarnation}) is not live in the membership that it starts with")]
    NotAMember {
        /// Its id.
        id: u64,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Symmetric mode over a graph whose matrices are not symmetric.
    #[error("topology `{0}`: symmetric mode needs symmetric matrices, expected push mode")]
    NotSymmetric(&'static str),
    /// A method of symmetric mode in push mode.
    #[error("{0:?} needs symmetric mode")]
    NotForPush(Method),
    /// Tracked gradients are means over nodes.
    #[error("tracked gradients count nodes alike, not examples")]
    NotWeighted,
    /// No such schedule.
    #[error(transparent)]
    Mixing(#[from] MixingError),
}
