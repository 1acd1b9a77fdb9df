//! The worker: data loaders, the training engine, the session machine and durable client state.
//!
//! Reading order: [`session`] (pure: what to do when), [`client_state`] (what survives a round),
//! [`trainer`] (one local run), [`transfer`] (vectors over the wire), [`driver`] (sockets, clocks and
//! threads around them), [`peer`] (the same trainer without a coordinator).

pub mod access;
pub mod client_state;
pub mod config;
pub mod data;
pub mod driver;
pub mod engine;
mod error;
pub mod ledger;
pub mod message;
pub mod peer;
pub mod session;
#[cfg(test)]
mod testing;
pub mod trainer;
pub mod transfer;

pub use config::{Config, ConfigError, Share};
pub use driver::{run, run_on, run_with_engine};
pub use error::WorkerError;
pub use trainer::Train;
