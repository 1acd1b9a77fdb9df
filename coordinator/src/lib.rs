//! The coordinator: the round machine, its durable store, and the gRPC service around them.
//!
//! ```text
//! service ──events──▶ run::Actor ──▶ machine (pure) ──actions──▶ run::Actor ──▶ fleet, store, blocking threads
//! ```
//!
//! Reading order: [`machine`] decides, [`private`] guards, `run::actor` does, `service` speaks, [`store`] remembers.

pub mod access;
mod clock;
mod config;
mod fleet;
mod health;
mod host;
pub mod machine;
pub mod private;
mod run;
mod serve;
mod service;
mod spool;
pub mod store;
mod transport;
mod vetting;
mod view;
mod web;

use clock::Clock;

pub use config::{Config, Page, Tls};
pub use host::{Evaluation, HostedModel, ModelHost};
pub use identity::Listen;
pub use run::{
    aggregate::{fold, fold_vector},
    combine::{centre_name, keep_centres},
    flow::asynchrony,
};
pub use serve::{ServeError, serve, serve_with_page};
pub use spool::{Spool, SpoolError};
pub use store::StoreError;
pub use vetting::{vet, vet_local};
pub use web::bind_page;
