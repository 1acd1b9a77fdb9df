//! Federated algorithms as data and pure functions: what a worker does in a local step, what it
//! uploads and keeps, how uploads become one vector, and how the server state moves by it.
//!
//! Nothing here does I/O, reads a clock, starts a thread or knows a tensor library: a vector is a
//! flat `f32` slice, and every function gives equal output for equal input. That is what lets the
//! same code run in the daemons, in the simulator and in thousands of seeded fault schedules.
//!
//! Reading order: [`rule`] (the trait), one file of [`rules`], [`local`] (the step), [`fold`] (the
//! aggregate), [`cohort`].

pub mod average;
pub mod cohort;
pub mod combine;
pub mod compress;
pub mod evaluation;
pub mod fold;
pub mod local;
mod parts;
pub mod personal;
pub mod rule;
pub mod scalar;
pub mod schedule;
pub mod seed;
pub mod staleness;
mod vectors;

/// One file per algorithm; `build.rs` lists them.
pub mod rules {
    include!(concat!(env!("OUT_DIR"), "/rules.rs"));
}

pub use rule::{
    Algorithm, Finished, LocalRun, ParamError, Params, RoundFacts, Rule, fresh_server, make, make_as,
    params_of,
};
pub use scalar::Scalar;
pub use vectors::{MODEL, Vector, Vectors, axpy, scale, zeros};
