//! `starling topology`: what a graph promises before anybody trains over it, and how it looks.

mod draw;

use crate::{
    exit::{Code, Failure},
    output, table,
};
use clap::Subcommand;
use gossip::{
    Params, Schedule, make,
    report::{Level, Mode, Plan, Report},
    topologies::TOPOLOGIES,
};
use proto::nearest::{explain, nearest};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Looks at the graphs that peers can mix over.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every topology with its keys and their defaults; JSON: one object a line, with kind, directed, keys,
    /// citation
    List {
        /// Prints JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Connectivity, mixing rate, imbalance, traffic, and what to change. Fails (exit code 1) when a run over
    /// it could not reach consensus. JSON: one object, with topology, plan, analysis and findings
    Report(Box<Ask>),
}

#[derive(Debug, clap::Args)]
struct Ask {
    /// The topology, as `starling topology list` names it [default: edges, with --edges]
    #[arg(long, required_unless_present = "edges")]
    kind: Option<String>,
    /// Peers [default: with --edges, as many as the edges name]
    #[arg(long, value_name = "N", required_unless_present = "edges",
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    n: Option<u64>,
    /// A key of the topology, as under [topology] in a run file; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file of edges, one a line: sender, receiver and, for --set weights=given, the sender's share
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// How peers mix [default: symmetric where the graph is undirected, else push]
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Mixing steps a round
    #[arg(long, value_name = "Q", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeats: u64,
    /// Rounds of the run
    #[arg(long, value_name = "R")]
    rounds: Option<u64>,
    /// Change of a model in a round per unit of gradient
    #[arg(long)]
    step: Option<f64>,
    /// Largest curvature of the objective, L
    #[arg(long, value_name = "L")]
    smoothness: Option<f64>,
    /// Probability that a message is lost
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    loss: f64,
    /// As if lost messages were not sent again and taken back: what other systems do
    #[arg(long)]
    no_ledger: bool,
    /// For topologies that are drawn at random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draws the graph, the rounds of a schedule side by side
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replaces an existing drawing
    #[arg(long)]
    force: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ModeArg {
    /// Neighbours exchange models
    Symmetric,
    /// Peers push shares of model and mass
    Push,
}

/// Does what was asked.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::List { json } => list(*json),
        What::Report(ask) => report(ask),
    }
}

fn list(json: bool) -> Result<(), Failure> {
    let rows = TOPOLOGIES.iter().map(|row| {
        let directed = (row.make)(&Params::new()).is_ok_and(|topology| topology.directed());
        (row.name, directed, (row.defaults)(), row.citation)
    });
    if json {
        let mut rows = rows.map(|(kind, directed, keys, citation)| {
            json!({ "kind": kind, "directed": directed, "keys": keys, "citation": citation })
        });
        return rows.try_for_each(output::line);
    }
    let rows: Vec<Vec<String>> = rows
        .map(|(kind, directed, keys, citation)| {
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            let edges = if directed { "directed" } else { "both ways" };
            vec![kind.to_owned(), edges.to_owned(), keys.join(", "), citation.to_owned()]
        })
        .collect();
    output::line(table::table(&["kind", "edges", "keys", "source"], &rows))
}

fn report(ask: &Ask) -> Result<(), Failure> {
    if let Some(file) = &ask.svg {
        output::refuse_existing(file, ask.force)?;
    }
    let schedule = schedule(ask)?;
    let undirected = !schedule.topology().directed();
    let mode = match ask.mode {
        Some(ModeArg::Symmetric) => Mode::Symmetric,
        None if undirected => Mode::Symmetric,
        Some(ModeArg::Push) | None => Mode::Push,
    };
    if !(0.0..1.0).contains(&ask.loss) {
        return Err(Failure::usage(format!("--loss {}: expected at least 0 and below 1", ask.loss)));
    }
    let plan = Plan {
        repeats: ask.repeats,
        rounds: ask.rounds,
        step: ask.step,
        smoothness: ask.smoothness,
        loss: ask.loss,
        ledger: !ask.no_ledger,
        ..Plan::new(mode)
    };
    let report = Report::new(&schedule, plan);
    if let Some(file) = &ask.svg {
        output::write_file(file, ask.force, &[draw::svg(&schedule).as_bytes()])?;
    }
    if ask.json {
        output::line(json!(report))?;
    } else {
        output::line(report.to_string().trim_end())?;
    }
    let errors: Vec<String> =
        report.findings.iter().filter(|f| f.level == Level::Error).map(|f| f.code.clone()).collect();
    if report.accepted() {
        return Ok(());
    }
    let text = format!("a run over this topology would be refused ({})", errors.join(", "));
    Err(Failure::new(Code::Failed, text))
}

