//! What reached a peer of a private run: whose vectors, of which mixing step, and when. From these lines of
//! all peers, and from their ledgers, follows afterwards what each of them can have learned about each other
//! (`starling privacy pairwise --peers`). A line is written before the vector is used.
//!
//! Nothing in it depends on the data.

use crate::WorkerError;
use gossip::machine::{Barrier, Body, Envelope, Machine, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The file's name in a peer's state directory.
pub const SEEN: &str = "seen.jsonl";

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
pub enum Seen {
    /// The peer has started.
    Started {
        /// Its name.
        peer: String,
        /// The run.
        run: String,
        /// The directory whose ledgers pay for its changes.
        ledgers: PathBuf,
    },
    /// A vector has arrived.
    Vector {
        /// Whose: the id of its name; `None`: of somebody who sponsored this peer.
        from: Option<u64>,
        /// The mixing step of the sender; `None`: whatever it had.
        step: Option<u64>,
        /// The mixing step of this peer.
        at: u64,
    },
}

/// The file, open.
#[derive(Debug)]
pub(super) struct Diary {
    file: File,
    path: PathBuf,
    /// Whether an answer is of the step in which it arrives.
    in_step: bool,
}

impl Diary {
    /// Goes on with the file of a state directory.
    pub(super) fn open(path: PathBuf, started: &Seen, barrier: Barrier) -> Result<Self, WorkerError> {
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.map_err(|error| unusable(&path, &error))?;
        let mut diary = Self { file, path, in_step: barrier == Barrier::Synchronous };
        diary.note(started)?;
        Ok(diary)
    }

    /// Writes a line.
    fn note(&mut self, seen: &Seen) -> Result<(), WorkerError> {
        let mut line =
            serde_json::to_string(seen).map_err(|error| WorkerError::Internal(error.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| unusable(&self.path, &error))
    }

    /// Writes that a sponsor's model was taken in that mixing step.
    pub(super) fn sponsored(&mut self, at: u64) -> Result<(), WorkerError> {
        self.note(&Seen::Vector { from: None, step: None, at })
    }

    /// Writes what a message brings, if it brings a vector.
    pub(super) fn heard(
        &mut self,
        envelope: &Envelope<f32>,
        machine: &Machine<f32>,
    ) -> Result<(), WorkerError> {
        let at = machine.round();
        let step = match &envelope.body {
            Body::Transfer(transfer) => Some(transfer.round),
            Body::Verdict { verdict: Verdict::Answered(_), .. } => Some(at).filter(|_| self.in_step),
            _ => return Ok(()),
        };
        self.note(&Seen::Vector { from: Some(envelope.from.id), step, at })
    }
}

fn unusable(path: &Path, error: &io::Error) -> WorkerError {
    WorkerError::StateDir { path: path.to_owned(), problem: error.to_string() }
}
