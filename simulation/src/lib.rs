//! The federation in one process, on a virtual clock and a hostile virtual network: what does the
//! protocol do when messages are lost and processes die, and is the model still right afterwards?
//!
//! The decisions are the real ones: the coordinator's [`coordinator::machine::Machine`], the worker's
//! [`worker::session::Session`] with its backoff, heartbeats and desk, the worker's client state
//! ([`worker::client_state::Durable`]) and the rules of [`algorithms`]. Sockets, disks and threads are
//! replaced by one queue of events in order of (time, sequence), and training by a few steps on a
//! quadratic, so that hundreds of runs under faults take seconds. Equal schedules give equal bytes.
//!
//! What is not simulated: chunks of a transfer (an upload arrives whole or not at all), vetting, the
//! collection of old vectors, and failing disks.
//!
//! Reading order: [`Schedule`] (what goes wrong), `federation` (the loop), `federation::serving` and
//! `federation::working` (the two drivers, which mirror the real ones), [`invariants`] (what must hold).

mod dice;
mod federation;
pub mod invariants;
mod objective;
mod queue;
mod report;
mod schedule;

pub use federation::run;
pub use queue::Queue;
pub use report::{Committed, Incidents, Report, Violation};
pub use schedule::{Faults, Mutation, Schedule, ScheduleError};

/// Milliseconds of virtual time.
pub type Millis = u64;
