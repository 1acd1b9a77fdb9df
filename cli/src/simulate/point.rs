//! One point: its folder, its run, its results.

use super::{peers, sweep::Point};
use crate::{
    events,
    exit::{Code, Failure},
    output, plot, process,
    progress::Board,
};
use proto::{
    event::{Metrics, RunEvent},
    spec::Mode,
};
use serde_json::{Value, json};
use simulation::training::{self, Line, Notice, Outcome, Setup, SimulationError, Stop};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use worker::{data::Dataset, engine::cuda::Placement};

/// How points are run; changes no result.
#[derive(Debug, Clone)]
pub(super) struct How {
    pub(super) threads: usize,
    pub(super) placement: Placement,
    pub(super) checkpoint: Duration,
    pub(super) memory: u64,
    pub(super) quiet: bool,
    pub(super) reproducible_noise: bool,
    pub(super) stop: Stop,
}

/// Says which simulation a folder belongs to.
const POINT: &str = "point.json";
/// Written last: the point is finished.
pub(super) const SUMMARY: &str = "summary.json";

/// Runs a point, or what is missing of it; gives its summary.
pub(super) fn run(
    point: &Point,
    folder: &Path,
    (train, test): (Dataset, Dataset),
    how: &How,
) -> Result<Value, Failure> {
    let mut identity = json!({
        "point": point.name, "spec": point.spec, "clients": point.clients, "examples": train.len(),
    });
    if let Some(device) = how.placement.label() {
        identity["device"] = json!(device);
    }
    if let Some(summary) = claim(folder, &identity)? {
        return Ok(summary);
    }
    let setup = Setup {
        spec: point.spec.clone(),
        clients: point.clients,
        train,
        test: Some(test),
        threads: how.threads,
        folder: folder.to_owned(),
        placement: how.placement.clone(),
        checkpoint: how.checkpoint,
        memory: how.memory,
        reproducible_noise: how.reproducible_noise,
        stop: how.stop.clone(),
    };
    let began = Instant::now();
    if point.spec.mode == Mode::Decentralised {
        return peers::run(point, &setup, how.quiet);
    }
    let (outcome, resumed) = train_it(&setup, how.quiet)?;
    let seconds = began.elapsed().as_secs_f64();
    results(point, folder, &outcome, (seconds, resumed))
}

/// Makes the folder this simulation's, or finds that it is; gives the summary of a finished one.
fn claim(folder: &Path, identity: &Value) -> Result<Option<Value>, Failure> {
    let refuse =
        |why: &str| Failure::new(Code::Create, format!("{}: {why}; choose another --out", folder.display()));
    let cannot = |error: std::io::Error| refuse(&error.to_string());
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let file = folder.join(POINT);
    let damaged =
        |error: serde_json::Error| Failure::new(Code::Data, format!("{}: {error}", folder.display()));
    if !file.exists() {
        if std::fs::read_dir(folder).map_err(cannot)?.next().is_some() {
            return Err(refuse("not empty, and not made by a simulation"));
        }
        output::write_file(&file, true, &[format!("{identity:#}\n").as_bytes()])?;
        return Ok(None);
    }
    let known: Value = serde_json::from_str(&output::read_text(&file)?).map_err(damaged)?;
    if known != *identity {
        return Err(refuse("holds a simulation with other settings or other data"));
    }
    let summary = folder.join(SUMMARY);
    if !summary.exists() {
        return Ok(None);
    }
    let mut summary: Value = serde_json::from_str(&output::read_text(&summary)?).map_err(damaged)?;
    summary["resumed"] = json!("finished");
    Ok(Some(summary))
}

fn train_it(setup: &Setup, quiet: bool) -> Result<(Outcome, u64), Failure> {
    let mut board = Board::new(setup.spec.rounds, 0, !quiet);
    let mut resumed = 0;
    let mut watch = |notice: Notice<'_>| match notice {
        Notice::Started { rounds: 0 } => {}
        Notice::Started { rounds } => {
            resumed = rounds;
            board.resume(rounds);
            if !quiet {
                board.note(&format!("goes on after {rounds} rounds"));
            }
        }
        Notice::Event(event) => {
            board.event(event);
            let telling = matches!(
                event,
                RunEvent::UpdateRejected { .. }
                    | RunEvent::WorkerDeclined { .. }
                    | RunEvent::Late { .. }
                    | RunEvent::Quarantined { .. }
            );
            if telling && !quiet {
                board.note(&events::line(event));
            }
        }
        Notice::Round(line) => board.event(&RunEvent::RoundMetrics { metrics: line.metrics.clone() }),
    };
    let done = training::run(setup, &mut watch);
    board.finish();
    let outcome = done.map_err(|error| failure(&error))?;
    Ok((outcome, resumed))
}

