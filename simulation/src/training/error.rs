//! Why a simulation does not come to its end.

use std::path::PathBuf;

/// Why a simulation cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// The run file and the clients do not fit together.
    #[error("{0}")]
    Setup(String),
    /// A file cannot be read or written.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] coordinator::StoreError),
    /// It was told to stop, and can go on.
    #[error("stopped after {rounds} rounds; the same command goes on from there")]
    Stopped {
        /// Rounds that are committed.
        rounds: u64,
    },
    /// The run ended without its rounds.
    #[error("the run failed: {0}")]
    Failed(String),
}

impl SimulationError {
    pub(crate) fn file(path: impl Into<PathBuf>, error: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), detail: error.to_string() }
    }
}
