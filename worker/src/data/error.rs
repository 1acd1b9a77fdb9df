//! What can be wrong with local data, in words that let its owner repair it.
//!
//! Every message names the file, what was found and what was expected: the people who read it have
//! the file, we never do.

use std::path::{Path, PathBuf};

/// Why data could not be loaded, recognised or divided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to read a file or folder.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder that the source needs is not there.
    #[error("{}: {wanted} not found", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// A file's content is not what its format promises.
    #[error("{}: {problem}; expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
        /// What would have been right.
        expected: String,
    },
    /// A key of the data configuration has a value that cannot work.
    #[error("data configuration: {key} is {value}; expected {expected}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would have been right.
        expected: String,
    },
    /// `--data` names something that is no known data set.
    #[error("{}: no known data set; looked for {looked_for}", path.display())]
    Unknown {
        /// The file or folder.
        path: PathBuf,
        /// The layouts that were looked for.
        looked_for: &'static str,
    },
    /// The data set cannot be divided as asked.
    #[error("cannot divide {examples} examples among {clients} clients ({kind}): {problem}")]
    Partition {
        /// The partition's kind, as in the run file.
        kind: &'static str,
        /// Examples to divide.
        examples: usize,
        /// Clients asked for.
        clients: usize,
        /// Why it cannot be done, and what would help.
        problem: String,
    },
}

impl DataError {
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.into(), expected: expected.into() }
    }

    pub(crate) fn missing(path: &Path, wanted: impl Into<String>) -> Self {
        Self::Missing { path: path.to_owned(), wanted: wanted.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Read { path: path.to_owned(), source }
    }
}