pub(super) fn failure(error: &SimulationError) -> Failure {
    let code = match error {
        SimulationError::Setup(_) => Code::Usage,
        SimulationError::File { .. } | SimulationError::Store(_) => Code::Create,
        SimulationError::Failed(_) => Code::Failed,
        SimulationError::Stopped { .. } => Code::Unfinished,
    };
    Failure::new(code, error)
}

fn results(
    point: &Point,
    folder: &Path,
    outcome: &Outcome,
    (seconds, resumed): (f64, u64),
) -> Result<Value, Failure> {
    let path = |name: &str| folder.join(name);
    let spec = toml::to_string(&point.spec).map_err(Failure::internal)?;
    output::write_file(&path("run.toml"), true, &[spec.as_bytes()])?;
    output::write_file(&path("model.safetensors"), true, &[&outcome.model])?;
    let mut averages = serde_json::Map::new();
    let last_scores = outcome.lines.last().map(|line| &line.metrics.averages);
    for (name, file) in &outcome.averages {
        let to = path(&format!("model-{name}.safetensors"));
        output::write_file(&to, true, &[file])?;
        let scores = last_scores.and_then(|scores| scores.get(name)).copied().unwrap_or_default();
        let found = json!({"accuracy": scores.eval_accuracy, "loss": scores.eval_loss, "model_file": to});
        averages.insert(name.clone(), found);
    }
    let metrics: Vec<Metrics> = outcome.lines.iter().map(|line| line.metrics.clone()).collect();
    let title = if point.name.is_empty() { &point.spec.name } else { &point.name };
    // A run of a bare vector has nothing to draw.
    let plot = plot::svg(title, &metrics).ok();
    if let Some(plot) = &plot {
        output::write_file(&path("plot.svg"), true, &[plot.as_bytes()])?;
    }
    let sum = |part: fn(&Metrics) -> u64| metrics.iter().map(part).sum::<u64>();
    let accuracies = || metrics.iter().filter_map(|line| line.eval_accuracy);
    let last = outcome.lines.iter().rev().find(|line| line.metrics.eval_accuracy.is_some());
    let of = |value: fn(&Line) -> Option<f64>| last.and_then(value);
    let summary = json!({
        "point": point.name, "name": point.spec.name, "algorithm": point.spec.algorithm.kind,
        "clients": point.clients, "seed": point.spec.seed, "rounds": metrics.len(),
        "accuracy": of(|line| line.metrics.eval_accuracy), "best_accuracy": accuracies().reduce(f64::max),
        "loss": of(|line| line.metrics.eval_loss), "epsilon": metrics.last().and_then(|line| line.epsilon),
        "ece": of(|line| line.ece), "ece_low": of(|line| line.ece_low), "ece_high": of(|line| line.ece_high),
        "client_accuracy": of(|line| line.client_accuracy),
        "client_accuracy_worst_decile": of(|line| line.client_accuracy_worst_decile),
        "client_accuracy_variance": of(|line| line.client_accuracy_variance),
        "client_scores": outcome.lines.iter().rev().find_map(|line| line.metrics.clients.clone()),
        "averages": averages, "evaluation": outcome.evaluation, "bytes_down": sum(|line| line.bytes_down),
        "bytes_up": sum(|line| line.bytes_up), "parameters": outcome.parameters,
        "model_digest": outcome.digest, "seconds": seconds, "resumed": resumed,
        "peak_bytes": process::peak_memory(std::process::id()), "model_file": path("model.safetensors"),
        "metrics_file": path("metrics.jsonl"), "plot_file": plot.map(|_| path("plot.svg")),
    });
    output::write_file(&path(SUMMARY), true, &[format!("{summary:#}\n").as_bytes()])?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_simulation() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a");
        let (one, other) = (json!({"spec": 1}), json!({"spec": 2}));
        assert_eq!(claim(&folder, &one).unwrap(), None);
        assert_eq!(claim(&folder, &one).unwrap(), None, "interrupted");
        assert!(claim(&folder, &other).unwrap_err().message.contains("other settings"));
        std::fs::write(folder.join(SUMMARY), "{\"accuracy\": 1}").unwrap();
        assert_eq!(claim(&folder, &one).unwrap().unwrap()["accuracy"], json!(1));
        let strange = parent.path().join("b");
        std::fs::create_dir(&strange).unwrap();
        std::fs::write(strange.join("thesis.tex"), "x").unwrap();
        assert!(claim(&strange, &one).unwrap_err().message.contains("not empty"));
    }
}
