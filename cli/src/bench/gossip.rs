//! How long a round of gossip takes and what travels, when nobody trains: real peers over TLS, model kind
//! `flat`. The first two rounds are not counted: connections open, and memory is touched for the first time.

use super::round::Size;
use crate::{
    exit::Failure,
    life, output,
    peer::fleet::{Plan, metrics, name},
    process, table,
};
use serde_json::{Value, json};

/// Rounds before those that are measured.
const WARM: u64 = 2;

/// Measures seconds and traffic of a gossip round between real peers over TLS, without training.
///
/// JSON: one object a line for each size, with peers, parameters, topology, algorithm, rounds,
/// seconds_median, seconds_min, seconds_max, bytes_sent (by the first peer in a round, median),
/// bytes_expected (by the topology report), cpu_seconds (of a round, all peers), peak_bytes (the largest peer).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Peers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=256))]
    peers: u16,
    /// Model sizes in scalars; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_values = ["1M", "10M"])]
    parameters: Vec<Size>,
    /// Who talks to whom
    #[arg(long, value_name = "KIND", default_value = "one-peer-exponential")]
    topology: String,
    /// How peers mix
    #[arg(long, value_name = "KIND", default_value = "sgp")]
    algorithm: String,
    /// Rounds to measure
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Measures all sizes and prints them.
pub(crate) async fn measure(args: &Args) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for size in &args.parameters {
        let found = life::interruptible(one(args, size.get())).await?;
        if args.json {
            output::line(&found)?;
        }
        let cell =
            |key: &str| found[key].as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        let bytes =
            |key: &str| found[key].as_f64().map_or_else(|| "–".to_owned(), |b| table::bytes(b as u64));
        rows.push(vec![
            size.get().to_string(),
            cell("seconds_median"),
            cell("seconds_min"),
            cell("seconds_max"),
            bytes("bytes_sent"),
            bytes("bytes_expected"),
            cell("cpu_seconds"),
            bytes("peak_bytes"),
        ]);
    }
    if args.json {
        return Ok(());
    }
    let heading = ["parameters", "median s", "min s", "max s", "sent", "expected", "cpu s", "peak"];
    output::line(table::table(&heading, &rows))
}

async fn one(args: &Args, parameters: u64) -> Result<Value, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::internal)?;
    let (peers, rounds) = (usize::from(args.peers), args.rounds + WARM);
    // A share that is still on its way, or being stored, is not to be sent again.
    let retry = (parameters / 500).clamp(20_000, 600_000);
    let run = format!(
        "name = \"bench\"\nmode = \"decentralised\"\nrounds = {rounds}\n[model]\nkind = \"flat\"\n\
         parameters = {parameters}\n[data]\nname = \"none\"\n[algorithm]\nkind = \"{}\"\n[evaluation]\nevery = 0\n\
         [topology]\nkind = \"{}\"\nnodes = {peers}\nretry_ms = {retry}\n",
        args.algorithm, args.topology
    );
    let spec = proto::spec::RunSpec::from_toml(&run).map_err(Failure::usage)?;
    let report = spec.mixing().map_err(Failure::usage)?.report(rounds);
    let mut fleet = Plan { folder: folder.path(), peers, run, data: None }.start()?;
    let ids = fleet.ids();
    let cpu = |ids: &[u32]| ids.iter().filter_map(|id| process::cpu_seconds(*id)).sum::<f64>();
    let finished = fleet.finished(|_, _| {}).await;
    let (spent, peak) = (cpu(&ids), ids.iter().filter_map(|id| process::peak_memory(*id)).max());
    fleet.stop().await?;
    finished?;
    let lines = metrics(&folder.path().join(name(0)))?;
    let sorted = |key: &str| {
        let counted = lines.iter().filter(|line| line["round"].as_u64() >= Some(WARM));
        let mut values: Vec<f64> = counted.filter_map(|line| line[key].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (seconds, sent) = (sorted("seconds"), sorted("bytes_sent"));
    let median = |values: &[f64]| values.get(values.len() / 2).copied();
    Ok(json!({
        "peers": peers, "parameters": parameters, "topology": args.topology, "algorithm": args.algorithm,
        "rounds": seconds.len(), "seconds_median": median(&seconds), "seconds_min": seconds.first(),
        "seconds_max": seconds.last(), "bytes_sent": median(&sent),
        "bytes_expected": report.bytes.per_parameter * parameters as f64 + report.bytes.fixed,
        "cpu_seconds": spent / rounds as f64, "peak_bytes": peak,
    }))
}
