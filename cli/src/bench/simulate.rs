//! What federation costs in the simulator: the same local runs with and without it, in this process, on
//! the same threads, in turns; and how memory grows with the number of clients, each in a process of its
//! own.

use crate::{
    exit::{Code, Failure},
    output, process,
    simulate::{DataArg, Library},
    table,
};
use proto::spec::RunSpec;
use serde_json::{Value, json};
use simulation::{
    parallel::in_order,
    training::{self, LocalWork, Notice, Setup, Shares, Stop, bare},
};
use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use worker::{data::Dataset, engine::Model};

/// Measures the simulator: virtual clients and rounds a second, against the bare training steps.
///
/// The run is the MLP (200, 200) on the data set, IID, FedAvg, batch 50. Three times in turns: the bare local
/// runs of every cohort on the same threads, and the simulation of the same rounds without evaluation. Then
/// the peak memory of whole simulations, each in its own process. JSON: one object with clients, cohort, rounds,
/// epochs, threads, bare_seconds, simulation_seconds (the least of three each), bare_cpu_seconds,
/// simulation_cpu_seconds, overhead and cpu_overhead (shares), clients_per_second, rounds_per_second, and
/// memory, a list of {clients, peak_bytes}.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Virtual clients
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Share of them in a round
    #[arg(long, default_value_t = 0.1)]
    fraction: f64,
    /// Rounds of each simulation
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Passes over a client's data in a round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// fedavg, or any other
    #[arg(long, value_name = "KIND", default_value = "fedavg")]
    algorithm: String,
    /// A folder with MNIST or another data set of images; without it procedural digits
    #[arg(long, value_name = "PATH")]
    data: Option<DataArg>,
    /// Numbers of clients whose simulations' memory is measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100_u32, 1_000, 10_000])]
    memory: Vec<u32>,
    /// Clients that run side by side; 0: one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Drawn when no data is given: as many as MNIST has.
const DIGITS: u32 = 60_000;

/// Seconds and processor seconds.
type Cost = (f64, f64);

impl Args {
    fn spec(&self) -> Result<RunSpec, Failure> {
        let name = if self.data.is_some() { "data" } else { "digits" };
        let Self { rounds, fraction, epochs, algorithm, .. } = self;
        RunSpec::from_toml(&format!(
            "name='bench'\nrounds={rounds}\nseed=1\n[model]\nkind='mlp'\n[data]\nname='{name}'\n\
             partition={{kind='iid'}}\n[algorithm]\nkind='{algorithm}'\n[local]\nbatch=50\nlr=0.05\n\
             epochs={epochs}\n[cohort]\nfraction={fraction:?}\n[evaluation]\nevery=0\n"
        ))
        .map_err(Failure::usage)
    }
}

/// Measures and prints.
pub(super) fn measure(args: &Args) -> Result<(), Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if args.threads == 0 { cores() } else { args.threads };
    let spec = args.spec()?;
    let places: Vec<DataArg> = args.data.iter().cloned().collect();
    let (train, _) = Library::new(&places, DIGITS).load(&spec)?;
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    let mut cohort = 0;
    for _ in 0..3 {
        let (cost, members) = simulated(args, &spec, &train, threads)?;
        whole.push(cost);
        cohort = members.first().map_or(0, Vec::len);
        bare.push(alone(args, &spec, &train, (&members, threads))?);
    }
    let memory = args.memory.iter().map(|clients| peak(args, *clients)).collect::<Result<Vec<_>, _>>()?;
    let least = |costs: &[Cost], part: fn(&Cost) -> f64| costs.iter().map(part).fold(f64::INFINITY, f64::min);
    let (bare_s, whole_s) = (least(&bare, |c| c.0), least(&whole, |c| c.0));
    let (bare_cpu, whole_cpu) = (least(&bare, |c| c.1), least(&whole, |c| c.1));
    let result = json!({
        "clients": args.clients, "cohort": cohort, "rounds": args.rounds, "epochs": args.epochs,
        "threads": threads, "bare_seconds": bare_s, "simulation_seconds": whole_s,
        "bare_cpu_seconds": bare_cpu, "simulation_cpu_seconds": whole_cpu,
        "overhead": whole_s / bare_s - 1.0, "cpu_overhead": whole_cpu / bare_cpu - 1.0,
        "clients_per_second": cohort as f64 * args.rounds as f64 / whole_s,
        "rounds_per_second": args.rounds as f64 / whole_s, "memory": memory,
    });
    if args.json { output::line(result) } else { output::line(text(&result)) }
}

