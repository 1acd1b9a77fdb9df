//! What may leave a client, what it costs, and the noise that pays for it.
//!
//! Pure: no clock, file or thread, and all randomness comes from a key that the caller has from the
//! operating system. Nothing here makes a run private by itself: the programs that do so record every
//! release in a [`Ledger`] before it happens, and ask a [`Gate`] first.
//!
//! Reading order: [`parameters`] (numbers that cannot be senseless), [`ledger`] (what was released),
//! [`accountants`] (what it costs), [`spec`] (the `[privacy]` section of a run), [`grid`] and
//! [`sampler`] (exact sums and noise), [`correlated`] (DP-FTRL), [`shares`] (noise of clients), [`audit`] (the test of it all).

pub mod accountants;
pub mod adaptive;
pub mod audit;
pub mod clip;
pub mod correlated;
pub mod distributed;
mod fixed_size;
pub mod gate;
pub mod grid;
pub mod journal;
pub mod ledger;
pub mod long_run;
mod loss;
pub mod metrics;
mod moments;
mod numeric;
pub mod pairwise;
pub mod parameters;
pub mod per_example;
pub mod rotation;
pub mod sampler;
pub mod shares;
pub mod spec;
pub mod strategy;
pub mod trade_off;
mod widest;

pub use accountants::{
    gaussian::Mu,
    report::{Accountant, Refusal, Report},
};
pub use clip::{NotFinite, clip};
pub use gate::{Gate, GateError, Rule};
pub use grid::{Grid, OffGrid};
pub use journal::{Entry, Journal, JournalError};
pub use ledger::{Adjacency, Categories, Event, Ledger, LedgerError, Mechanism, Sampling, Unit};
pub use parameters::{Budget, ClipNorm, NoiseMultiplier, ParameterError, Positive, Probability};
pub use spec::{Plan, PlanError, PrivacySpec, RunFacts, SpecError};
