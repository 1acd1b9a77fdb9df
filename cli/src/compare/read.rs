//! Finds runs in folders and reads what they wrote.

use crate::{
    exit::{Code, Failure},
    output,
};
use proto::{event::Metrics, spec::RunSpec};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Folders within folders are looked into so deep.
const DEPTH: usize = 4;

/// A run that wrote its metrics.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) folder: PathBuf,
    /// Run file and number of clients, without name and seed: equal for runs that are compared as one.
    pub(super) settings: Value,
    pub(super) seed: u64,
    pub(super) lines: Vec<Metrics>,
}

/// Every run in the folders, in the order of the folders' names.
pub(super) fn runs(folders: &[PathBuf]) -> Result<Vec<Run>, Failure> {
    let mut found = Vec::new();
    for folder in folders {
        let before = found.len();
        search(folder, DEPTH, &mut found)?;
        if found.len() == before {
            let text = format!("{}: no finished run in it (metrics.jsonl and run.toml)", folder.display());
            return Err(Failure::new(Code::NotFound, text));
        }
    }
    Ok(found)
}

fn search(folder: &Path, depth: usize, found: &mut Vec<Run>) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(Code::NotFound, format!("{}: {error}", folder.display()));
    if folder.join("metrics.jsonl").is_file() && folder.join("run.toml").is_file() {
        found.push(read(folder)?);
        return Ok(());
    }
    let mut inner = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        inner.push(entry.map_err(cannot)?.path());
    }
    inner.sort();
    for path in inner.into_iter().filter(|path| depth > 0 && path.is_dir()) {
        search(&path, depth - 1, found)?;
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Run, Failure> {
    let damaged = |file: &str, error: &dyn std::fmt::Display| {
        Failure::new(Code::Data, format!("{}: {error}", folder.join(file).display()))
    };
    let spec = RunSpec::from_toml(&output::read_text(&folder.join("run.toml"))?)
        .map_err(|error| damaged("run.toml", &error))?;
    let lines = output::read_text(&folder.join("metrics.jsonl"))?;
    let lines: Vec<Metrics> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|error| damaged("metrics.jsonl", &error))?;
    let seed = spec.seed;
    let mut settings = serde_json::to_value(&spec).map_err(Failure::internal)?;
    if let Some(settings) = settings.as_object_mut() {
        settings.remove("name");
        settings.remove("seed");
        let point = output::read_text(&folder.join("point.json")).ok();
        let point: Option<Value> = point.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(point) = point {
            settings.insert("clients".into(), point["clients"].clone());
        }
    }
    Ok(Run { folder: folder.to_owned(), settings, seed, lines })
}
