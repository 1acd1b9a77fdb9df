//! What must hold whatever the network does: one file per invariant, each a function that says what
//! is wrong. Those of the first group are checked while a run goes on, by [`crate::run`] itself.

mod balance;
mod bounded;
mod confirmed;
mod monotone;
mod once;
mod replay;
mod undisturbed;

pub use balance::{balance, settled};
pub use bounded::bounded;
pub use confirmed::confirmed;
pub use monotone::monotone;
pub use once::once;
pub use replay::replay;
pub use undisturbed::undisturbed;
