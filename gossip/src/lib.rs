//! Who talks to whom in a decentralised run, and with which weights: pure functions of the number
//! of live nodes, the round and the run's seed.
//!
//! Every node computes the same answer without asking anybody, because it sees nothing but these
//! three numbers: there is no I/O, clock, thread or hash order here. Node ids are positions,
//! `0..nodes`, in the agreed order of the live members.
//!
//! Reading order: [`topology`] (the trait), one file of [`topologies`], [`mixing`] (the weights).

pub mod mixing;
pub mod topology;

/// One file per topology; `build.rs` lists them.
pub mod topologies {
    include!(concat!(env!("OUT_DIR"), "/topologies.rs"));
}

pub use mixing::{Mixing, MixingError, Share, Weights, shares};
pub use topology::{ParamError, Params, Row, Topology, View, make};
