//! What an operator sets, with the reason for each default.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The coordinator's own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where runs, events and models are kept.
    pub data_dir: PathBuf,
    /// Large uploads of one run that are received at the same time; each holds one payload in memory.
    /// Two keep the network busy while one is folded; more only cost memory.
    pub uploads_in_flight: usize,
    /// Small uploads may share so many MiB per run, so that thousands of small models do not queue.
    pub upload_memory_mib: usize,
    /// Workers that may be connected.
    pub workers_max: usize,
    /// Runs that may be active at the same time.
    pub runs_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("starling-data"),
            uploads_in_flight: 2,
            upload_memory_mib: 16,
            workers_max: 10_000,
            runs_max: 64,
        }
    }
}

impl Config {
    /// Uploads of `bytes` each that one run may receive at the same time.
    pub fn upload_slots(&self, bytes: u64) -> usize {
        let fit = (self.upload_memory_mib as u64 * 1024 * 1024) / bytes.max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(self.uploads_in_flight.max(1), 256)
    }
}
