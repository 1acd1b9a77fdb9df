//! `starling privacy ledger …`: what was released from each data set, on a coordinator. The lines are the
//! truth; ε follows from them, for whoever computes it.

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
use std::path::PathBuf;

/// The privacy ledgers of a coordinator: one for each data set, over all runs.
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
        remote: Remote,
    },
}

/// Does what was asked about ledgers.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    life::runtime()?.block_on(answer(args.what))
}

async fn answer(what: What) -> Result<(), Failure> {
    match what {
        What::Show { dataset, delta, remote } => show(dataset.as_deref(), delta, &remote).await,
        What::Export { dataset, to, force, remote } => {
            output::refuse_existing(&to, force)?;
            let ledgers = Operator::connect(&remote.target).await?.ledgers(&dataset).await?;
            let text = ledgers.first().map(|ledger| ledger.journal.clone()).unwrap_or_default();
            output::write_file(&to, force, &[text.as_bytes()])?;
            let entries = text.lines().count();
            if remote.json {
                return output::line(json!({"dataset": dataset, "entries": entries, "file": to}));
            }
            output::line(format!("{}: {entries} entries of `{dataset}`", to.display()))
        }
        What::Reset { dataset, reason, remote } => {
            let ledger = Operator::connect(&remote.target).await?.reset_ledger(&dataset, &reason).await?;
            let journal = read(&ledger)?;
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

async fn show(dataset: Option<&str>, delta: f64, remote: &Remote) -> Result<(), Failure> {
    let ledgers = Operator::connect(&remote.target).await?.ledgers(dataset.unwrap_or_default()).await?;
    let journals = ledgers.iter().map(read).collect::<Result<Vec<_>, _>>()?;
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
