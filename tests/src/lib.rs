//! What the end-to-end tests stand on: a coordinator and workers inside the test's own process, over
//! real sockets, and a peer that speaks the protocol by hand and may lie.
//!
//! Everything is owned by the test and ends with it. A helper that meets something unexpected panics
//! with what it saw: here, that is a failed test.

pub mod federation;
pub mod host;
pub mod operator;
pub mod peer;
pub mod toy;
