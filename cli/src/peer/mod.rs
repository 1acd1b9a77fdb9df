//! `starling peer`: the life of a peer of a decentralised run, and what peers tell about it.

pub(crate) mod ask;
pub(crate) mod fleet;
mod observe;

use crate::{
    config::Layers,
    daemon::Daemon,
    exit::{Code, Failure},
    life, output, run, table,
};
use ::worker::peer as node;
use ask::{Asked, Who};
use clap::Subcommand;
use proto::v1::PeerStatusReply;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Takes part in a decentralised run until SIGTERM or SIGINT, or asks a peer about it.
///
/// Flags win over environment variables (`STARLING__KEY`, `STARLING__SECTION__KEY`), those over the
/// file. A peer that is started again goes on from its stored state.
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
    /// The run file
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// Address to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDR")]
    listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// How a peer stands: round, members, mass, w, consensus distance; JSON: one object, with name, run,
    /// phase, round, rounds, epoch, members, w, holding, account, balanced, metrics, topology
    Status {
        #[command(flatten)]
        who: Who,
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Shows all peers of a run until they are done, without taking part: state, round, mass, consensus
    /// distance, bytes; JSON: one object a look, with run, time_ms, ignored and peers: name, address,
    /// incarnation, state, suspected_by, last_heard_s, trouble, phase, round, rounds, epoch, w, holding,
    /// account, balanced, consensus_distance, consensus_predicted, mass, mass_published, bytes_sent,
    /// bytes_received, epsilon
    Observe(observe::Observe),
    /// Writes a peer's de-biased model z = x/w as safetensors; JSON: one object, with run, peer, round,
    /// digest, parameters, file
    Export(Taken),
    /// Writes the consensus model of all peers that can be reached, Σ x / Σ w; JSON: as for `export`, and
    /// peers, mass
    Consensus(Taken),
    /// Lets a peer hand over what it holds and leave the run for good
    Leave {
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
struct Taken {
    #[command(flatten)]
    who: Who,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replaces an existing file
    #[arg(long)]
    force: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Takes part, or asks.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.ask {
        Some(ask) => life::runtime()?.block_on(answer(ask)),
        None => serve(&args.serve),
    }
}

/// All layers of a peer's configuration.
pub(crate) fn configure(layers: &Layers) -> Result<node::Config, Failure> {
    let config: node::Config = layers.extract()?;
    config.check().map_err(Failure::usage)?;
    Ok(config)
}

fn serve(args: &Serve) -> Result<(), Failure> {
    let layers = args.daemon.layers()?.flag("run", args.run.as_ref()).flag("listen", args.listen);
    let config = configure(&layers)?;
    let (_, spec) = run::read_spec(&config.run)?;
    life::runtime()?.block_on(async {
        let cannot =
            |error| Failure::new(Code::Unavailable, format!("cannot listen on {}: {error}", config.listen));
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        tracing::info!(name = %config.name, run = spec.name, %address, "starting");
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let work = async { node::run_with_engine(config, spec, listener, stopping).await.map(drop) };
        life::supervise(args.daemon.life, stop, Box::pin(work)).await
    })
}

async fn answer(ask: Ask) -> Result<(), Failure> {
    match ask {
        Ask::Status { who, json } => {
            let status = Asked::new(&who)?.status(&who.peer).await?;
            output::line(if json { status_json(&status).to_string() } else { status_text(&status) })
        }
        Ask::Observe(args) => observe::main(&args).await,
        Ask::Leave { who } => {
            Asked::new(&who)?.leave(&who.peer).await?;
            output::line(format!("{} is leaving", who.peer))
        }
        Ask::Export(Taken { who, to, force, json }) => {
            output::refuse_existing(&to, force)?;
            let (header, model) = Asked::new(&who)?.model(&who.peer).await?;
            let peer = header.name.clone();
            let exported = ask::write(&header, &model, &to, force)?;
            if !json {
                return output::line(exported.text(&to));
            }
            let mut object = exported.json(&to);
            object["peer"] = peer.into();
            output::line(object)
        }
        Ask::Consensus(Taken { who, to, force, json }) => {
            output::refuse_existing(&to, force)?;
            let found = Asked::new(&who)?.consensus(&who.peer).await?;
            let exported = ask::write(&found.header, &found.model, &to, force)?;
            if json {
                let mut object = exported.json(&to);
                (object["peers"], object["mass"]) = (json!(found.peers), json!(found.mass));
                return output::line(object);
            }
            let text =
                format!("{}; mean of {}, mass {}", exported.text(&to), found.peers.join(", "), found.mass);
            output::line(text)
        }
    }
}

/// A status as `--json` prints it.
pub(crate) fn status_json(status: &PeerStatusReply) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let members: Vec<Value> = status
        .members
        .iter()
        .map(|peer| {
            let incarnation = peer.member.map(|member| member.incarnation);
            json!({
                "name": peer.name, "address": peer.address, "incarnation": incarnation, "live": peer.live,
                "reachable": peer.reachable,
            })
        })
        .collect();
    json!({
        "name": status.name, "run": status.run, "phase": status.phase, "round": status.round,
        "rounds": status.rounds, "epoch": status.epoch, "incarnation": status.member.map(|member| member.incarnation),
        "members": members, "w": status.w, "holding": status.holding, "account": status.account,
        "balanced": status.balanced, "metrics": parsed(&status.metrics), "topology": parsed(&status.topology),
    })
}

fn status_text(status: &PeerStatusReply) -> String {
    let value = status_json(status);
    let metrics = &value["metrics"];
    let number =
        |key: &str| metrics[key].as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.4e}"));
    let pairs = [
        ("peer", format!("{} of {}", status.name, status.run)),
        ("phase", status.phase.clone()),
        ("round", format!("{} of {}", status.round, status.rounds)),
        ("mass", format!("w {:.6}, holding {:.6}, account {:.6}", status.w, status.holding, status.account)),
        ("books", if status.balanced { "right" } else { "WRONG" }.to_owned()),
        (
            "consensus distance",
            format!("{} (predicted {})", number("consensus_distance"), number("consensus_predicted")),
        ),
    ];
    let rows: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|peer| {
            let state = match (peer.live, peer.reachable) {
                (true, true) => "live",
                (true, false) => "unreachable",
                (false, _) => "gone",
            };
            vec![peer.name.clone(), state.to_owned(), peer.address.clone()]
        })
        .collect();
    format!("{}\n\n{}", table::pairs(&pairs), table::table(&["member", "state", "address"], &rows))
}
