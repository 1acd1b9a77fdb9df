//! `starling simulate`: hundreds to a hundred thousand virtual clients in this process, one run or a
//! sweep, with the machines and the engine that daemons have.

mod data;
mod peers;
mod point;
mod points;
mod settings;
mod sweep;

pub(crate) use data::{DataArg, Library};

use crate::{
    compare,
    exit::{Code, Failure},
    output, table,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use sweep::{Point, Seeds, Set, Sweep};
use worker::engine::cuda::{Choice, Placement, Precision};

/// Trains with virtual clients in this process; sweeps over settings and seeds.
///
/// FILE is a run file (deploy/samples/run.toml explains its keys) that may also have [simulation] with
/// `clients` and `seeds`, and [sweep] with a list of values for each key path to be varied, and `settings`, a list
/// of tables that are laid over the file (with a `label`). Every setting is run with its first seed before any
/// is run with another. Results are the
/// same bytes on any number of threads, and those of a real federation with workers called worker-1, worker-2,
/// …, the same seed, cohort and shares (private runs: but for their noise, which is secret). What was
/// interrupted goes on when the same command is given again; finished points of a sweep are skipped. With
/// `mode = "decentralised"` the clients are the peers of `[topology]`, with the models of real ones that wait for
/// each other; accuracy is then the mean over the peers' own models. JSON: one object a line for each point, as in
/// its summary.json.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run file (TOML)
    file: PathBuf,
    /// Sets a key path, e.g. local.lr=0.1; several values, e.g. algorithm.kind=fedavg,scaffold, make a sweep
    #[arg(long = "set", value_name = "KEY=VALUE,…")]
    sets: Vec<Set>,
    /// Seeds: 0..3 (0, 1 and 2) or 0,4,7; several make a sweep
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<Seeds>,
    /// Virtual clients [default: `clients` of [simulation]]
    #[arg(long, alias = "workers", value_name = "N")]
    clients: Option<usize>,
    /// A folder or file with the data, or NAME=PATH for each data set of a sweep; digits need none
    #[arg(long, value_name = "PATH")]
    data: Vec<DataArg>,
    /// Procedural digits to train on
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    examples: u32,
    /// Clients that run side by side; 0: one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Where clients train: auto (a GPU where one can be used, else the CPU), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    device: Choice,
    /// On a GPU, what products are computed in: f32, tf32 or bf16
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,
    /// Points of a sweep that run side by side, each on an equal part of the threads; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Stops after so many seconds, between two rounds (exit code 75); the same command goes on from there
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    /// Folder for what is written; a sweep has a folder in it for each point
    #[arg(long, value_name = "DIR", default_value = "starling-simulation")]
    out: PathBuf,
    /// Least seconds between two checkpoints, from which an interrupted simulation goes on; 0: every round
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    checkpoint: u64,
    /// Client state that may stay in memory, in MB; the rest is kept in files
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    state_memory: u64,
    /// For tests: the noise of private runs follows from the seed, so that it protects nobody
    #[arg(long)]
    reproducible_noise: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.threads == 0 { cores() } else { self.threads }
    }

    /// Where a point is written.
    fn folder(&self, points: &[Point], at: usize) -> PathBuf {
        if points.len() > 1 { self.out.join(&points[at].name) } else { self.out.clone() }
    }
}

/// Runs every point.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let text = output::read_text(&args.file)?;
    let sweep = Sweep::read(&text, &args.sets, args.seeds.as_ref(), args.clients)
        .map_err(|problem| Failure::usage(format!("{}: {problem}", args.file.display())))?;
    let placement = Placement::open(args.device, args.precision)
        .map_err(|reason| Failure::new(Code::NotFound, format!("--device {}: {reason}", args.device)))?;
    if let Some(device) = placement.label().filter(|_| !args.json) {
        output::note(format!("clients train on {device}"));
    }
    let many = sweep.points.len() > 1;
    let outcome = points::run(&sweep, (args, &placement), &mut |summary| report(summary, args.json, many))?;
    let done = outcome.folders.len();
    if many && done > 0 {
        let compared = compare::Comparison::read(&outcome.folders)?;
        let plot = args.out.join("comparison.svg");
        // Runs that are not evaluated have nothing to draw.
        let drawn =
            compared.draw(&plot, compare::What::HeldOut, None).map(|()| format!("\n\n{}", plot.display()));
        if !args.json {
            output::line(format!("\n{}{}", compared.table(None, 1), drawn.unwrap_or_default()))?;
        }
    }
    if outcome.left == 0 {
        return Ok(());
    }
    let total = sweep.points.len();
    let (code, why) = match outcome.interrupted {
        Some(signal) => (Code::Interrupted, signal),
        None => (Code::Unfinished, "time is up"),
    };
    let text = format!("{why}: {done} of {total} points are finished; give the same command to go on");
    Err(Failure::new(code, text))
}

fn report(summary: &Value, json: bool, many: bool) -> Result<(), Failure> {
    if json {
        return output::line(summary);
    }
    let percent = |key: &str| table::or_dash(summary[key].as_f64(), table::percent);
    let seconds = summary["seconds"].as_f64().unwrap_or(0.0);
    if let (false, Some(peers)) = (many, summary["peers"].as_array()) {
        return output::line(peers::told(summary, peers.len(), seconds));
    }
    if many {
        let note = if summary["resumed"] == json!("finished") { "finished before" } else { "" };
        return output::line(format!(
            "{}  accuracy {}  {seconds:.1} s  {note}",
            summary["point"].as_str().unwrap_or_default(),
            percent("accuracy")
        ));
    }
    let number = |key: &str| table::or_dash(summary[key].as_f64(), |v| format!("{v:.4}"));
    let bytes = |key: &str| table::bytes(summary[key].as_u64().unwrap_or(0));
    let text = |key: &str| summary[key].as_str().unwrap_or("–").to_owned();
    let pairs = [
        ("accuracy", percent("accuracy")),
        ("best accuracy", percent("best_accuracy")),
        ("loss", number("loss")),
        (
            "calibration error",
            format!("{} (95 %: {} to {})", number("ece"), number("ece_low"), number("ece_high")),
        ),
        (
            "clients",
            format!(
                "{} on average, {} for the worst tenth",
                percent("client_accuracy"),
                percent("client_accuracy_worst_decile")
            ),
        ),
        ("epsilon", number("epsilon")),
        ("traffic", format!("{} down, {} up (virtual)", bytes("bytes_down"), bytes("bytes_up"))),
        ("time", format!("{seconds:.1} s, memory at most {}", bytes("peak_bytes"))),
        ("digest", text("model_digest")),
        ("model", text("model_file")),
        ("metrics", text("metrics_file")),
        ("plot", text("plot_file")),
    ];
    output::line(table::pairs(&pairs))
}
