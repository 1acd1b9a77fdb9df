//! `starling demo`: a whole federation on this machine, from nothing to a trained model.
//!
//! The processes are the ones that run in earnest, with their own configuration files, which stay in
//! the folder as examples.

mod decentralised;
mod folder;
mod plan;

use crate::{
    client::{Operator, Target},
    describe, events,
    exit::Failure,
    fleet::{self, Fleet},
    life, output, plot,
    progress::Board,
    run::{self, Seen},
    table,
};
use plan::{PartitionArg, Planned};
use proto::event::{Metrics, RunEvent};
use serde_json::json;
use std::{path::PathBuf, time::Instant};

/// Rounds that the table at the end shows at most.
const SHOWN: usize = 20;

/// Runs a whole federation of real processes on this machine, from nothing to a trained model.
///
/// Starts one coordinator and N workers, or N peers that need no coordinator, shows their progress, and leaves the model, its metrics, a plot
/// and the logs in a folder. Ctrl-C stops all of them. Without --data the workers share procedural digits, which need no file. JSON: one object at the end,
/// with run, data, model, algorithm, workers, rounds, accuracy, loss, seconds, bytes_down, bytes_up,
/// model_digest, and the paths model_file, metrics_file, plot_file, logs.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags are booleans")]
pub(crate) struct Args {
    /// Who brings the models together
    #[arg(long, value_enum, default_value_t = ModeArg::Federated)]
    pub(crate) mode: ModeArg,
    /// Worker processes, or peers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: u16,
    /// Rounds [default: depends on the data]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: Option<u64>,
    /// A folder or file with MNIST, CIFAR-10, CIFAR-100, images, a table (.csv) or a text
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Procedural digits to train on
    #[arg(long, value_name = "N", default_value_t = 10_000, conflicts_with = "data",
          value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) examples: u32,
    /// linear, mlp, lenet, cnn, resnet18-gn, char-lstm or char-gpt [default: depends on the data]
    #[arg(long, value_name = "KIND")]
    pub(crate) model: Option<String>,
    /// fedavg, fedprox, scaffold and others; with --mode decentralised sgp, dfedavg, dfedsam and others
    /// [default: fedavg, or sgp]
    #[arg(long, value_name = "KIND")]
    pub(crate) algorithm: Option<String>,
    /// With --mode decentralised: who talks to whom, see `starling topology list` [default: an exponential
    /// graph, or base-graph where that must be undirected]
    #[arg(long, value_name = "KIND")]
    pub(crate) topology: Option<String>,
    /// Divides the classes among workers by a Dirichlet distribution; small is heterogeneous
    #[arg(long, value_name = "A", conflicts_with = "partition")]
    pub(crate) alpha: Option<f64>,
    /// How the data is divided among the workers: iid, natural, dirichlet:ALPHA, pathological:CLASSES or
    /// size:EXPONENT [default: dirichlet:0.5, natural for text]
    #[arg(long, value_name = "KIND")]
    pub(crate) partition: Option<PartitionArg>,
    /// Passes over a worker's data in a round
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) epochs: Option<u32>,
    /// Learning rate
    #[arg(long)]
    pub(crate) lr: Option<f32>,
    /// Examples in a mini-batch
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Everything random derives from it: equal seeds, equal models
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Folder for everything that is written; one that an earlier demo made is used again
    #[arg(long, value_name = "DIR", default_value = "starling-demo")]
    pub(crate) out: PathBuf,
    /// Prints JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the aggregation happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ModeArg {
    /// A coordinator aggregates
    Federated,
    /// Peers mix with their neighbours, without a coordinator
    Decentralised,
}

/// What a finished demo has to show.
struct Trained {
    run: String,
    metrics: Vec<Metrics>,
    exported: serde_json::Value,
    seconds: f64,
}

/// Runs the demo.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    if args.mode == ModeArg::Federated && args.topology.is_some() {
        return Err(Failure::usage("--topology belongs to --mode decentralised"));
    }
    let planned = plan::plan(args)?;
    let folder = folder::Folder::open(&args.out)?;
    if args.mode == ModeArg::Decentralised {
        return decentralised::main(args, &planned, &folder);
    }
    life::runtime()?.block_on(demo(args, &planned, &folder))
}

