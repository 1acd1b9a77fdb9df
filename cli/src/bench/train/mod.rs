//! How long a training step takes, what it needs, and how that compares with PyTorch.
//!
//! Each row of the table has a process of its own, and PyTorch another one; they take turns in short
//! blocks, so that both see the same machine. A busy machine shows in the wall time first: the
//! processor time of a step says what was computed.

mod cases;
mod checked;
mod gpu;
mod peer;
mod serve;

use crate::{
    exit::{Code, Failure},
    output, table,
};
use cases::Case;
use indicatif::{ProgressBar, ProgressStyle};
use peer::{Measured, Peer, Python};
use serde_json::{Value, json};
use std::path::PathBuf;
use worker::engine::cuda::{Choice, Placement, Precision};

/// Measures training steps (forward, backward, update) on one fixed batch.
///
/// JSON: one object a line for each model, batch and number of threads, with model, batch, threads,
/// device, parameters, steps, wall_ms_median, wall_ms_min, processor_ms (of a step, all threads),
/// memory_bytes (what the process grew by while it trained); with --against-torch also torch (an object
/// with the same fields and version), wall_ratio (of the medians) and processor_ratio; below 1 the
/// engine is faster.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models, by their short names: mlp, lenet, cnn-28, cnn-32, char-lstm, char-gpt, resnet18-gn
    #[arg(long, value_name = "M,…", value_delimiter = ',', default_values = cases::NAMES)]
    models: Vec<String>,
    /// Batch sizes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [50_u16],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Vec<u16>,
    /// Numbers of threads
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_u16, 2],
          value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Vec<u16>,
    /// Where the step runs: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Cpu)]
    device: Choice,
    /// On a GPU, what products are computed in
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_values_t = [Precision::F32])]
    precision: Vec<Precision>,
    /// On a GPU, clients that train side by side; a step's time is the time of all by all their steps
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_u16],
          value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: Vec<u16>,
    /// Compares what a GPU computes with the CPU instead of measuring: every operation, every model, every
    /// kind of local step; exit code 1 if one differs
    #[arg(long)]
    check: bool,
    /// Seconds of steps for each row, at least three steps
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Measures PyTorch in turns with the engine and prints the ratio
    #[arg(long)]
    against_torch: bool,
    /// The Python that has PyTorch
    #[arg(long, value_name = "FILE", default_value = "python3", requires = "against_torch")]
    python: PathBuf,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
    /// For the measured process itself: a case as JSON
    #[arg(long, hide = true)]
    serve: Option<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err(format!("`{text}`: expected seconds above 0 and at most 3600")),
    }
}

/// One line of the result.
struct Row {
    case: Case,
    parameters: u64,
    ours: Measured,
    torch: Option<(String, Measured)>,
}

/// Measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    if let Some(case) = &args.serve {
        return serve::serve(case);
    }
    if args.check {
        return checked::check(args.device, args.json);
    }
    let placement = Placement::open(args.device, Precision::F32)
        .map_err(|reason| Failure::new(Code::NotFound, format!("--device {}: {reason}", args.device)))?;
    if placement.device.is_some() {
        return gpu::measure(args);
    }
    let cases = args.models.iter().map(|model| cases::find(model)).collect::<Result<Vec<_>, _>>()?;
    let python = args.against_torch.then(|| Python::new(&args.python)).transpose()?;
    let bar = ProgressBar::new((cases.len() * args.batch.len() * args.threads.len()) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {elapsed}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut rows = Vec::new();
    for (model, batch, threads) in cases
        .iter()
        .flat_map(|model| args.batch.iter().map(move |batch| (model, *batch)))
        .flat_map(|(model, batch)| args.threads.iter().map(move |threads| (model, batch, *threads)))
    {
        let case = Case { batch, threads, ..model.clone() };
        bar.set_message(format!("{}, batch {batch}, {threads} threads", case.name));
        let row = Row::measure(case, args.seconds, python.as_ref())?;
        if args.json {
            bar.suspend(|| output::line(row.json()))?;
        }
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json { Ok(()) } else { output::line(print(&rows)) }
}

impl Row {
    fn measure(case: Case, seconds: f64, python: Option<&Python>) -> Result<Self, Failure> {
        let mut ours = Peer::engine(&case)?;
        let mut torch = python.map(|python| Peer::torch(&case, python)).transpose()?;
        // The first steps warm caches and allocators, and say how many fit a block.
        let first = ours.steps(2)?.median();
        torch.as_mut().map(|torch| torch.steps(2)).transpose()?;
        let (mut mine, mut theirs) = (Measured::default(), Measured::default());
        let block = ((seconds * 1e3 / first / BLOCKS as f64).round() as usize).clamp(1, 2_000);
        for _ in 0..BLOCKS {
            mine.add(ours.steps(block)?);
            if let Some(torch) = &mut torch {
                theirs.add(torch.steps(block)?);
            }
        }
        let parameters = ours.parameters();
        let torch = torch.map(|torch| (torch.version().to_owned(), theirs));
        Ok(Self { case, parameters, ours: mine, torch })
    }

    /// Engine to PyTorch: of the median wall times and of the processor times.
    fn ratios(&self) -> Option<(f64, f64)> {
        let (_, torch) = self.torch.as_ref()?;
        Some((self.ours.median() / torch.median(), self.ours.processor() / torch.processor()))
    }

    fn json(&self) -> Value {
        let Case { name, batch, threads, .. } = &self.case;
        let mut value = json!({
            "model": name,
            "batch": batch,
            "threads": threads,
            "device": "cpu",
            "parameters": self.parameters,
        });
        let object = value.as_object_mut().expect("an object was just made");
        object.extend(self.ours.json());
        if let (Some((version, torch)), Some((wall, processor))) = (&self.torch, self.ratios()) {
            let mut fields = torch.json();
            fields.insert("version".into(), json!(version));
            object.insert("torch".into(), Value::Object(fields));
            object.insert("wall_ratio".into(), json!(wall));
            object.insert("processor_ratio".into(), json!(processor));
        }
        value
    }
}

/// Turns that engine and PyTorch take.
const BLOCKS: usize = 5;

fn print(rows: &[Row]) -> String {
    let mut heading = vec!["model", "batch", "threads", "wall ms", "processor ms", "memory"];
    if rows.iter().any(|row| row.torch.is_some()) {
        heading.extend(["torch wall", "torch processor", "torch memory", "wall ratio", "processor ratio"]);
    }
    let cells = |row: &Row| {
        let measured = |m: &Measured| {
            [format!("{:.2}", m.median()), format!("{:.2}", m.processor()), table::bytes(m.memory())]
        };
        let mut cells = vec![row.case.name.clone(), row.case.batch.to_string(), row.case.threads.to_string()];
        cells.extend(measured(&row.ours));
        if let (Some((_, torch)), Some((wall, processor))) = (&row.torch, row.ratios()) {
            cells.extend(measured(torch));
            cells.extend([format!("{wall:.2}"), format!("{processor:.2}")]);
        }
        cells
    };
    table::table(&heading, &rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_every_field_that_the_help_promises() {
        let measured = |ms: f64| Measured::of(vec![ms, 3.0 * ms, 2.0 * ms], 9.0 * ms, 7);
        let case = Case { batch: 5, threads: 2, ..cases::find("mlp").unwrap() };
        let torch = Some(("torch 9".to_owned(), measured(2.0)));
        let row = Row { case, parameters: 11, ours: measured(1.0), torch };
        let value = row.json();
        assert_eq!(value["wall_ms_median"], 2.0);
        assert_eq!(value["wall_ms_min"], 1.0);
        assert_eq!((&value["processor_ms"], &value["memory_bytes"]), (&json!(3.0), &json!(7)));
        assert_eq!((&value["wall_ratio"], &value["processor_ratio"]), (&json!(0.5), &json!(0.5)));
        assert_eq!(value["torch"]["version"], "torch 9");
        let text = print(&[row]);
        assert!(text.contains("0.50") && text.contains("mlp"), "{text}");
    }
}
