//! Why a worker process ends. Everything else (a lost connection, a refused update, data that cannot
//! be read) is reported to the coordinator and survived.

use crate::config::ConfigError;
use std::path::PathBuf;

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory cannot be used.
    #[error("state directory {}: {problem}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what would help.
        problem: String,
    },
    /// A privacy ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerFault),
    /// The worker's certificate.
    #[error("identity {}: {detail}", file.display())]
    Identity {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what would help.
        detail: String,
    },
    /// Coordinator and worker cannot work together; trying again would not help.
    #[error("the coordinator at {coordinator} refuses this worker: {detail}")]
    Refused {
        /// Its address.
        coordinator: String,
        /// Its words.
        detail: String,
    },
    /// The run file of a peer.
    #[error("run file: {0}")]
    Run(String),
    /// A peer cannot train, or its training failed.
    #[error("{0}")]
    Training(String),
    /// A task of the worker panicked: a bug.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}