async fn demo(args: &Args, planned: &Planned, folder: &folder::Folder) -> Result<(), Failure> {
    let spec = planned.to_toml()?;
    output::write_file(&folder.path("run.toml"), true, &[spec.as_bytes()])?;
    let plan = fleet::Plan {
        folder: folder.root().to_owned(),
        workers: usize::from(args.workers),
        data: planned.data.clone(),
        tls: true,
    };
    if !args.json {
        output::line(planned.describe(args.workers))?;
    }
    let mut fleet = life::interruptible(Fleet::start(&plan)).await?;
    let trained = life::interruptible(train(args, &mut fleet, spec, folder)).await;
    let stopped = fleet.stop().await;
    let trained = trained?;
    stopped?;
    report(args, planned, &trained, folder)
}

/// Submits the run, watches it to its end, and takes its results away.
async fn train(
    args: &Args,
    fleet: &mut Fleet,
    spec: String,
    folder: &folder::Folder,
) -> Result<Trained, Failure> {
    let started = Instant::now();
    let mut operator = Operator::connect(fleet.target()).await?;
    let run = operator.submit(spec).await?;
    let mut board = Board::new(run.rounds, 0, !args.json);
    if !args.json {
        let Target { coordinator, identity, .. } = fleet.target();
        let identity = identity.as_ref().map(|file| format!(" --identity {}", file.display()));
        let asks = format!(
            "starling run show {} --coordinator {coordinator}{}",
            run.id,
            identity.unwrap_or_default()
        );
        board.note(&format!("ask from another terminal: {asks}"));
    }
    let mut metrics = Vec::new();
    let each = |seen: Seen<'_>| {
        let Seen::Event(logged) = seen else { return Ok(()) };
        if let Some(RunEvent::RoundMetrics { metrics: line }) = &logged.event {
            metrics.push(line.clone());
        }
        let Some(event) = &logged.event else { return Ok(()) };
        board.event(event);
        if args.json || events::is_routine(event) { Ok(()) } else { board.line(&logged.line()) }
    };
    let ended = fleet.follow(&run.id, each).await;
    board.finish();
    run::verdict(&run.id, &ended?)?;
    let seconds = started.elapsed().as_secs_f64();
    let model = folder.path("model.safetensors");
    let wanted = run::Wanted { run: &run.id, average: None };
    let exported = run::export(&mut operator, wanted, &model, true).await?.json(&model);
    let lines: Vec<String> = metrics.iter().map(|line| json!(line).to_string() + "\n").collect();
    output::write_file(&folder.path("metrics.jsonl"), true, &[lines.concat().as_bytes()])?;
    output::write_file(&folder.path("plot.svg"), true, &[plot::svg(&run.id, &metrics)?.as_bytes()])?;
    Ok(Trained { run: run.id, metrics, exported, seconds })
}

fn report(args: &Args, planned: &Planned, trained: &Trained, folder: &folder::Folder) -> Result<(), Failure> {
    let last = trained.metrics.last();
    let (accuracy, loss) = (last.and_then(|line| line.eval_accuracy), last.and_then(|line| line.eval_loss));
    let sum = |part: fn(&Metrics) -> u64| trained.metrics.iter().map(part).sum::<u64>();
    let (down, up) = (sum(|line| line.bytes_down), sum(|line| line.bytes_up));
    let rounds = trained.metrics.len();
    if args.json {
        return output::line(json!({
            "run": trained.run, "data": planned.data.0, "model": planned.model_kind(),
            "algorithm": planned.spec.algorithm.kind, "workers": args.workers, "rounds": rounds,
            "accuracy": accuracy, "loss": loss, "seconds": trained.seconds, "bytes_down": down,
            "bytes_up": up, "model_digest": trained.exported["digest"],
            "model_file": folder.path("model.safetensors"), "metrics_file": folder.path("metrics.jsonl"),
            "plot_file": folder.path("plot.svg"), "logs": folder.path("logs"),
        }));
    }
    let path = |name: &str| folder.path(name).display().to_string();
    let shown = &trained.metrics[rounds.saturating_sub(SHOWN)..];
    output::line(format!("\n{}\n", describe::metrics_table(shown)))?;
    let pairs = [
        ("accuracy", table::or_dash(accuracy, table::percent)),
        ("loss", table::or_dash(loss, |loss| format!("{loss:.4}"))),
        ("time", format!("{:.1} s", trained.seconds)),
        ("traffic", format!("{} down, {} up", table::bytes(down), table::bytes(up))),
        ("model", path("model.safetensors")),
        ("metrics", path("metrics.jsonl")),
        ("plot", path("plot.svg")),
        ("logs", path("logs")),
    ];
    output::line(table::pairs(&pairs))
}
