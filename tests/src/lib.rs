//! What the end-to-end tests stand on: a coordinator and workers inside the test's own process, over
//! real sockets, and a peer that speaks the protocol by hand and may lie.
//!
//! Everything is owned by the test and ends with it. A helper that meets something unexpected panics
//! with what it saw: here, that is a failed test.

use std::path::Path;
use tempfile::TempDir;

pub mod decoders;
pub mod federation;
pub mod honest;
pub mod host;
pub mod http;
pub mod operator;
pub mod peer;
pub mod toy;

/// A temporary folder, in memory where the machine has a place for that: for tests in which the disk is
/// not what is tested, and waiting for it would be most of their time.
pub fn memory_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