/// A simulation of the rounds; gives the cohorts, too.
fn simulated(
    args: &Args,
    spec: &RunSpec,
    train: &Dataset,
    threads: usize,
) -> Result<(Cost, Vec<Vec<String>>), Failure> {
    let folder = tempfile::tempdir().map_err(Failure::internal)?;
    let setup = Setup {
        spec: spec.clone(),
        clients: args.clients as usize,
        train: train.clone(),
        test: None,
        threads,
        folder: folder.path().to_owned(),
        checkpoint: Duration::from_secs(5),
        memory: 1 << 30,
        reproducible_noise: false,
        stop: Stop::default(),
    };
    let mut began = None;
    let mut ended = None;
    let mut cohorts = Vec::new();
    training::run(&setup, &mut |notice| match notice {
        // What comes before the first round is setting up.
        Notice::Event(proto::event::RunEvent::RoundOpened { cohort, .. }) => {
            began.get_or_insert_with(now);
            cohorts.push(cohort.clone());
        }
        Notice::Event(proto::event::RunEvent::RoundCommitted { .. }) => ended = Some(now()),
        _ => {}
    })
    .map_err(Failure::internal)?;
    let cost = began.zip(ended).map(|(from, to)| (to.0.saturating_sub(from.0).as_secs_f64(), to.1 - from.1));
    Ok((cost.ok_or_else(|| Failure::internal("no round was committed"))?, cohorts))
}

/// Since the program's start, and processor seconds.
fn now() -> (Duration, f64) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    (start.elapsed(), process::cpu_seconds(std::process::id()).unwrap_or(0.0))
}

/// The same local runs, and nothing else.
fn alone(
    args: &Args,
    spec: &RunSpec,
    train: &Dataset,
    (cohorts, threads): (&[Vec<String>], usize),
) -> Result<Cost, Failure> {
    let division = spec.data.partition.clone().unwrap_or(proto::spec::PartitionSpec::Iid {});
    let shares =
        Shares::divide(train, &division, args.clients as usize, spec.seed).map_err(Failure::internal)?;
    let model = Model::new(&spec.model, train.info()).map_err(Failure::internal)?;
    let (spec, w) = (Arc::new(spec.clone()), Arc::new(model.initial(spec.seed)));
    let number = |name: &String| name.strip_prefix(training::CLIENT)?.parse::<usize>().ok()?.checked_sub(1);
    let began = now();
    for (round, cohort) in cohorts.iter().enumerate() {
        let clients: Vec<usize> = cohort.iter().filter_map(number).collect();
        let runs = in_order(threads, clients.len(), |at| {
            let examples = shares.of(clients[at]);
            let work = LocalWork { spec: &spec, model: &model, examples: &examples, w: &w };
            bare(&work, clients[at], round as u64).map(|result| result.loss)
        });
        runs.into_iter().collect::<Result<Vec<f64>, _>>().map_err(Failure::internal)?;
    }
    let ended = now();
    Ok((ended.0.saturating_sub(began.0).as_secs_f64(), ended.1 - began.1))
}

/// Peak memory of a simulation of so many clients with the same cohort, in a process of its own.
fn peak(args: &Args, clients: u32) -> Result<Value, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::internal)?;
    let file = folder.path().join("run.toml");
    let mut spec = args.spec()?;
    spec.cohort.fraction = None;
    spec.cohort.size = Some((f64::from(args.clients) * args.fraction).round().max(1.0) as usize);
    let text = toml::to_string(&spec).map_err(Failure::internal)?;
    output::write_file(&file, true, &[text.as_bytes()])?;
    let program = std::env::current_exe().map_err(Failure::internal)?;
    let mut command = Command::new(program);
    command.arg("simulate").arg(&file).args(["--json", "--clients", &clients.to_string()]);
    command.args(["--examples", &DIGITS.to_string(), "--threads", &args.threads.to_string()]);
    command.arg("--out").arg(folder.path().join("out"));
    if let Some(data) = &args.data {
        command.arg("--data").arg(data.path());
    }
    let done = command.output().map_err(Failure::internal)?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(Failure::new(Code::Failed, format!("{clients} clients: {text}")));
    }
    let summary: Value = serde_json::from_slice(&done.stdout).map_err(Failure::internal)?;
    Ok(json!({"clients": clients, "peak_bytes": summary["peak_bytes"]}))
}

fn text(result: &Value) -> String {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    let percent = |key: &str| table::percent(number(key));
    let cost = |what: &str| {
        let (wall, cpu) = (format!("{what}_seconds"), format!("{what}_cpu_seconds"));
        format!("{:.2} s, {:.2} processor seconds", number(&wall), number(&cpu))
    };
    let pairs = [
        (
            "clients",
            format!("{} in each of {} rounds, of {}", result["cohort"], result["rounds"], result["clients"]),
        ),
        ("bare steps", cost("bare")),
        ("simulation", cost("simulation")),
        ("overhead", format!("{} (processor time: {})", percent("overhead"), percent("cpu_overhead"))),
        (
            "speed",
            format!(
                "{:.0} clients/s, {:.2} rounds/s",
                number("clients_per_second"),
                number("rounds_per_second")
            ),
        ),
    ];
    let memory = result["memory"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = memory
        .map(|row| vec![row["clients"].to_string(), table::bytes(row["peak_bytes"].as_u64().unwrap_or(0))])
        .collect();
    format!("{}\n\n{}", table::pairs(&pairs), table::table(&["clients", "peak memory"], &rows))
}
