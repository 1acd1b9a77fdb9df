//! A point without a coordinator: simulated peers, and what they leave behind.

use super::{
    point::{SUMMARY, failure},
    sweep::Point,
};
use crate::{exit::Failure, output, plot, process, progress::Board, table};
use proto::event::{Metrics, RunEvent};
use serde_json::{Value, json};
use simulation::{
    peers::{self, Line, Notice, Outcome},
    training::Setup,
};
use std::time::Instant;

/// Runs it; gives its summary.
pub(super) fn run(point: &Point, setup: &Setup, quiet: bool) -> Result<Value, Failure> {
    let began = Instant::now();
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
        Notice::Round(line) => board.event(&RunEvent::RoundMetrics { metrics: line.metrics.clone() }),
    };
    let done = peers::run(setup, &mut watch);
    board.finish();
    let outcome = done.map_err(|error| failure(&error))?;
    results(point, setup, &outcome, (began.elapsed().as_secs_f64(), resumed))
}

fn results(
    point: &Point,
    setup: &Setup,
    outcome: &Outcome,
    (seconds, resumed): (f64, u64),
) -> Result<Value, Failure> {
    let path = |name: &str| setup.folder.join(name);
    let spec = toml::to_string(&point.spec).map_err(Failure::internal)?;
    output::write_file(&path("run.toml"), true, &[spec.as_bytes()])?;
    output::write_file(&path("model.safetensors"), true, &[&outcome.model])?;
    let metrics: Vec<Metrics> = outcome.lines.iter().map(|line| line.metrics.clone()).collect();
    let title = if point.name.is_empty() { &point.spec.name } else { &point.name };
    // A run of a bare vector has nothing to draw.
    let plot = plot::svg(title, &metrics).ok();
    if let Some(plot) = &plot {
        output::write_file(&path("plot.svg"), true, &[plot.as_bytes()])?;
    }
    let last = outcome.lines.last();
    let judged = outcome.lines.iter().rev().find(|line| line.metrics.eval_accuracy.is_some());
    let of = |value: fn(&Line) -> Option<f64>| judged.and_then(value);
    let accuracies = || metrics.iter().filter_map(|line| line.eval_accuracy);
    let summary = json!({
        "point": point.name, "name": point.spec.name, "algorithm": point.spec.algorithm.kind,
        "topology": outcome.topology, "clients": point.clients, "seed": point.spec.seed, "rounds": metrics.len(),
        "accuracy": of(|line| line.metrics.eval_accuracy), "best_accuracy": accuracies().reduce(f64::max),
        "loss": of(|line| line.metrics.eval_loss), "worst_accuracy": of(|line| line.worst_accuracy),
        "consensus_accuracy": of(|line| line.consensus_accuracy), "consensus_loss": of(|line| line.consensus_loss),
        "consensus_distance": last.and_then(|line| line.consensus_distance),
        "consensus_predicted": last.and_then(|line| line.consensus_predicted),
        "mass": last.map(|line| line.mass), "peers": outcome.peers,
        "bytes_down": 0, "bytes_up": metrics.iter().map(|line| line.bytes_up).sum::<u64>(),
        "parameters": outcome.parameters, "model_digest": outcome.digest, "seconds": seconds, "resumed": resumed,
        "peak_bytes": process::peak_memory(std::process::id()), "model_file": path("model.safetensors"),
        "metrics_file": path("metrics.jsonl"), "plot_file": plot.map(|_| path("plot.svg")),
    });
    output::write_file(&path(SUMMARY), true, &[format!("{summary:#}\n").as_bytes()])?;
    Ok(summary)
}

/// For people.
pub(super) fn told(summary: &Value, peers: usize, seconds: f64) -> String {
    let percent = |key: &str| table::or_dash(summary[key].as_f64(), table::percent);
    let number = |key: &str| table::or_dash(summary[key].as_f64(), |v| format!("{v:.4e}"));
    let bytes = |key: &str| table::bytes(summary[key].as_u64().unwrap_or(0));
    let text = |key: &str| summary[key].as_str().unwrap_or("–").to_owned();
    let pairs = [
        (
            "accuracy",
            format!(
                "{} on average over {peers} peers, {} for the worst",
                percent("accuracy"),
                percent("worst_accuracy")
            ),
        ),
        ("consensus model", percent("consensus_accuracy")),
        (
            "consensus distance",
            format!("{} (predicted: {})", number("consensus_distance"), number("consensus_predicted")),
        ),
        ("mass", table::or_dash(summary["mass"].as_f64(), |mass| mass.to_string())),
        ("traffic", format!("{} sent by all (virtual)", bytes("bytes_up"))),
        ("time", format!("{seconds:.1} s, memory at most {}", bytes("peak_bytes"))),
        ("digest", text("model_digest")),
        ("model", text("model_file")),
        ("metrics", text("metrics_file")),
        ("plot", text("plot_file")),
    ];
    table::pairs(&pairs)
}
