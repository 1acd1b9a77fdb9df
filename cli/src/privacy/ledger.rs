//! `starling privacy ledger …`: what was released from each data set, on a coordinator or on a worker that adds
//! noise itself. The lines are the truth; ε follows from them, for whoever computes it.

use super::{setting::word, verify::releases};
use crate::{
    client::{Operator, Remote},
    exit::{Code, Failure},
    life, output, table,
};
use clap::Subcommand;
use privacy::{Accountant, Journal, accountants::report};
use proto::v1;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use worker::ledger::Ledgers;

/// The privacy ledgers of a coordinator or of a worker: one for each data set, over all runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What was released and what it cost; JSON: one object a line, with dataset, unit, adjacency, releases,
    /// resets, delta, epsilon, accountant, accountants
    Show {
        /// The data set; all without it
        dataset: Option<String>,
        /// δ of the ε that are shown
        #[arg(long, default_value = "1e-5", value_parser = super::setting::delta)]
        delta: f64,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        remote: Remote,
    },
    /// Writes a ledger as it is, one JSON object a line; JSON: an object with dataset, entries, file
    Export {
        /// The data set
        dataset: String,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replaces the file if it exists
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        remote: Remote,
    },
    /// Counts anew from here on; the lines before stay. JSON: as in `show`
    Reset {
        /// The data set
        dataset: String,
        /// Why what was released does not count any more; kept in the ledger and the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Where the ledgers are.
#[derive(Debug, clap::Args)]
struct Place {
    /// State directory of a worker, whose own ledgers these are, instead of a coordinator
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    /// The ledger of that name; all without one.
    async fn journals(&self, dataset: Option<&str>, remote: &Remote) -> Result<Vec<Journal>, Failure> {
        let Some(dir) = &self.state_dir else {
            let ledgers =
                Operator::connect(&remote.target).await?.ledgers(dataset.unwrap_or_default()).await?;
            return ledgers.iter().map(read).collect();
        };
        if !dir.is_dir() {
            let text = format!("{}: no such directory; expected `state_dir` of a worker", dir.display());
            return Err(Failure::new(Code::NotFound, text));
        }
        let ledgers = Ledgers::open(dir).map_err(|error| Failure::new(Code::Data, error))?;
        let wanted = |journal: &&Journal| dataset.is_none_or(|dataset| journal.dataset() == dataset);
        let found: Vec<Journal> = ledgers.journals().filter(wanted).cloned().collect();
        match dataset.filter(|_| found.is_empty()) {
            Some(dataset) => Err(nothing(dir, dataset)),
            None => Ok(found),
        }
    }

    async fn reset(&self, dataset: &str, reason: &str, remote: &Remote) -> Result<Journal, Failure> {
        let Some(dir) = &self.state_dir else {
            return read(&Operator::connect(&remote.target).await?.reset_ledger(dataset, reason).await?);
        };
        if reason.trim().is_empty() {
            return Err(Failure::usage("a reset needs its reason: it is kept for ever"));
        }
        let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Failed, error.to_string());
        // A worker that runs would go on to count from what it knows.
        let _lock = worker::client_state::lock(dir)
            .map_err(|error| failed(&format!("{error}; stop the worker first")))?;
        let mut ledgers = Ledgers::open(dir).map_err(|error| failed(&error))?;
        let journal = ledgers.reset(dataset, reason.trim()).map_err(|error| failed(&error))?;
        journal.cloned().ok_or_else(|| nothing(dir, dataset))
    }
}

fn nothing(dir: &Path, dataset: &str) -> Failure {
    Failure::new(Code::NotFound, format!("{}: no privacy ledger of `{dataset}`", dir.display()))
}

/// Does what was asked about ledgers.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    life::runtime()?.block_on(answer(args.what))
}

async fn answer(what: What) -> Result<(), Failure> {
    match what {
        What::Show { dataset, delta, place, remote } => {
            show(dataset.as_deref(), delta, (&place, &remote)).await
        }
        What::Export { dataset, to, force, place, remote } => {
            output::refuse_existing(&to, force)?;
            let journals = place.journals(Some(&dataset), &remote).await?;
            let text = journals.first().map(Journal::export).unwrap_or_default();
            output::write_file(&to, force, &[text.as_bytes()])?;
            let entries = text.lines().count();
            if remote.json {
                return output::line(json!({"dataset": dataset, "entries": entries, "file": to}));
            }
            output::line(format!("{}: {entries} entries of `{dataset}`", to.display()))
        }
        What::Reset { dataset, reason, place, remote } => {
            let journal = place.reset(&dataset, &reason, &remote).await?;
            if remote.json {
                return output::line(as_json(&journal, 1e-5));
            }
            output::line(format!(
                "the ledger of `{dataset}` counts from zero again; reset {} times so far, its lines stay",
                journal.resets()
            ))
        }
    }
}

async fn show(dataset: Option<&str>, delta: f64, (place, remote): (&Place, &Remote)) -> Result<(), Failure> {
    let journals = place.journals(dataset, remote).await?;
    if remote.json {
        return journals.iter().try_for_each(|journal| output::line(as_json(journal, delta)));
    }
    if journals.is_empty() {
        return output::line("nothing was released under a privacy promise yet");
    }
    let heading = ["data set", "unit", "adjacency", "releases", "resets", "ε", "at δ", "accountant"];
    let rows: Vec<Vec<String>> = journals.iter().map(|journal| row(journal, delta)).collect();
    output::line(table::table(&heading, &rows))
}

fn read(ledger: &v1::Ledger) -> Result<Journal, Failure> {
    let damaged = |error| Failure::new(Code::Data, format!("privacy ledger of {}: {error}", ledger.dataset));
    Journal::parse(&ledger.journal).map_err(damaged)
}

fn row(journal: &Journal, delta: f64) -> Vec<String> {
    let best = report::epsilon(journal.ledger(), delta, 1);
    vec![
        journal.dataset().to_owned(),
        word(journal.ledger().unit()),
        word(journal.ledger().adjacency()),
        releases(journal.ledger()).to_string(),
        journal.resets().to_string(),
        format!("{:.6}", best.epsilon),
        format!("{delta:e}"),
        best.accountant.name().to_owned(),
    ]
}

fn as_json(journal: &Journal, delta: f64) -> Value {
    let best = report::epsilon(journal.ledger(), delta, 1);
    // What was never released costs nothing, whoever adds up.
    let asked = if releases(journal.ledger()) == 0 { &[][..] } else { &Accountant::ALL[..] };
    let each = asked.iter().filter_map(|accountant| {
        Some((accountant.name().to_owned(), json!(accountant.epsilon(journal.ledger(), delta, 1).ok()?)))
    });
    json!({
        "dataset": journal.dataset(),
        "unit": word(journal.ledger().unit()),
        "adjacency": word(journal.ledger().adjacency()),
        "releases": releases(journal.ledger()),
        "resets": journal.resets(),
        "delta": delta,
        "epsilon": best.epsilon,
        "accountant": best.accountant.name(),
        "accountants": each.collect::<serde_json::Map<_, _>>(),
    })
}
