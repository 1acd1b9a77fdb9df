//! What many connected workers cost one coordinator process: memory while they are idle, processor time
//! of their heartbeats, and rounds in which all of them take part.

use super::crowd::Crowd;
use crate::{
    client::Operator,
    exit::{Code, Failure},
    fleet::{Fleet, Plan},
    life, output, process, run,
    run::Seen,
    table,
};
use proto::{event::RunEvent, limits};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use worker::data::Source;

/// All must be connected within this time.
const CONNECT: Duration = Duration::from_mins(5);
/// The coordinator is left alone for so long before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Open files of a worker in this process: two connections, its lock, and one for a moment.
const FILES_PER_WORKER: u64 = 4;
const FILES: u64 = 200;

/// Connects many workers to one coordinator and measures what they cost it.
///
/// The coordinator is a process of its own; the workers are real ones inside this process. JSON: one object with workers,
/// tls, connect_seconds (until all are connected), base_bytes (resident, nobody connected),
/// idle_bytes_per_worker, heartbeats, cpu_seconds_per_1000_heartbeats, parameters, rounds,
/// round_seconds_median, round_seconds_max, round_cpu_seconds, after_bytes_per_worker (idle again, with a
/// second connection each for vectors), peak_bytes, open_files, available_bytes (memory of the machine).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Workers
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    workers: u32,
    /// Scalars of the model
    #[arg(long, value_name = "P", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    parameters: u32,
    /// Rounds with all of them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of heartbeats alone
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    idle_s: u32,
    /// Encrypts, and everybody has a certificate
    #[arg(long)]
    tls: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What was measured of the coordinator.
#[derive(Debug, Default)]
struct Measured {
    connect: f64,
    base: u64,
    idle: u64,
    idle_cpu: f64,
    idle_seconds: f64,
    rounds: Vec<f64>,
    rounds_cpu: f64,
    after: u64,
    peak: u64,
    files: usize,
}

/// Measures and prints.
pub(crate) async fn measure(args: &Args) -> Result<(), Failure> {
    let needed = u64::from(args.workers) * FILES_PER_WORKER + FILES;
    let allowed = life::raise_file_limit();
    if allowed < needed {
        let text = format!(
            "{} workers need about {needed} open files, but a process may have {allowed}: raise the hard limit \
             (`ulimit -Hn`) or choose fewer --workers",
            args.workers
        );
        return Err(Failure::new(Code::Failed, text));
    }
    let folder = tempfile::Builder::new().prefix("starling-bench-").tempdir();
    let folder = folder.map_err(|error| Failure::new(Code::Create, format!("temporary folder: {error}")))?;
    let data = ("bench".to_owned(), Source::Digits { train: 10, test: 10, seed: 0 });
    let plan = Plan { folder: folder.path().to_owned(), workers: 0, data, tls: args.tls };
    let mut fleet = life::interruptible(Fleet::start(&plan)).await?;
    let mut crowd = Crowd::new(&plan, fleet.target())?;
    let measured = life::interruptible(one(args, &mut fleet, &mut crowd)).await;
    let left = crowd.leave().await;
    let stopped = fleet.stop().await;
    let measured = measured?;
    left?;
    stopped?;
    print(args, measured)
}

