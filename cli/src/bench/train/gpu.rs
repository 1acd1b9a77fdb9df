//! Steps on a GPU: in blocks, since a GPU is asked ahead, beside PyTorch's.

use super::{
    Args, BLOCKS,
    cases::{self, Case},
    peer::{Measured, Peer, Python},
};
use crate::{exit::Failure, output, table};
use serde_json::{Value, json};

/// Models × batch sizes × precisions on a GPU; with PyTorch step by step and as a CUDA graph.
pub(super) fn measure(args: &Args) -> Result<(), Failure> {
    let cases = args.models.iter().map(|model| cases::find(model)).collect::<Result<Vec<_>, _>>()?;
    let python = args.against_torch.then(|| Python::new(&args.python)).transpose()?;
    let mut torch: Option<Peer> = None;
    let mut rows = Vec::new();
    for model in &cases {
        let rows_of = args.batch.iter().flat_map(|batch| args.precision.iter().map(move |p| (*batch, *p)));
        for ((batch, precision), clients) in
            rows_of.flat_map(|row| args.clients.iter().map(move |clients| (row, *clients)))
        {
            let (device, precision) = (args.device.to_string(), precision.to_string());
            let case = Case { batch, threads: clients, device, precision, ..model.clone() };
            if let (None, Some(python)) = (&torch, &python) {
                torch = Some(Peer::torch(&case, python)?);
            }
            let row = GpuRow::measure(case, args.seconds, torch.as_mut())?;
            if args.json {
                output::line(row.json())?;
            } else {
                output::note(format!("{}", row.json()));
            }
            rows.push(row);
        }
    }
    if args.json { Ok(()) } else { output::line(print_gpu(&rows)) }
}

/// One line of a GPU's result.
struct GpuRow {
    case: Case,
    ours: Measured,
    /// Step by step, and as a graph.
    torch: Option<[Measured; 2]>,
}

impl GpuRow {
    fn measure(case: Case, seconds: f64, torch: Option<&mut Peer>) -> Result<Self, Failure> {
        let ours = block(&mut Peer::engine(&case)?, seconds)?;
        let theirs = |torch: &mut Peer| {
            let mut of = |graph| {
                torch.switch(&Case { graph, ..case.clone() })?;
                block(torch, seconds)
            };
            Ok::<_, Failure>([of(false)?, of(true)?])
        };
        let torch = torch.map(theirs).transpose()?;
        Ok(Self { case, ours, torch })
    }

    fn json(&self) -> Value {
        let Case { name, batch, threads, precision, device, .. } = &self.case;
        let mut value = json!({
            "model": name, "batch": batch, "device": device, "precision": precision, "clients": threads,
            "step_ms": self.ours.median(),
        });
        if let Some([eager, graph]) = &self.torch {
            value["torch_ms"] = json!(eager.median());
            value["torch_graph_ms"] = json!(graph.median());
            value["ratio"] = json!(self.ours.median() / eager.median());
            value["graph_ratio"] = json!(self.ours.median() / graph.median());
        }
        value
    }
}

/// Steps for so many seconds in a few blocks, which are timed as a whole: a GPU is asked ahead.
fn block(peer: &mut Peer, seconds: f64) -> Result<Measured, Failure> {
    // Captures, chooses kernels, warms.
    peer.steps(20)?;
    let one = peer.steps(50)?.median();
    let steps = ((seconds * 1e3 / one / BLOCKS as f64).round() as usize).clamp(20, 5_000);
    let mut all = Measured::default();
    (0..BLOCKS).try_for_each(|_| peer.steps(steps).map(|measured| all.add(measured)))?;
    Ok(all)
}

fn print_gpu(rows: &[GpuRow]) -> String {
    let mut heading = vec!["model", "batch", "precision", "clients", "step ms"];
    if rows.iter().any(|row| row.torch.is_some()) {
        heading.extend(["torch", "torch, graph", "ratio", "ratio to graph"]);
    }
    let cells = |row: &GpuRow| {
        let mut cells = vec![
            row.case.name.clone(),
            row.case.batch.to_string(),
            row.case.precision.clone(),
            row.case.threads.to_string(),
            format!("{:.3}", row.ours.median()),
        ];
        if let Some([eager, graph]) = &row.torch {
            let (mine, eager, graph) = (row.ours.median(), eager.median(), graph.median());
            let numbers = [format!("{eager:.3}"), format!("{graph:.3}")];
            cells.extend(numbers);
            cells.extend([format!("{:.2}", mine / eager), format!("{:.2}", mine / graph)]);
        }
        cells
    };
    table::table(&heading, &rows.iter().map(cells).collect::<Vec<_>>())
}
