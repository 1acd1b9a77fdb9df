//! `starling privacy pairwise`: what the peers of a decentralised run learn about each other.

mod finished;
mod heat;

use super::setting::{delta, show};
use crate::{
    exit::{Code, Failure},
    output, table,
};
use gossip::machine::{Barrier, Method};
use privacy::{
    Mu,
    pairwise::{Step, View},
};
use proto::spec::{Mixing, RunSpec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A matrix is printed for at most so many peers.
const SHOWN: usize = 16;
/// Mixing steps of single peers that are looked at.
const MOST_WORK: u64 = 2_000_000;

/// What each peer of a private decentralised run learns about each other one.
///
/// A peer sees the messages on its own edges only. A change that cannot have reached it by the end of the run
/// costs nothing towards it (proved for every training; synchronous runs without deadlines). With the noise of
/// the peers between counted, too, it costs less; that is proved for one round of training, and for more
/// rounds it holds if changes do not depend on what was received.
///
/// The guarantee against everybody, who sees all messages, is the one that the run's ledgers count.
///
/// With --peers it is told of a run that is over, from what the peers' state directories hold: which vectors
/// reached whom, whatever was planned, late, lost or done again, and what each peer's ledger has paid.
///
/// JSON: one object with run, nodes, rounds, noise_multiplier, delta, everybody, epsilon (rows: who learns,
/// columns: about whom; null for itself), most, mean, linear (null if the run is too large: epsilon, most,
/// mean, proved), drawing (null without --svg). With --peers: peers (names, in the matrices' order), trained
/// (rounds of each) and as_planned, too; everybody is the largest of the peers' own ε, in each; planned (null if
/// it was not known beforehand) has epsilon, most and mean.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run file
    #[arg(value_name = "RUN.toml")]
    file: PathBuf,
    /// The state directories of the peers of a run that is over, or a folder that holds them
    #[arg(long, value_name = "DIR", num_args = 1..)]
    peers: Vec<PathBuf>,
    /// δ; the run's own without it
    #[arg(long, value_parser = delta)]
    delta: Option<f64>,
    /// Draws the matrix: who learns how much about whom
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replaces an existing drawing
    #[arg(long)]
    force: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// ε for each pair: rows learn about columns.
struct Matrix(Vec<Vec<Option<f64>>>);

impl Matrix {
    /// From squared distances, in moves of one round over its noise.
    fn new(squares: Vec<Vec<Option<f64>>>, (ratio, delta): (f64, f64)) -> Result<Self, Failure> {
        let epsilon = |square: f64| -> Result<f64, Failure> {
            Ok(Mu::new(ratio * square.sqrt()).map_err(Failure::usage)?.epsilon(delta))
        };
        let row =
            |row: Vec<Option<f64>>| row.into_iter().map(|square| square.map(epsilon).transpose()).collect();
        Ok(Self(squares.into_iter().map(row).collect::<Result<_, Failure>>()?))
    }

    fn most(&self) -> f64 {
        self.0.iter().flatten().flatten().copied().fold(0.0, f64::max)
    }

    fn mean(&self) -> f64 {
        let known: Vec<f64> = self.0.iter().flatten().flatten().copied().collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }

    fn text(&self) -> String {
        let heading: Vec<String> =
            std::iter::once("learns".to_owned()).chain((0..self.0.len()).map(|u| u.to_string())).collect();
        let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
        let cell = |x: &Option<f64>| x.map_or_else(|| "·".to_owned(), |x| format!("{x:.3}"));
        let row = |(v, row): (usize, &Vec<Option<f64>>)| {
            std::iter::once(v.to_string()).chain(row.iter().map(cell)).collect()
        };
        let rows: Vec<Vec<String>> = self.0.iter().enumerate().map(row).collect();
        table::table(&heading, &rows)
    }
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    if let Some(file) = &args.svg {
        output::refuse_existing(file, args.force)?;
    }
    let wrong =
        |error: &dyn std::fmt::Display| Failure::new(Code::Data, format!("{}: {error}", args.file.display()));
    let spec = RunSpec::from_toml(&output::read_text(&args.file)?).map_err(|error| wrong(&error))?;
    let mixing = spec.mixing().map_err(|error| wrong(&error))?;
    if !matches!(mixing.config.method, Method::Average | Method::Momentum { .. }) {
        let why = "what its peers exchange is no average of models, of which alone this knows";
        return Err(wrong(&format!("`{}`: {why}", spec.algorithm.kind)));
    }
    let privacy = spec.privacy.as_ref().ok_or_else(|| wrong(&"it has no [privacy] section"))?;
    let plan = privacy.plan(spec.peer_facts(1)).map_err(|error| wrong(&error))?;
    let moves = if privacy.adjacency() == privacy::Adjacency::ReplaceOne { 2.0 } else { 1.0 };
    let z = plan.noise_multiplier.get();
    let by = (moves / z, args.delta.unwrap_or_else(|| privacy.delta()));
    let nodes = mixing.nodes;
    let work = spec.rounds.saturating_mul(mixing.repeats).saturating_mul(nodes as u64);
    if work > MOST_WORK {
        return Err(wrong(&format!(
            "{work} mixing steps of single peers, at most {MOST_WORK} are looked at"
        )));
    }
    if !args.peers.is_empty() {
        return finished::main(args, &spec, &mixing, by.1);
    }
    let view = View::new(nodes, steps(&mixing, spec.rounds)).map_err(|error| wrong(&error))?;
    let in_step = mixing.config.barrier == Barrier::Synchronous && mixing.config.deadline_ms.is_none();
    let all = spec.rounds as f64;
    let seen = |v: usize| {
        let row = view.rounds(v).into_iter();
        row.map(|count| count.map(|count| if in_step { count as f64 } else { all })).collect()
    };
    let proved = Matrix::new((0..nodes).map(seen).collect(), by)?;
    let linear = (0..nodes).map(|v| view.linear(v)).collect::<Result<Vec<_>, _>>().ok();
    let linear = linear.filter(|_| in_step).map(|squares| Matrix::new(squares, by)).transpose()?;
    let everybody = Mu::new(by.0 * all.sqrt()).map_err(|error| wrong(&error))?.epsilon(by.1);
    let learned = Learned { spec, z, delta: by.1, in_step, everybody, proved, linear };
    if let Some(file) = &args.svg {
        output::write_file(file, args.force, &[learned.svg().as_bytes()])?;
    }
    if args.json { output::line(learned.json(args.svg.as_deref())) } else { learned.print() }
}

/// What each peer learns.
struct Learned {
    spec: RunSpec,
    z: f64,
    delta: f64,
    /// Whether it is known beforehand what arrives when.
    in_step: bool,
    everybody: f64,
    proved: Matrix,
    linear: Option<Matrix>,
}

impl Learned {
    fn json(&self, drawing: Option<&Path>) -> Value {
        let (rounds, proved) = (self.spec.rounds, &self.proved);
        let linear = self.linear.as_ref().map(|linear| {
            json!({"epsilon": linear.0, "most": linear.most(), "mean": linear.mean(), "proved": rounds == 1})
        });
        json!({
            "run": self.spec.name, "nodes": proved.0.len(), "rounds": rounds, "noise_multiplier": self.z,
            "delta": self.delta, "everybody": self.everybody, "epsilon": proved.0, "most": proved.most(),
            "mean": proved.mean(), "linear": linear.unwrap_or(Value::Null), "drawing": drawing,
        })
    }

    fn svg(&self) -> String {
        let name = &self.spec.name;
        let proved = (format!("{name}: epsilon at delta {:e}", self.delta), &self.proved.0[..]);
        let condition = if self.spec.rounds == 1 { "" } else { ", if changes did not react" };
        let linear = self.linear.as_ref();
        let linear = linear.map(|linear| (format!("with the noise between{condition}"), &linear.0[..]));
        heat::svg(&std::iter::once(proved).chain(linear).collect::<Vec<_>>(), self.everybody)
    }

    fn print(&self) -> Result<(), Failure> {
        let told =
            |matrix: &Matrix| format!("at most {}, {} on average", show(matrix.most()), show(matrix.mean()));
        if self.proved.0.len() <= SHOWN {
            output::line(self.proved.text())?;
        }
        output::line(format!(
            "epsilon at delta {:e}: {} against everybody who sees all messages\n  a peer about another: {}",
            self.delta,
            show(self.everybody),
            told(&self.proved)
        ))?;
        match &self.linear {
            Some(linear) if self.spec.rounds == 1 => {
                output::line(format!("  with the noise between them: {}", told(linear)))
            }
            Some(linear) => output::line(format!(
                "  if changes did not depend on what was received, with the noise between them: {}",
                told(linear)
            )),
            None if self.in_step => {
                output::note("too many rounds or peers to count the noise between them");
                Ok(())
            }
            None => {
                output::note("not synchronous, or with deadlines: what arrives when is not known beforehand");
                Ok(())
            }
        }
    }
}

fn steps(mixing: &Mixing, rounds: u64) -> Vec<Step> {
    let schedule = mixing.schedule();
    let step = |number: u64| {
        let matrix = schedule.mixing(number);
        let column = |from| matrix.column(from).iter().map(|share| (share.to, share.weight)).collect();
        let columns = (0..matrix.nodes()).map(column).collect();
        Step { columns, trains: number.is_multiple_of(mixing.repeats) }
    };
    (0..rounds * mixing.repeats).map(step).collect()
}
