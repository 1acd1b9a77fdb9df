//! `starling privacy verify`: anyone's second opinion on an exported ledger.

use super::setting::{Accountants, Answer, answers_json, answers_text, ask, delta, show, word};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::{Entry, Journal, Ledger};
use serde_json::json;
use std::{num::NonZeroU32, path::PathBuf};

/// Recomputes ε of an exported ledger by every accountant that is sound for it.
///
/// Where an operator reset the ledger, what was released before does not count; the ε of all releases,
/// as if it had not been reset, is given too.
///
/// JSON: one object with file, dataset, unit, adjacency, releases, resets, delta, group, epsilon (null if
/// none is finite), accountant, accountants (each one's epsilon or refused), epsilon_without_resets, torn
/// (whether the last line has no end).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Lines of JSON, as exported
    #[arg(value_name = "LEDGER.jsonl")]
    file: PathBuf,
    /// δ: below 1 over the number of units
    #[arg(long, default_value = "1e-5", value_parser = delta)]
    delta: f64,
    /// Protects groups of so many units
    #[arg(long, value_name = "K", default_value = "1")]
    group: NonZeroU32,
    /// An ε that someone claims: fails if the ledger costs more
    #[arg(long, value_name = "EPSILON")]
    claimed: Option<f64>,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Reads, recomputes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let text = output::read_text(&args.file)?;
    let journal = Journal::parse(&text)
        .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", args.file.display())))?;
    let wrong = args.claimed.filter(|claimed| !(claimed.is_finite() && *claimed >= 0.0));
    if let Some(claimed) = wrong {
        return Err(Failure::usage(format!("`--claimed` is {claimed}, expected a finite number from 0")));
    }
    let torn = !text.ends_with('\n');
    let (all, (accountant, answer)) = ask(Accountants::All, journal.ledger(), args.delta, args.group.get());
    let epsilon = answer.unwrap_or(f64::INFINITY);
    let ever = if journal.resets() == 0 {
        epsilon
    } else {
        ask(Accountants::Best, &everything(&journal)?, args.delta, args.group.get())
            .1
            .1
            .unwrap_or(f64::INFINITY)
    };
    if args.json {
        let ledger = journal.ledger();
        output::line(json!({
            "file": args.file, "dataset": journal.dataset(), "unit": ledger.unit(),
            "adjacency": ledger.adjacency(), "releases": releases(ledger), "resets": journal.resets(),
            "delta": args.delta, "group": args.group, "epsilon": epsilon, "accountant": accountant,
            "accountants": answers_json(&all), "epsilon_without_resets": ever, "torn": torn,
        }))?;
    } else {
        print(args, &journal, &all, (accountant.name(), epsilon, ever))?;
        if torn {
            output::note("the last line has no end and was left out: its release did not happen");
        }
    }
    match args.claimed {
        Some(claimed) if epsilon > claimed => Err(Failure::new(
            Code::Failed,
            format!("the ledger costs epsilon {}, above the claimed {claimed}", show(epsilon)),
        )),
        _ => Ok(()),
    }
}

/// How often something was released; a ledger from elsewhere may claim any number.
pub(super) fn releases(ledger: &Ledger) -> u64 {
    ledger.events().iter().fold(0, |sum, event| sum.saturating_add(event.count.get()))
}

/// All that was ever released.
fn everything(journal: &Journal) -> Result<Ledger, Failure> {
    let mut ledger = Ledger::new(journal.ledger().unit(), journal.ledger().adjacency());
    for entry in journal.entries() {
        if let Entry::Released { event, .. } = entry {
            ledger.record(event.clone()).map_err(|error| Failure::new(Code::Data, error))?;
        }
    }
    Ok(ledger)
}

fn print(
    args: &Args,
    journal: &Journal,
    all: &[Answer],
    (accountant, epsilon, ever): (&str, f64, f64),
) -> Result<(), Failure> {
    let ledger = journal.ledger();
    output::line(format!("{}\n", answers_text(all)))?;
    output::line(format!(
        "data set `{}`: epsilon {} at delta {:e} by `{accountant}` for {} releases, unit {}, adjacency {}",
        journal.dataset(),
        show(epsilon),
        args.delta,
        releases(ledger),
        word(ledger.unit()),
        word(ledger.adjacency()),
    ))?;
    if journal.resets() > 0 {
        output::line(format!(
            "it was reset {} times on an operator's word; without that, epsilon {}",
            journal.resets(),
            show(ever)
        ))?;
    }
    Ok(())
}
