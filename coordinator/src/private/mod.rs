//! What a private run does differently, as functions that the coordinator and the simulator share:
//! clipped updates are checked and summed on an integer grid ([`Sum`]), get exact noise and are divided by
//! a number that was fixed before the run ([`Guard::release`]), and every release is paid for in the
//! ledger of the data set before anybody sees it (`store::ledger`).
//!
//! Who is trusted: the coordinator and whoever operates it. Against all who see models, or read the event
//! log and the metrics, the guarantee holds; so these do not tell who took part ([`redact`]).

mod admission;
mod guard;
mod redact;
mod secret;

pub use admission::Active;
pub use guard::{Guard, Standing, Sum};
pub use redact::{redact, redact_metrics};
pub use secret::Secret;
