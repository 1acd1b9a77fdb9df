//! `starling evaluate`: how good a saved model is: accuracy, calibration with its uncertainty, who is taken
//! for whom.

use crate::{
    exit::{Code, Failure},
    output, run,
    simulate::{DataArg, Library},
    table,
};
use serde_json::json;
use simulation::evaluation::{Assessment, Calibration, assess, bins_for, classes};
use std::path::PathBuf;
use worker::engine::{Model, load_safetensors};

/// Largest number of classes of which the whole confusion matrix is printed.
const SHOWN: usize = 20;

/// Evaluates a saved model on held-out data.
///
/// Prints accuracy, loss, the top-1-to-k calibration error (Sun et al. 2024: debiased, with a 95 % confidence
/// interval) and the confusion matrix. JSON: one object with examples, accuracy, loss, calibration (top,
/// bins, predictions, ece, low, high, calibrated, squared), recalls (share of right predictions of each
/// class) and confusion (classes, counts: row-major by label).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, as `run export`, demo or simulation wrote it
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The run file that it was trained by: names network and data set
    #[arg(long, value_name = "FILE")]
    run: PathBuf,
    /// A folder or file with the data; digits need none
    #[arg(long, value_name = "PATH")]
    data: Vec<DataArg>,
    /// Procedural digits that were trained on
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    examples: u32,
    /// Evaluates on the training split
    #[arg(long)]
    training: bool,
    /// Most likely classes whose probabilities are looked at, k
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    top: u16,
    /// Threads; 0: one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Evaluates.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let (_, spec) = run::read_spec(&args.run)?;
    let (train, test) = Library::new(&args.data, args.examples).load(&spec)?;
    let data = if args.training { train } else { test };
    let model = Model::new(&spec.model, data.info()).map_err(Failure::usage)?;
    let bytes = std::fs::read(&args.model)
        .map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", args.model.display())))?;
    let w = load_safetensors(&model, &bytes)
        .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", args.model.display())))?;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if args.threads == 0 { cores() } else { args.threads };
    let top = usize::from(args.top).min(classes(data.info()));
    let found = assess(&model, &w, &data, top, threads).map_err(Failure::internal)?;
    let calibration = found.sample.calibration(bins_for(found.sample.len(), top));
    if args.json {
        return output::line(json!({
            "examples": data.len(), "accuracy": found.accuracy(), "loss": found.loss(),
            "calibration": calibration, "recalls": found.confusion.recalls(), "confusion": found.confusion,
        }));
    }
    output::line(text(&found, calibration))
}

fn text(found: &Assessment, calibration: Option<Calibration>) -> String {
    let shown = |c: Calibration| {
        let verdict = if c.calibrated { "; no evidence against calibration" } else { "" };
        let Calibration { top, ece, low, high, .. } = c;
        format!("{ece:.4} (95 %: {low:.4} to {high:.4}{verdict}), top {top}, {} parts an axis", c.bins)
    };
    let pairs = [
        ("predictions", found.predictions.to_string()),
        ("accuracy", table::or_dash(found.accuracy(), table::percent)),
        ("loss", table::or_dash(found.loss(), |loss| format!("{loss:.4}"))),
        ("calibration error", table::or_dash(calibration, shown)),
    ];
    let confusion = &found.confusion;
    if confusion.classes > SHOWN {
        return table::pairs(&pairs);
    }
    let numbers: Vec<String> = (0..confusion.classes).map(|class| class.to_string()).collect();
    let mut heading = vec!["label"];
    heading.extend(numbers.iter().map(String::as_str));
    heading.push("right");
    let recalls = confusion.recalls();
    let row = |label: usize| {
        let counts = confusion.row(label).iter().map(u64::to_string);
        let right = table::or_dash(recalls[label], table::percent);
        std::iter::once(label.to_string()).chain(counts).chain([right]).collect()
    };
    let rows: Vec<Vec<String>> = (0..confusion.classes).map(row).collect();
    format!("{}\n\npredicted as:\n{}", table::pairs(&pairs), table::table(&heading, &rows))
}
