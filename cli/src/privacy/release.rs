//! `starling privacy release`: counts of a data set, told once, with noise by `opendp`.
//!
//! Its sampler has no seed, so that another draw could not be made to be the same. What keeps a crash from
//! telling two draws of one count is the order: the draw is durable in a file that nobody is shown, then the
//! line in the ledger that names it by its digest, then it is told. Whoever asks again is told the same.

use super::setting::{bounded, delta, show, word};
use crate::{
    exit::{Code, Failure},
    output, table,
};
use clap::ValueEnum;
use opendp::{
    domains::{AtomDomain, VectorDomain},
    measurements::make_gaussian,
    measures::ZeroConcentratedDivergence,
    metrics::L2Distance,
};
use privacy::{
    Adjacency, Budget, Event, Gate, Journal, Mechanism, Positive, Rule, Sampling, Unit,
    accountants::{filter::Measure, report},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
};
use worker::{
    data::{Source, Split, detect},
    ledger::{LedgerFault, Ledgers, Payment},
};

/// The directory of draws within the state directory.
const FOLDER: &str = "releases";
/// What each of them claims beside a ledger that has no other promise yet.
const ADJACENCY: Adjacency = Adjacency::ZeroOut;

/// Tells how many records a data set has, of all or of each class, with exact discrete Gaussian noise
/// (`opendp`), paid for by the ledger of a worker's state directory.
///
/// The draw is kept: the same --name tells the same numbers again, whatever happened in between, and costs
/// nothing more.
///
/// JSON: one object with dataset, name, what, deviation, values, epsilon (of the whole ledger), delta, paid
/// (false if it had been).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data set: as for `starling simulate`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of the data set in the ledger [default: that of the data]
    #[arg(long, value_name = "NAME", value_parser = plain)]
    dataset: Option<String>,
    /// State directory of the worker whose ledger pays; stop the worker first
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Name of the release
    #[arg(long, value_parser = plain)]
    name: String,
    /// What is counted
    #[arg(long, value_enum)]
    what: What,
    /// Standard deviation of the noise on each count
    #[arg(long, value_name = "SIGMA", value_parser = bounded::<Positive>)]
    deviation: Positive,
    /// ε that the ledger may come to, at --delta
    #[arg(long, value_name = "EPSILON")]
    budget: Option<f64>,
    /// δ of the ε that is shown
    #[arg(long, default_value = "1e-5", value_parser = delta)]
    delta: f64,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// All records
    Records,
    /// The records of each class
    Classes,
}

fn plain(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=80).contains(&text.len()) && text.chars().all(good) && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err("expected letters, digits, `-`, `_` and `.`, at most 80".to_owned())
    }
}

/// What was drawn, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drawn {
    dataset: String,
    name: String,
    what: What,
    deviation: Positive,
    values: Vec<i64>,
}

impl Drawn {
    fn file(state_dir: &Path, dataset: &str, name: &str) -> PathBuf {
        state_dir.join(FOLDER).join(format!("{dataset}.{name}.json"))
    }

    fn text(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(Failure::internal)
    }

    /// Durable before anybody is told, and for the owner's eyes only.
    fn keep(&self, file: &Path) -> Result<(), Failure> {
        let text = self.text()?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            let beside = file.with_extension("tmp");
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut out = options.open(&beside)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&beside, file)?;
            File::open(folder)?.sync_all()?;
            folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        write().map_err(|error| Failure::new(Code::Failed, format!("{}: {error}", file.display())))
    }
}

