//! What must hold whatever goes wrong: one file per invariant, each a function that says what is
//! wrong. [`crate::run`] checks all but the last two while a run goes on.

mod accepted;
mod aggregate;
mod armed;
mod balance;
mod bounded;
mod buffer;
mod capped;
mod confirmed;
mod enough;
mod left;
mod log;
mod monotone;
mod noise;
mod norm;
mod once;
mod paid;
mod patient;
mod quarantine;
mod replay;
mod stragglers;
mod tasks;
mod undisturbed;

pub use accepted::accepted;
pub use aggregate::aggregate;
pub use armed::{Outside, armed};
pub use balance::{balance, settled};
pub use bounded::bounded;
pub use buffer::{Counted, counted, nothing_lost, told};
pub use capped::capped;
pub use confirmed::confirmed;
pub use enough::enough;
pub use left::{left, sealed};
pub use log::log;
pub use monotone::monotone;
pub use noise::{Noised, correlated, noise};
pub use norm::norm;
pub use once::once;
pub use paid::paid;
pub use patient::patient;
pub use quarantine::quarantine;
pub use replay::replay;
pub use stragglers::stragglers;
pub use tasks::{tasks, versions};
pub use undisturbed::undisturbed;