fn schedule(ask: &Ask) -> Result<Schedule, Failure> {
    let mut params = Params::new();
    for text in &ask.set {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--set {text}: expected KEY=VALUE, e.g. peers=2")))?;
        // What is no JSON is a word: `weights=sinkhorn` needs no quotes.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        params.insert(key.to_owned(), value);
    }
    let mut named = 0;
    if let Some(file) = &ask.edges {
        let edges = edges(file)?;
        named = edges.iter().map(|(from, to, _)| from.max(to) + 1).max().unwrap_or(0);
        let edge = |(from, to, weight): &(u64, u64, Option<f64>)| match weight {
            Some(weight) => json!([from, to, weight]),
            None => json!([from, to]),
        };
        params.insert("edges".to_owned(), edges.iter().map(edge).collect());
    }
    let kind = ask.kind.as_deref().unwrap_or("edges");
    let topology = make(kind, &params).map_err(|error| {
        let near = nearest(kind, TOPOLOGIES.iter().map(|row| row.name)).filter(|near| *near != kind);
        let near = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
        Failure::usage(format!("{}{near}", explain(&error.to_string())))
    })?;
    let nodes = usize::try_from(ask.n.unwrap_or(named).max(1)).unwrap_or(usize::MAX);
    Schedule::new(Arc::from(topology), nodes, ask.seed).map_err(|error| Failure::usage(error.to_string()))
}

/// Sender, receiver and weight of each line; `#` begins a comment.
fn edges(file: &Path) -> Result<Vec<(u64, u64, Option<f64>)>, Failure> {
    let text = output::read_text(file)?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split('#').next().unwrap_or("")));
    let mut edges = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || {
            let text = format!("`{}`, expected SENDER RECEIVER or SENDER RECEIVER WEIGHT", line.trim());
            Failure::usage(format!("{}: line {at}: {text}", file.display()))
        };
        let parts: Vec<&str> = line.split([' ', '\t', ',']).filter(|part| !part.is_empty()).collect();
        let id = |part: &str| part.parse::<u64>().map_err(|_| wrong());
        edges.push(match parts[..] {
            [from, to] => (id(from)?, id(to)?, None),
            [from, to, weight] => (id(from)?, id(to)?, Some(weight.parse().map_err(|_| wrong())?)),
            _ => return Err(wrong()),
        });
    }
    if edges.is_empty() {
        return Err(Failure::usage(format!("{}: no edges", file.display())));
    }
    Ok(edges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ask: Ask,
    }

    fn schedule_of(line: &str) -> Result<Schedule, Failure> {
        schedule(&Line::parse_from(std::iter::once("report").chain(line.split_whitespace())).ask)
    }

    #[test]
    fn keys_reach_the_topology() {
        let graph = schedule_of("--kind k-peer-exponential --n 9 --set peers=2").unwrap();
        assert_eq!((graph.nodes(), graph.period()), (9, Some(2)));
        for (line, want) in [
            ("--kind k-peer-exponential --n 9 --set pers=2", "peers"),
            ("--kind one-per-exponential --n 9", "did you mean `one-peer-exponential`"),
            ("--kind hypercube --n 9", "a power of two"),
            ("--kind ring --n 9 --set x", "KEY=VALUE"),
        ] {
            let failure = schedule_of(line).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.message.contains(want), "{line}: {failure}");
        }
    }

    #[test]
    fn edges_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edges");
        let ask = |more: &str| schedule_of(&format!("--edges {} {more}", file.display()));
        std::fs::write(&file, "# a cycle\n0 1\n1, 2\n2\t0 # back\n\n").unwrap();
        assert_eq!(ask("").unwrap().nodes(), 3);
        assert_eq!(ask("--set weights=sinkhorn").unwrap().mixing(0).column(0).len(), 2);
        std::fs::write(&file, "0 1 0.25\n1 0 0.5\n").unwrap();
        assert_eq!(ask("--set weights=given").unwrap().mixing(0).column(0)[1].weight, 0.25);
        for (text, want) in [("0 1\n0 x\n", "line 2"), ("0 1 2 3", "line 1"), ("# none\n", "no edges")] {
            std::fs::write(&file, text).unwrap();
            assert!(ask("").unwrap_err().message.contains(want));
        }
    }
}
