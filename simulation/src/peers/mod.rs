//! Decentralised training in one process: the mixing machines of all peers, the worker's local run and engine,
//! and a virtual clock instead of sockets.
//!
//! ```text
//! machines ──Train──▶ local runs, side by side ──Trained──▶ machines ──Send──▶ machines … until all is quiet
//! ```
//!
//! What happens in one instant happens in waves: every peer that has events takes them, in the order of their
//! senders, and what all of them send is the next wave. Peers of a wave do not see each other, so that they run
//! side by side and threads cannot change a byte. A local step takes [`crate::training::STEP_MS`] of virtual
//! time, nothing else takes any, and nothing is lost. With the topology, the seed and the shares of real peers
//! called `worker-1`, `worker-2`, … that wait for each other (`barrier = "synchronous"`) the models are theirs.

mod book;
mod drive;
mod fleet;
mod line;

pub use drive::run;
pub use line::Line;

use proto::digest::Digest;
use serde::{Deserialize, Serialize};

/// What happens, for whoever watches.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// Goes on after so many rounds.
    Started {
        /// Rounds that all peers have done.
        rounds: u64,
    },
    /// All peers have done a round.
    Round(&'a Line),
}

/// A finished simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Lines of `metrics.jsonl`.
    pub lines: Vec<Line>,
    /// Digest of the consensus model.
    pub digest: Digest,
    /// The consensus model, `Σ w z / Σ w`, in the safetensors format.
    pub model: Vec<u8>,
    /// Scalars in it.
    pub parameters: usize,
    /// Every peer, `worker-1` first.
    pub peers: Vec<Peer>,
    /// What the topology promises, as JSON.
    pub topology: serde_json::Value,
}

/// How a peer ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Examples that it holds.
    pub examples: usize,
    /// Its mass.
    pub w: f64,
    /// Digest of its model.
    pub digest: Digest,
    /// Share of right predictions on the whole held-out set.
    pub accuracy: Option<f64>,
}