async fn one(args: &Args, fleet: &mut Fleet, crowd: &mut Crowd) -> Result<Measured, Failure> {
    let id = fleet.ids().0.ok_or_else(|| Failure::internal("the coordinator is gone"))?;
    let resident = || process::resident_memory(id).ok_or_else(|| Failure::internal("no /proc"));
    let cpu = || process::cpu_seconds(id).ok_or_else(|| Failure::internal("no /proc"));
    let mut operator = Operator::connect(fleet.target()).await?;
    operator.runs().await?;
    sleep(SETTLE).await;
    let mut measured = Measured { base: resident()?, ..Measured::default() };
    let began = Instant::now();
    for number in 0..args.workers {
        crowd.add(&format!("w{number}"))?;
    }
    let connected = all_connected(&mut operator, args.workers as usize);
    tokio::select! {
        biased;
        dead = crowd.died() => return Err(dead),
        connected = connected => connected?,
    }
    measured.connect = began.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    measured.idle = resident()?;
    let (before, began) = (cpu()?, Instant::now());
    sleep(Duration::from_secs(u64::from(args.idle_s))).await;
    measured.idle_cpu = cpu()? - before;
    measured.idle_seconds = began.elapsed().as_secs_f64();
    let spec = spec(args);
    let submitted = operator.submit(spec).await?;
    let mut cpu_then = Vec::new();
    let each = |seen: Seen<'_>| {
        if let Seen::Event(run::Logged { event: Some(RunEvent::RoundMetrics { metrics }), .. }) = seen {
            measured.rounds.push(metrics.seconds);
            cpu_then.push(cpu()?);
        }
        Ok(())
    };
    let ended = tokio::select! {
        biased;
        dead = crowd.died() => return Err(dead),
        ended = fleet.follow(&submitted.id, each) => ended?,
    };
    run::verdict(&submitted.id, &ended)?;
    // From the end of the first round, in which connections open, to the end of the last.
    let counted = (cpu_then.len().saturating_sub(1)).max(1) as f64;
    measured.rounds_cpu = (cpu_then.last().unwrap_or(&0.0) - cpu_then.first().unwrap_or(&0.0)) / counted;
    sleep(SETTLE).await;
    measured.after = resident()?;
    measured.peak = process::peak_memory(id).unwrap_or(0);
    measured.files = process::open_files(id).unwrap_or(0);
    Ok(measured)
}

async fn all_connected(operator: &mut Operator, wanted: usize) -> Result<(), Failure> {
    let wait = async {
        loop {
            let connected = operator.workers().await?.iter().filter(|worker| worker.connected).count();
            if connected == wanted {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let late =
        |_| Failure::new(Code::Failed, format!("not all workers connected within {} s", CONNECT.as_secs()));
    tokio::time::timeout(CONNECT, wait).await.map_err(late)?
}

/// One round more than is measured: the first opens connections and fetches the model.
fn spec(args: &Args) -> String {
    let Args { workers, parameters, rounds, .. } = args;
    format!(
        "name = \"bench-connections\"\nrounds = {}\n[model]\nkind = \"flat\"\nparameters = {parameters}\n\
         [data]\nname = \"bench\"\n[local]\nsteps = 1\nbatch = 1\n[cohort]\nmin_workers = {workers}\n\
         min_updates = {workers}\n[evaluation]\nevery = 0\n",
        rounds + 1
    )
}

fn print(args: &Args, mut measured: Measured) -> Result<(), Failure> {
    let workers = f64::from(args.workers);
    let each = |bytes: u64| (bytes.saturating_sub(measured.base)) as f64 / workers;
    let heartbeats = workers * measured.idle_seconds / limits::HEARTBEAT.as_secs_f64();
    let per_thousand = measured.idle_cpu / heartbeats * 1_000.0;
    let (idle, after) = (each(measured.idle), each(measured.after));
    let rounds = &mut measured.rounds;
    if rounds.len() > 1 {
        rounds.remove(0);
    }
    rounds.sort_by(f64::total_cmp);
    let (median, max) = (rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    if args.json {
        return output::line(json!({
            "workers": args.workers, "tls": args.tls, "connect_seconds": measured.connect,
            "base_bytes": measured.base, "idle_bytes_per_worker": idle, "heartbeats": heartbeats,
            "cpu_seconds_per_1000_heartbeats": per_thousand, "parameters": args.parameters,
            "rounds": rounds.len(), "round_seconds_median": median, "round_seconds_max": max,
            "round_cpu_seconds": measured.rounds_cpu, "after_bytes_per_worker": after,
            "peak_bytes": measured.peak, "open_files": measured.files,
            "available_bytes": process::available_memory(),
        }));
    }
    output::line(table::pairs(&[
        ("workers connected after", format!("{:.1} s", measured.connect)),
        ("coordinator, nobody connected", table::bytes(measured.base)),
        ("memory per idle worker", table::bytes(idle as u64)),
        ("processor time per 1,000 heartbeats", format!("{:.1} ms", per_thousand * 1e3)),
        ("round, median and longest", format!("{median:.2} s, {max:.2} s")),
        ("processor time of a round", format!("{:.2} s", measured.rounds_cpu)),
        ("memory per worker after rounds", table::bytes(after as u64)),
        ("coordinator's peak", table::bytes(measured.peak)),
        ("its open files", measured.files.to_string()),
    ]))
}
