//! Federated training in one process: the coordinator's round machine, its vetting, fold and store, the
//! worker's local run and engine, and a virtual clock instead of sockets.
//!
//! ```text
//! machine ──Assign──▶ desk (by virtual arrival) ──▶ lanes: state, plan, local run, finish
//!    ▲                                                        │
//!    └── Update ◀── vet, fold ◀── in order of arrival ────────┘      Commit ──▶ means, rule, states, store
//! ```
//!
//! A client that is not training is an entry of an index and, if the algorithm keeps state, a state in
//! memory or in a file. Whole clients run side by side, one thread each; uploads are taken in the order of
//! their virtual arrival and folded in integers, so that threads cannot change a byte. With the cohort,
//! the shares and the seed of a real federation whose workers are called `worker-1`, `worker-2`, … the
//! models have the real one's digests.
//!
//! Time is virtual: a local step takes [`STEP_MS`], on slow clients (`[stragglers]`) a multiple of it, nothing
//! else takes any.

mod commit;
mod desk;
mod error;
mod files;
mod flow;
mod judging;
mod lane;
mod liars;
mod line;
mod private;
mod round;
mod secrets;
mod server;
mod shares;
mod states;
mod stop;
mod stragglers;

pub use error::SimulationError;
pub use lane::{LocalWork, bare};
pub use line::Line;
pub use round::run;
pub use shares::Shares;
pub use stop::Stop;

pub(crate) use files::Metrics;
pub(crate) use server::{STATE, clear};

use crate::evaluation::{Calibration, Confusion, Spread};
use proto::{digest::Digest, event::RunEvent, spec::RunSpec};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use worker::{data::Dataset, engine::cuda::Placement};

/// Milliseconds of virtual time that a local step takes.
pub const STEP_MS: u64 = 10;
/// What clients are called before their number, from 1: as the demo's workers.
pub const CLIENT: &str = "worker-";

/// A simulation to be run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The run.
    pub spec: RunSpec,
    /// Number of clients, at least 1.
    pub clients: usize,
    /// What is divided among them.
    pub train: Dataset,
    /// What the model is evaluated on.
    pub test: Option<Dataset>,
    /// Clients that run side by side, at least 1. Results do not depend on it.
    pub threads: usize,
    /// Where the simulation writes. One that was interrupted there goes on.
    pub folder: PathBuf,
    /// Where local runs and evaluations work; side by side on one GPU, too.
    pub placement: Placement,
    /// Least time between two checkpoints; zero: after every round. Results do not depend on it.
    pub checkpoint: Duration,
    /// Bytes of client state that may stay in memory. Results do not depend on it.
    pub memory: u64,
    /// For tests: noise and secret draws follow from the run's seed, so that they protect nobody.
    pub reproducible_noise: bool,
    /// When it stops before its end.
    pub stop: Stop,
}

/// What happens, for whoever watches.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// Goes on after so many rounds.
    Started {
        /// Rounds that are committed.
        rounds: u64,
    },
    /// As a coordinator's log has it.
    Event(&'a RunEvent),
    /// A round is over.
    Round(&'a Line),
}

/// A finished simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Lines of `metrics.jsonl`.
    pub lines: Vec<Line>,
    /// The final model's digest.
    pub digest: Digest,
    /// The final model in the safetensors format.
    pub model: Vec<u8>,
    /// Its averages, by name, in the same format.
    pub averages: BTreeMap<String, Vec<u8>>,
    /// Scalars in it.
    pub parameters: usize,
    /// How good it is.
    pub evaluation: Option<Evaluation>,
}

/// How good a final model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Share of right predictions on the held-out set.
    pub accuracy: Option<f64>,
    /// Mean loss there.
    pub loss: Option<f64>,
    /// Accuracy to expect on each client's mix of labels; absent for text.
    pub clients: Option<Spread>,
    /// Top-1 calibration.
    pub calibration: Option<Calibration>,
    /// Who was taken for whom; absent for text.
    pub confusion: Option<Confusion>,
}

/// The name of a client, from its number from 0.
pub fn client_name(index: usize) -> String {
    format!("{CLIENT}{}", index + 1)
}

/// The number of a client, from its name.
fn client_index(name: &str) -> Option<usize> {
    name.strip_prefix(CLIENT)?.parse::<usize>().ok()?.checked_sub(1)
}
