//! Finds runs in folders and reads what they wrote.

use super::theory::Theory;
use crate::{
    exit::{Code, Failure},
    output,
};
use proto::{
    event::Metrics,
    spec::{Mode, RunSpec},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Folders within folders are looked into so deep.
const DEPTH: usize = 4;

/// A run that wrote its metrics.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) folder: PathBuf,
    /// Run file and number of clients, without name and seed: equal for runs that are compared as one.
    pub(super) settings: Value,
    pub(super) seed: u64,
    /// What the sweep that it belongs to calls its settings, whatever the seed, where somebody named them.
    pub(super) name: Option<String>,
    pub(super) lines: Vec<Line>,
    /// Without a coordinator.
    pub(super) theory: Option<Theory>,
}

/// A round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) round: u64,
    /// Of the model; without a coordinator the mean over the peers.
    pub(super) eval_accuracy: Option<f64>,
    /// That all who take part sent, the coordinator included.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Of the shared model on what clients hold out, and of their own models there.
    pub(super) federated_accuracy: Option<f64>,
    pub(super) personal_accuracy: Option<f64>,
}

impl From<Metrics> for Line {
    fn from(metrics: Metrics) -> Self {
        let personal = metrics.clients.as_ref().and_then(|clients| clients.personal.as_ref());
        Self {
            round: metrics.round,
            eval_accuracy: metrics.eval_accuracy,
            bytes: metrics.bytes_down + metrics.bytes_up,
            seconds: metrics.seconds,
            federated_accuracy: metrics.federated_accuracy,
            personal_accuracy: personal.map(|personal| personal.mean_accuracy),
        }
    }
}

/// What a peer writes, as far as it is compared.
#[derive(Debug, Deserialize)]
struct PeerLine {
    round: u64,
    eval_accuracy: Option<f64>,
    bytes_sent: u64,
    seconds: f64,
}

/// A round as all peers saw it.
#[derive(Debug, Default)]
struct Round {
    accuracies: Vec<f64>,
    bytes: u64,
    /// Of the slowest.
    seconds: f64,
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
    let alone = spec.mode == Mode::Decentralised;
    // Simulated peers have one file of lines, which are like a coordinator's.
    let simulated = folder.join("point.json").is_file();
    let lines = if alone && !simulated {
        peers(folder)?
    } else {
        metrics::<Metrics>(folder)?.map(Line::from).collect()
    };
    let seed = spec.seed;
    let mut name = None;
    let mut settings = serde_json::to_value(&spec).map_err(Failure::internal)?;
    if let Some(settings) = settings.as_object_mut() {
        settings.remove("name");
        settings.remove("seed");
        let point = output::read_text(&folder.join("point.json")).ok();
        let point: Option<Value> = point.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(point) = point {
            name = point["point"].as_str().and_then(named);
            settings.insert("clients".into(), point["clients"].clone());
        }
        if alone {
            // Nobody reads these, and one that is compared with a run that does must not seem to differ in them.
            settings.retain(|key, _| !["cohort", "vetting"].contains(&key.as_str()));
        }
    }
    Ok(Run { folder: folder.to_owned(), settings, seed, name, lines, theory: Theory::of(&spec) })
}

/// `fedavg,alpha=0.1,seed=3` is called `fedavg alpha=0.1`; what has no label of its own is called by what differs.
fn named(point: &str) -> Option<String> {
    let parts: Vec<&str> = point.split(',').filter(|part| !part.starts_with("seed=")).collect();
    parts.first().filter(|first| !first.is_empty() && !first.contains('=')).map(|_| parts.join(" "))
}

fn metrics<T: serde::de::DeserializeOwned>(folder: &Path) -> Result<std::vec::IntoIter<T>, Failure> {
    let file = folder.join("metrics.jsonl");
    let lines: Result<Vec<T>, _> = output::read_text(&file)?.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| Failure::new(Code::Data, format!("{}: {error}", file.display())))?;
    Ok(lines.into_iter())
}

/// The rounds of a run without a coordinator, from the folders of all its peers.
fn peers(folder: &Path) -> Result<Vec<Line>, Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(Code::NotFound, format!("{}: {error}", folder.display()));
    let mut rounds: BTreeMap<u64, Round> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if !path.join("metrics.jsonl").is_file() {
            continue;
        }
        for line in metrics::<PeerLine>(&path)? {
            let round = rounds.entry(line.round).or_default();
            round.accuracies.extend(line.eval_accuracy);
            round.bytes += line.bytes_sent;
            round.seconds = round.seconds.max(line.seconds);
        }
    }
    if rounds.is_empty() {
        let text = format!("{}: no peer's folder with a metrics.jsonl in it", folder.display());
        return Err(Failure::new(Code::NotFound, text));
    }
    let line = |(round, Round { accuracies, bytes, seconds }): (u64, Round)| {
        let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        let eval_accuracy = (!accuracies.is_empty()).then_some(mean);
        Line { round, eval_accuracy, bytes, seconds, federated_accuracy: None, personal_accuracy: None }
    };
    Ok(rounds.into_iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_called_by_its_label() {
        assert_eq!(named("fedavg,alpha=0.1,seed=3").as_deref(), Some("fedavg alpha=0.1"));
        assert_eq!(named("ring-16").as_deref(), Some("ring-16"));
        assert_eq!((named(""), named("seed=3"), named("algorithm=fedavg,seed=3")), (None, None, None));
    }
}
