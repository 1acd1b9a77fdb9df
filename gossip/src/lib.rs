//! Decentralised mixing without a coordinator: who talks to whom, with which weights, and what a
//! peer does with what it receives. Pure: no I/O, clock, thread or hash order; time and randomness
//! are arguments, equal input gives equal bytes.
//!
//! Node ids of topologies are positions, `0..nodes`, in the agreed order of the live members.
//!
//! Reading order: [`topology`] (the trait), one file of [`topologies`], [`mixing`] (the weights),
//! [`analysis`] and [`report`] (what a graph promises), [`machine`] (a peer, with the ledger that
//! keeps the mass), [`rule`] and one file of [`rules`] (an algorithm), [`kernel`] (mixing whole vectors). `README.md` has the design and what was found.

pub mod analysis;
pub mod kernel;
pub mod machine;
pub mod mass;
pub mod mixing;
pub mod predict;
pub mod report;
pub mod rule;
pub mod schedule;
pub mod seed;
pub mod sketch;
pub mod topology;

/// One file per topology; `build.rs` lists them.
pub mod topologies {
    include!(concat!(env!("OUT_DIR"), "/topologies.rs"));
}

/// One file per decentralised algorithm; `build.rs` lists them.
pub mod rules {
    include!(concat!(env!("OUT_DIR"), "/rules.rs"));
}

pub use mass::Mass;
pub use mixing::{GRID, Mixing, MixingError, Share, Weights, shares};
pub use schedule::Schedule;
pub use topology::{NoKeys, ParamError, Params, Row, SizeError, Topology, View, make};