/// Counts, draws, keeps, pays, and then tells.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Failed, error.to_string());
    fs::create_dir_all(&args.state_dir)
        .map_err(|error| failed(&format!("{}: {error}", args.state_dir.display())))?;
    // A worker that runs would go on to pay from what it knows.
    let _lock = worker::client_state::lock(&args.state_dir)
        .map_err(|error| failed(&format!("{error}; stop the worker first")))?;
    let (found, source) = detect(&args.data).map_err(|error| Failure::new(Code::Data, error))?;
    let dataset = args.dataset.clone().unwrap_or(found);
    let mut ledgers = Ledgers::open(&args.state_dir).map_err(|error| Failure::new(Code::Data, error))?;
    let file = Drawn::file(&args.state_dir, &dataset, &args.name);
    let drawn = if let Some(kept) = kept(&file, args)? {
        kept
    } else {
        let counts = counts(&source, args.what)?;
        let payment = payment(args, &dataset, &ledgers, counts.len())?;
        ledgers.admit(&payment).map_err(refused)?;
        let values = noised(&counts, args.deviation)?;
        let (name, what, deviation) = (args.name.clone(), args.what, args.deviation);
        let drawn = Drawn { dataset: dataset.clone(), name, what, deviation, values };
        drawn.keep(&file)?;
        drawn
    };
    let payment = payment(args, &dataset, &ledgers, drawn.values.len())?;
    let before = lines(&ledgers, &dataset);
    let digest = blake3::hash(drawn.text()?.as_bytes());
    ledgers.pay(&payment, &digest.to_string()).map_err(refused)?;
    let paid = lines(&ledgers, &dataset) > before;
    tell(args, &drawn, &ledgers, paid)
}

fn refused(error: LedgerFault) -> Failure {
    Failure::new(Code::Failed, error)
}

fn lines(ledgers: &Ledgers, dataset: &str) -> usize {
    journal(ledgers, dataset).map_or(0, |journal| journal.entries().len())
}

fn journal<'a>(ledgers: &'a Ledgers, dataset: &str) -> Option<&'a Journal> {
    ledgers.journals().find(|journal| journal.dataset() == dataset)
}

/// What was drawn under that name before.
fn kept(file: &Path, args: &Args) -> Result<Option<Drawn>, Failure> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| Failure::new(Code::Data, format!("{}: {error}", file.display())))?,
    };
    let drawn: Drawn = serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", file.display())))?;
    if drawn.what != args.what || drawn.deviation != args.deviation {
        return Err(Failure::usage(format!(
            "`{}` was drawn as {} with deviation {}: ask for that, or choose another --name",
            args.name,
            word(drawn.what),
            drawn.deviation.get()
        )));
    }
    Ok(Some(drawn))
}

fn counts(source: &Source, what: What) -> Result<Vec<i64>, Failure> {
    if what == What::Classes && source.measures() {
        return Err(Failure::usage(
            "`--what classes`: which classes there are follows from the records of this data set, and would tell \
             of them; expected a data set with fixed classes",
        ));
    }
    let data = source.load(Split::Train, 80).map_err(|error| Failure::new(Code::Data, error))?;
    match what {
        What::Records => Ok(vec![data.len() as i64]),
        What::Classes => {
            let histogram: Vec<i64> = data.class_histogram().iter().map(|count| *count as i64).collect();
            if histogram.is_empty() {
                return Err(Failure::usage("`--what classes`: text has none; expected `records`"));
            }
            Ok(histogram)
        }
    }
}

/// The counts with noise. One record is in one count: it moves them by a norm of 1.
fn noised(counts: &[i64], deviation: Positive) -> Result<Vec<i64>, Failure> {
    let domain = VectorDomain::new(AtomDomain::<i64>::default());
    let noise = make_gaussian::<_, _, ZeroConcentratedDivergence>(
        domain,
        L2Distance::<f64>::default(),
        deviation.get(),
        None,
    );
    let noise = noise.map_err(|error| Failure::usage(format!("--deviation: {error:?}")))?;
    let rho = noise.map(&1.0).map_err(|error| Failure::internal(format!("{error:?}")))?;
    let ours = 0.5 / deviation.get().powi(2);
    if rho > ours * (1.0 + 1e-9) {
        return Err(Failure::internal(format!("opendp says that this costs ρ = {rho}, the ledger {ours}")));
    }
    noise.invoke(&counts.to_vec()).map_err(|error| Failure::internal(format!("{error:?}")))
}

