//! `starling privacy release`: counts, quantiles and metrics of a data set, told once, with noise by `opendp`.
//!
//! Its sampler has no seed, so that another draw could not be made to be the same. What keeps a crash from
//! telling two draws of one number is the order: the draw is durable in a file that nobody is shown, then the
//! line in the ledger that names it by its digest, then it is told. Whoever asks again is told the same.

mod answer;
mod draw;
mod measure;
mod question;

use super::setting::{bounded, delta, show, word};
use crate::{
    exit::{Code, Failure},
    output,
};
use draw::Drawn;
use privacy::{
    Adjacency, Budget, Event, Gate, Journal, Positive, Rule, Sampling, Unit,
    accountants::{filter::Measure, report},
};
use question::Asked;
use serde_json::json;
use std::{fs, num::NonZeroU64, path::PathBuf};
use worker::{
    data::detect,
    ledger::{LedgerFault, Ledgers, Payment},
};

/// What each of them claims beside a ledger that has no other promise yet.
const ADJACENCY: Adjacency = Adjacency::ZeroOut;

/// Tells how many records a data set has, of all or of each class, quantiles of what a model makes of them,
/// or how good a model is on them, with exact discrete Gaussian noise (`opendp`), paid for by the ledger of a
/// worker's state directory.
///
/// The draw is kept: the same --name tells the same numbers again, whatever happened in between, and costs
/// nothing more.
///
/// JSON: one object with dataset, name, what (and what else was asked: of, model, quantiles, up_to, bins),
/// deviation, values, told (records or classes: the counts; quantiles: a list of quantile and value, null
/// where the noise leaves none; metrics: examples, accuracy and loss, the last two null where hardly anything
/// is left), epsilon (of the whole ledger), delta, paid (false if it had been).
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
    #[command(flatten)]
    asked: Asked,
    /// Standard deviation of the noise on each count, in records
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

fn plain(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=80).contains(&text.len()) && text.chars().all(good) && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err("expected letters, digits, `-`, `_` and `.`, at most 80".to_owned())
    }
}

/// Measures, draws, keeps, pays, and then tells.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Failed, error.to_string());
    let asked = args.asked.read()?;
    fs::create_dir_all(&args.state_dir)
        .map_err(|error| failed(&format!("{}: {error}", args.state_dir.display())))?;
    // A worker that runs would go on to pay from what it knows.
    let _lock = worker::client_state::lock(&args.state_dir)
        .map_err(|error| failed(&format!("{error}; stop the worker first")))?;
    let (found, source) = detect(&args.data).map_err(|error| Failure::new(Code::Data, error))?;
    let dataset = args.dataset.clone().unwrap_or(found);
    let mut ledgers = Ledgers::open(&args.state_dir).map_err(|error| Failure::new(Code::Data, error))?;
    let file = Drawn::file(&args.state_dir, &dataset, &args.name);
    let drawn = if let Some(kept) = draw::kept(&file, &asked.question, args.deviation)? {
        kept
    } else {
        let exact = measure::of(&asked, &source)?;
        ledgers
            .admit(&payment(args, &dataset, &ledgers, (&asked.question, exact.len()))?)
            .map_err(refused)?;
        let values = draw::noised(&exact, &asked.question, args.deviation)?;
        let (name, question, deviation) = (args.name.clone(), asked.question.clone(), args.deviation);
        let drawn = Drawn { dataset: dataset.clone(), name, question, deviation, values };
        drawn.keep(&file)?;
        drawn
    };
    let payment = payment(args, &dataset, &ledgers, (&drawn.question, drawn.values.len()))?;
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

fn payment(
    args: &Args,
    dataset: &str,
    ledgers: &Ledgers,
    (question, length): (&question::Question, usize),
) -> Result<Payment, Failure> {
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
    Ok(Payment {
        dataset: dataset.to_owned(),
        run: format!("release-{}", args.name),
        round: 1,
        unit: Unit::Record,
        adjacency: ledger.map_or(ADJACENCY, privacy::Ledger::adjacency),
        event: Event {
            mechanism: question.mechanism(args.deviation, dimensions)?,
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
        let mut object = serde_json::to_value(drawn).map_err(Failure::internal)?;
        object["told"] = answer::json(drawn);
        (object["epsilon"], object["delta"], object["paid"]) =
            (json!(epsilon), json!(args.delta), json!(paid));
        return output::line(object);
    }
    output::line(answer::text(drawn))?;
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
    fn names_are_no_paths() {
        assert!(plain("a/b").is_err() && plain("..").is_err() && plain("labels-2026").is_ok());
    }
}
