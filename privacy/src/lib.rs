//! What may leave a client: the bound on a contribution, and the parameters of a guarantee as types
//! that cannot hold a senseless value.
//!
//! There is no mechanism and no accountant here yet, so nothing in this crate makes a run private,
//! and no program may say so on its account. Pure: no randomness, clock, file or thread.
//!
//! Reading order: [`parameters`] (the types), [`mod@clip`] (the bound).

pub mod clip;
pub mod parameters;

pub use clip::{NotFinite, clip};
pub use parameters::{Budget, ClipNorm, NoiseMultiplier, ParameterError};
