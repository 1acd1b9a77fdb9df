//! `starling worker`: the life of a worker process, and what the coordinator knows of its workers.

mod devices;

use crate::{
    client::{Operator, Remote},
    config::Layers,
    daemon::Daemon,
    describe,
    exit::Failure,
    life, output, table,
};
use clap::Subcommand;
use proto::v1::WorkerSummary;
use tokio_util::sync::CancellationToken;

/// Runs a worker until SIGTERM or SIGINT, or asks the coordinator about its workers.
///
/// Flags win over environment variables (`STARLING__KEY`, `STARLING__SECTION__KEY`), those over the
/// file.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    ask: Option<Ask>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The coordinator
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// What a worker on this machine would compute with, and why; JSON: one object with used, why, threads,
    /// instructions, gpus (name, compute_capability, memory_bytes), vector_kernels, nvrtc and cublas (each
    /// found or missing, and a text)
    Devices {
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// The workers that the coordinator knows; JSON: one object a line, with name, connected, quarantined,
    /// program, datasets, silent_ms, applied, rejected, address
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Lets a quarantined worker take part again; JSON: the worker as in `list`
    Release {
        /// The worker
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Runs a worker until told to stop, or asks about workers.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.ask {
        Some(Ask::Devices { json }) => devices::main(json),
        Some(ask) => life::runtime()?.block_on(answer(ask)),
        None => serve(&args.serve),
    }
}

/// All layers of a worker's configuration.
pub(crate) fn configure(layers: &Layers) -> Result<::worker::Config, Failure> {
    let config: ::worker::Config = layers.extract()?;
    config.check().map_err(Failure::usage)?;
    Ok(config)
}

fn serve(args: &Serve) -> Result<(), Failure> {
    let config = configure(&args.daemon.layers()?.flag("coordinator", args.coordinator.as_ref()))?;
    tracing::info!(name = %config.name, coordinator = config.coordinator, "starting");
    life::runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let work = ::worker::run_with_engine(config, stop.clone().cancelled_owned());
        life::supervise(args.daemon.life, stop, work).await
    })
}

async fn answer(ask: Ask) -> Result<(), Failure> {
    match ask {
        Ask::Devices { json } => devices::main(json),
        Ask::List { remote } => {
            let workers = Operator::connect(&remote.target).await?.workers().await?;
            if remote.json {
                return workers.iter().try_for_each(|worker| output::line(describe::worker_json(worker)));
            }
            output::line(if workers.is_empty() { "no workers yet".to_owned() } else { listing(&workers) })
        }
        Ask::Release { name, remote } => {
            let worker = Operator::connect(&remote.target).await?.release(&name).await?;
            if remote.json {
                return output::line(describe::worker_json(&worker));
            }
            output::line(format!("{} may take part again", worker.name))
        }
    }
}

fn listing(workers: &[WorkerSummary]) -> String {
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let seen = if worker.connected {
                format!("{:.1} s ago", worker.silent_ms as f64 / 1000.0)
            } else {
                "–".into()
            };
            vec![
                worker.name.clone(),
                describe::worker_state(worker).into(),
                seen,
                worker.applied.to_string(),
                worker.rejected.to_string(),
                worker.datasets.join(", "),
                worker.address.clone(),
                worker.program.clone(),
            ]
        })
        .collect();
    table::table(&["worker", "state", "seen", "applied", "rejected", "data", "address", "program"], &rows)
}
