//! `starling demo --mode decentralised`: peers that train one model over a graph, without a coordinator.

use super::{Args, SHOWN, folder::Folder, plan::Planned};
use crate::{
    exit::{Code, Failure},
    host::Host,
    life, output,
    peer::{
        ask,
        fleet::{self, Peers, Plan, name},
    },
    table,
};
use ::coordinator::ModelHost;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::IsTerminal, time::Instant};

/// What a finished demo has to show.
struct Trained {
    seconds: f64,
    metrics: Vec<Value>,
    exported: Value,
    mass: f64,
    accuracy: Option<f64>,
    loss: Option<f64>,
    topology: Value,
}

/// Runs the demo.
pub(super) fn main(args: &Args, planned: &Planned, folder: &Folder) -> Result<(), Failure> {
    life::runtime()?.block_on(async {
        let mixing = planned.spec.mixing().map_err(Failure::usage)?;
        let report = mixing.report(planned.spec.rounds);
        if !args.json {
            output::line(planned.describe(args.workers).replace(" workers ", " peers "))?;
            output::line(report.to_string().trim_end())?;
        }
        if !report.accepted() {
            return Err(Failure::new(Code::Failed, "the topology cannot bring the peers together"));
        }
        let plan = Plan {
            folder: folder.root(),
            peers: usize::from(args.workers),
            run: planned.to_toml()?,
            data: Some(planned.data.clone()),
        };
        let mut peers = plan.start()?;
        let trained = life::interruptible(train(args, planned, &mut peers, folder)).await;
        let stopped = peers.stop().await;
        let trained = trained?;
        stopped?;
        show(args, planned, &trained, folder)
    })
}

/// Watches until every peer that is there has finished. A peer may die meanwhile: the others go on.
async fn train(
    args: &Args,
    planned: &Planned,
    peers: &mut Peers,
    folder: &Folder,
) -> Result<Trained, Failure> {
    let began = Instant::now();
    if !args.json {
        let identity = folder.path("ca/operator.pem");
        let peer = peers.addresses[0];
        output::note(format!(
            "ask from another terminal: starling peer status --peer {peer} --identity {}",
            identity.display()
        ));
    }
    let bar = bar(planned.spec.rounds, !args.json);
    let of = peers.addresses.len();
    let tell = |round, answering| {
        bar.set_position(round);
        bar.set_message(format!("{answering} of {of} peers"));
    };
    let statuses = peers.finished(tell).await?;
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    let (address, first) = statuses.first().ok_or_else(|| Failure::internal("no peer is left"))?;
    let found = peers.asked.consensus(&address.to_string()).await?;
    let evaluation = evaluate(planned, &found.model)?;
    let file = folder.path("model.safetensors");
    let exported = ask::write(&found.header, &found.model, &file, true)?.json(&file);
    let metrics = fleet::metrics(&folder.path(&first.name))?;
    let lines: Vec<String> = metrics.iter().map(|line| line.to_string() + "\n").collect();
    output::write_file(&folder.path("metrics.jsonl"), true, &[lines.concat().as_bytes()])?;
    let topology = serde_json::from_str(&first.topology).unwrap_or_default();
    let (accuracy, loss) = evaluation.unzip();
    Ok(Trained { seconds, metrics, exported, mass: found.mass, accuracy, loss, topology })
}

/// Accuracy and loss of the consensus model on the whole held-out set.
fn evaluate(planned: &Planned, model: &[f32]) -> Result<Option<(f64, f64)>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let host = Host::new(BTreeMap::from([planned.data.clone()]), BTreeMap::new(), threads);
    let found = host.evaluate(&planned.spec, model).map_err(Failure::internal)?;
    Ok(found.filter(|found| found.predictions > 0).map(|found| {
        let predictions = found.predictions as f64;
        (found.correct as f64 / predictions, found.loss_sum / predictions)
    }))
}

fn bar(rounds: u64, show: bool) -> ProgressBar {
    let visible = show && std::io::stderr().is_terminal();
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds  {elapsed}  {wide_msg}");
    let bar = ProgressBar::with_draw_target(Some(rounds), target);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn show(args: &Args, planned: &Planned, trained: &Trained, folder: &Folder) -> Result<(), Failure> {
    let last = trained.metrics.last().cloned().unwrap_or_default();
    let sent: u64 = trained.metrics.iter().filter_map(|line| line["bytes_sent"].as_u64()).sum();
    if args.json {
        return output::line(json!({
            "run": planned.spec.name, "mode": "decentralised", "data": planned.data.0,
            "model": planned.model_kind(), "algorithm": planned.spec.algorithm.kind,
            "topology": trained.topology["topology"], "peers": args.workers,
            "rounds": trained.metrics.len(), "accuracy": trained.accuracy, "loss": trained.loss,
            "seconds": trained.seconds, "bytes_sent_by_first": sent, "mass": trained.mass,
            "consensus_distance": last["consensus_distance"],
            "consensus_predicted": last["consensus_predicted"],
            "model_digest": trained.exported["digest"], "model_file": folder.path("model.safetensors"),
            "metrics_file": folder.path("metrics.jsonl"), "logs": folder.path("logs"),
        }));
    }
    let cell = |value: &Value, digits: usize| {
        value.as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let small = |value: &Value| value.as_f64().map_or_else(|| "–".to_owned(), |value| format!("{value:.3e}"));
    let rows: Vec<Vec<String>> = trained
        .metrics
        .iter()
        .skip(trained.metrics.len().saturating_sub(SHOWN))
        .map(|line| {
            vec![
                line["round"].to_string(),
                line["members"].to_string(),
                cell(&line["train_loss"], 4),
                line["eval_accuracy"].as_f64().map_or_else(|| "–".to_owned(), table::percent),
                small(&line["consensus_distance"]),
                small(&line["consensus_predicted"]),
                cell(&line["mass"], 6),
                cell(&line["seconds"], 2),
            ]
        })
        .collect();
    let heading = ["round", "members", "train loss", "accuracy", "distance", "predicted", "mass", "seconds"];
    output::line(format!("\n{} (as {} saw it)\n", table::table(&heading, &rows), name(0)))?;
    let path = |name: &str| folder.path(name).display().to_string();
    let pairs = [
        ("accuracy", format!("{} (consensus model)", table::or_dash(trained.accuracy, table::percent))),
        ("loss", table::or_dash(trained.loss, |loss| format!("{loss:.4}"))),
        ("time", format!("{:.1} s", trained.seconds)),
        ("traffic", format!("{} sent by {}", table::bytes(sent), name(0))),
        ("mass", format!("{}", trained.mass)),
        ("model", path("model.safetensors")),
        ("metrics", path("metrics.jsonl")),
        ("logs", path("logs")),
    ];
    output::line(table::pairs(&pairs))
}
