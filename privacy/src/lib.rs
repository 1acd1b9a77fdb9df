//! What may leave a client, what it costs, and the noise that pays for it.
//!
//! Pure: no clock, file or thread, and all randomness comes from a generator that the caller seeds.
//! Nothing here makes a run private by itself: the programs that do so record every release in a
//! [`Ledger`] and account for it with this crate.

pub mod accountants;
pub mod adaptive;
pub mod clip;
pub mod distributed;
mod fixed_size;
pub mod ledger;
pub mod long_run;
mod loss;
mod moments;
mod numeric;
pub mod parameters;
pub mod sampler;
pub mod strategy;
pub mod trade_off;

pub use accountants::{
    gaussian::Mu,
    report::{Accountant, Refusal, Report},
};
pub use clip::{NotFinite, clip};
pub use ledger::{Adjacency, Categories, Event, Ledger, LedgerError, Mechanism, Sampling, Unit};
pub use parameters::{Budget, ClipNorm, NoiseMultiplier, ParameterError, Positive, Probability};
