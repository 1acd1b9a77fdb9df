//! `metrics.jsonl`, written line by line: whoever wants to may follow it. A simulation that goes on drops
//! the lines of rounds that it does again.

use super::SimulationError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// The file's name.
const METRICS: &str = "metrics.jsonl";

/// The lines so far.
#[derive(Debug)]
pub(crate) struct Metrics<L> {
    path: PathBuf,
    file: File,
    pub(crate) lines: Vec<L>,
}

impl<L: Serialize + DeserializeOwned> Metrics<L> {
    /// Opens the file of a folder; keeps the lines of the first `rounds` rounds.
    pub(crate) fn open(folder: &Path, rounds: u64) -> Result<Self, SimulationError> {
        let path = folder.join(METRICS);
        let old = if rounds > 0 { std::fs::read_to_string(&path) } else { Ok(String::new()) };
        let old = old.map_err(|error| SimulationError::file(&path, error))?;
        let kept: Vec<&str> = old.lines().take(rounds as usize).collect();
        let read = |line: &&str| serde_json::from_str(line);
        let lines: Vec<L> = kept
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|error| SimulationError::file(&path, error))?;
        if lines.len() as u64 != rounds {
            let text = format!("{} lines, but {rounds} rounds are committed", lines.len());
            return Err(SimulationError::file(&path, text));
        }
        let text: String = kept.iter().flat_map(|line| [*line, "\n"]).collect();
        // Beside its place, so that a death in this moment costs nothing.
        let beside = folder.join(".metrics.partial");
        let placed = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path));
        let opened = placed.and_then(|()| File::options().append(true).open(&path));
        let file = opened.map_err(|error| SimulationError::file(&path, error))?;
        Ok(Self { path, file, lines })
    }

    /// Adds a line.
    pub(crate) fn append(&mut self, line: L) -> Result<(), SimulationError> {
        let written = serde_json::to_string(&line)
            .map_err(std::io::Error::from)
            .and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()));
        written.map_err(|error| SimulationError::file(&self.path, error))?;
        self.lines.push(line);
        Ok(())
    }
}
