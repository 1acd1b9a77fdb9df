//! `starling compare`: several runs beside each other, seeds of the same settings taken together.

mod draw;
mod group;
mod read;
mod theory;

pub(crate) use draw::What;
pub(crate) use group::Comparison;

use crate::{exit::Failure, output};
use std::path::PathBuf;

/// Compares finished simulations, demos and sweeps: accuracy, rounds and bytes to a target, mean ± sd over
/// seeds.
///
/// Runs that differ in nothing but their seed are one row. A folder may hold many runs. Of a run without a
/// coordinator the accuracy is the mean over its peers, the bytes are what all of them sent.
///
/// JSON: an array, one object for each row, with label, seeds, and for final_accuracy, best_accuracy,
/// federated_accuracy (the shared model on what clients hold out), personal_accuracy (their own models there),
/// rounds_to_target, bytes_to_target, seconds_to_target (virtual seconds of a simulation), at_equal_rounds and
/// at_equal_bytes an object with mean, sd (null for one seed) and n (seeds that have a value), theory (null with a
/// coordinator: topology, nodes, gap, topology_factor, doubling, stability_term), and folders.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders that simulations, sweeps or demos wrote
    #[arg(required = true, value_name = "OUT")]
    folders: Vec<PathBuf>,
    /// Accuracy to be reached, e.g. 0.8
    #[arg(long, value_name = "SHARE", value_parser = share)]
    target: Option<f64>,
    /// Final accuracy is the mean of so many last evaluated rounds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    last: u32,
    /// Also compares after as many rounds, and as many bytes, as the shortest run has, and says what theory
    /// predicts of graphs against a coordinator
    #[arg(long)]
    equal: bool,
    /// Draws accuracy over rounds into this file (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Whose accuracy is drawn: of the model on the held-out set, of the shared model on what clients hold out, or of
    /// the clients' own models there
    #[arg(long, value_enum, value_name = "WHAT", default_value = "held-out", requires = "plot")]
    of: What,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("`{text}`: expected a share above 0 and at most 1, e.g. 0.8"))
}

/// Compares.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let compared = Comparison::read(&args.folders)?;
    if let Some(file) = &args.plot {
        compared.draw(file, args.of, args.target)?;
    }
    if args.json {
        return output::line(compared.json(args.target, args.last as usize));
    }
    output::line(compared.table(args.target, args.last as usize))?;
    if args.equal { output::line(format!("\n{}", compared.equal())) } else { Ok(()) }
}
