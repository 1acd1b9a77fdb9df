//! The wire and the run file.
pub mod spec;