fn payment(args: &Args, dataset: &str, ledgers: &Ledgers, length: usize) -> Result<Payment, Failure> {
    let ledger = journal(ledgers, dataset).map(Journal::ledger);
    if let Some(ledger) = ledger.filter(|ledger| ledger.unit() != Unit::Record) {
        return Err(Failure::usage(format!(
            "the ledger of `{dataset}` counts by {}, and a count of records is one of records: give it a --dataset \
             of its own",
            word(ledger.unit())
        )));
    }
    let gate = |epsilon: f64| -> Result<Gate, Failure> {
        let budget = Budget::new(epsilon, args.delta).map_err(Failure::usage)?;
        Ok(Gate { budget, rule: Rule::Filter { measure: Measure::of(budget).map_err(Failure::usage)? } })
    };
    let dimensions = NonZeroU64::new(length as u64).unwrap_or(NonZeroU64::MIN);
    let (deviation, sensitivity) = (args.deviation, NonZeroU64::MIN);
    Ok(Payment {
        dataset: dataset.to_owned(),
        run: format!("release-{}", args.name),
        round: 1,
        unit: Unit::Record,
        adjacency: ledger.map_or(ADJACENCY, privacy::Ledger::adjacency),
        event: Event {
            mechanism: Mechanism::DiscreteGaussian { deviation, sensitivity, dimensions },
            sampling: Sampling::Everyone,
            count: NonZeroU64::MIN,
        },
        gates: args.budget.map(gate).transpose()?.into_iter().collect(),
    })
}

fn tell(args: &Args, drawn: &Drawn, ledgers: &Ledgers, paid: bool) -> Result<(), Failure> {
    let ledger = journal(ledgers, &drawn.dataset).map(Journal::ledger);
    let epsilon = ledger.map_or(0.0, |ledger| report::epsilon(ledger, args.delta, 1).epsilon);
    if args.json {
        return output::line(json!({
            "dataset": drawn.dataset, "name": drawn.name, "what": drawn.what, "deviation": drawn.deviation,
            "values": drawn.values, "epsilon": epsilon, "delta": args.delta, "paid": paid,
        }));
    }
    let row = |(at, value): (usize, &i64)| {
        let name = if drawn.what == What::Classes { at.to_string() } else { "all".to_owned() };
        vec![name, value.to_string()]
    };
    let rows: Vec<Vec<String>> = drawn.values.iter().enumerate().map(row).collect();
    output::line(table::table(
        &[if drawn.what == What::Classes { "class" } else { "records" }, "count"],
        &rows,
    ))?;
    output::line(format!(
        "noise of deviation {} on each; the ledger of `{}` holds epsilon {} at delta {:e} for one record{}",
        drawn.deviation.get(),
        drawn.dataset,
        show(epsilon),
        args.delta,
        if paid { "" } else { ": this was paid for before" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_deviation_and_a_draw_is_kept_as_it_was() {
        let deviation = Positive::new(20.0).unwrap();
        let values = noised(&[1000; 400], deviation).unwrap();
        let square = values.iter().map(|x| (*x - 1000).pow(2) as f64).sum::<f64>() / 400.0;
        assert!((square.sqrt() / 20.0 - 1.0).abs() < 0.2, "{square}");
        let folder = tempfile::tempdir().unwrap();
        let file = Drawn::file(folder.path(), "d", "n");
        let drawn =
            Drawn { dataset: "d".into(), name: "n".into(), what: What::Records, deviation, values: vec![7] };
        drawn.keep(&file).unwrap();
        assert_eq!(serde_json::from_str::<Drawn>(&fs::read_to_string(&file).unwrap()).unwrap(), drawn);
        assert!(plain("a/b").is_err() && plain("..").is_err() && plain("labels-2026").is_ok());
    }
}
