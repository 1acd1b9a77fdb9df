//! The privacy ledgers of a worker that adds noise itself: a file of lines for each data set, in its state
//! directory. A line is durable before anything that it pays for leaves the machine, and nothing but the
//! word of whoever runs the worker makes it count anew.
//!
//! A line names the release by its digest: the same bytes, sent again after whatever crash, cost nothing; a
//! release that had to be made again with other noise costs again.

use privacy::{Adjacency, Event, Gate, Journal, JournalError, Unit};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The directory of ledgers within the state directory.
const FOLDER: &str = "ledger";
const ENDING: &str = "jsonl";

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerFault {
    /// The file system said so.
    #[error("privacy ledger {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It was changed by something else than this program.
    #[error(
        "privacy ledger {} is damaged: {error}; put the right file back: what was released cannot be known without it",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: JournalError,
    },
    /// There is no room for the release.
    #[error("{0}")]
    Refused(String),
}

/// What one round of a run costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    /// The data set.
    pub dataset: String,
    /// The run.
    pub run: String,
    /// The round, from 1.
    pub round: u64,
    /// Whose privacy.
    pub unit: Unit,
    /// Against what.
    pub adjacency: Adjacency,
    /// What is released.
    pub event: Event,
    /// Every watch over the budget: the run's, and that of whoever runs the worker.
    pub gates: Vec<Gate>,
}

#[derive(Debug)]
struct Book {
    journal: Journal,
    /// Bytes of the lines that are complete.
    length: u64,
}

/// The ledgers of one worker.
#[derive(Debug)]
pub struct Ledgers {
    folder: PathBuf,
    books: BTreeMap<String, Book>,
}

impl Ledgers {
    /// Reads those of a state directory. To write, hold the directory's lock (`client_state::States`).
    ///
    /// # Errors
    /// If a file cannot be read or is damaged.
    pub fn open(state_dir: &Path) -> Result<Self, LedgerFault> {
        let folder = state_dir.join(FOLDER);
        let fail = |error| LedgerFault::Io { path: folder.clone(), error };
        let mut books = BTreeMap::new();
        match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(fail)?.path();
                    if path.extension().is_some_and(|ending| ending == ENDING)
                        && let Some(book) = read(&path)?
                    {
                        books.insert(book.journal.dataset().to_owned(), book);
                    }
                }
            }
        }
        Ok(Self { folder, books })
    }

    /// All journals, by the names of the data sets.
    pub fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.books.values().map(|book| &book.journal)
    }

    /// Whether the release may happen.
    ///
    /// # Errors
    /// [`LedgerFault::Refused`] with what it would cost and how many more would fit.
    pub fn admit(&self, payment: &Payment) -> Result<(), LedgerFault> {
        let Payment { dataset, unit, adjacency, event, gates, .. } = payment;
        let journal = self.books.get(dataset).map(|book| &book.journal);
        let empty = privacy::Ledger::new(*unit, *adjacency);
        let ledger = journal.map_or(&empty, Journal::ledger);
        if let Some(journal) = journal.filter(|_| (ledger.unit(), ledger.adjacency()) != (*unit, *adjacency))
        {
            return Err(LedgerFault::Refused(format!("this worker: {}", journal.other_promise())));
        }
        for gate in gates {
            if let Err(error) = gate.admit(ledger, event) {
                let spent = gate.epsilon(ledger).epsilon;
                return Err(LedgerFault::Refused(format!(
                    "this worker's ledger of `{dataset}` holds ε = {spent:.4} at δ = {:e}, and {error}",
                    gate.budget.delta()
                )));
            }
        }
        Ok(())
    }

    /// Pays for a release of these bytes, durably, unless it was paid for.
    ///
    /// # Errors
    /// If there is no room for it, or the disk does not take the line; then it must not leave.
    pub fn pay(&mut self, payment: &Payment, digest: &str) -> Result<(), LedgerFault> {
        let Payment { dataset, run, round, unit, adjacency, event, .. } = payment;
        let (mut journal, mut text, length) = if let Some(book) = self.books.get(dataset) {
            (book.journal.clone(), String::new(), book.length)
        } else {
            let journal = Journal::open(dataset, *unit, *adjacency);
            let text = journal.export();
            (journal, text, 0)
        };
        let line = journal
            .release_once((run, *round), event.clone(), digest)
            .map_err(|error| LedgerFault::Refused(error.to_string()))?;
        let Some(line) = line else { return Ok(()) };
        self.admit(payment)?;
        text.push_str(&line);
        self.append(journal, length, &text)
    }

    /// Counts anew from here on; the lines before stay. `None`: there is no ledger of that name.
    ///
    /// # Errors
    /// If the disk does not take the line; then nothing was changed.
    pub fn reset(&mut self, dataset: &str, reason: &str) -> Result<Option<&Journal>, LedgerFault> {
        let Some(book) = self.books.get(dataset) else { return Ok(None) };
        let (mut journal, length) = (book.journal.clone(), book.length);
        let line = journal.reset(reason);
        self.append(journal, length, &line)?;
        Ok(self.books.get(dataset).map(|book| &book.journal))
    }

    /// Writes behind the complete lines: what a crash left half written is cut off.
    fn append(&mut self, journal: Journal, length: u64, text: &str) -> Result<(), LedgerFault> {
        let dataset = journal.dataset().to_owned();
        let path = self.folder.join(format!("{dataset}.{ENDING}"));
        let write = || {
            fs::create_dir_all(&self.folder)?;
            let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            if length == 0 {
                File::open(&self.folder)?.sync_all()?;
                self.folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
            }
            Ok(())
        };
        write().map_err(|error| LedgerFault::Io { path: path.clone(), error })?;
        self.books.insert(dataset, Book { journal, length: length + text.len() as u64 });
        Ok(())
    }
}

/// A ledger; `None`: not even its first line is complete, so that nothing was paid by it.
fn read(path: &Path) -> Result<Option<Book>, LedgerFault> {
    let text = fs::read_to_string(path).map_err(|error| LedgerFault::Io { path: path.to_owned(), error })?;
    let Some(end) = text.rfind('\n') else { return Ok(None) };
    let journal =
        Journal::parse(&text).map_err(|error| LedgerFault::Damaged { path: path.to_owned(), error })?;
    Ok(Some(Book { journal, length: end as u64 + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use privacy::{Budget, Mechanism, NoiseMultiplier, Rule, Sampling, accountants::filter::Measure};
    use std::num::NonZeroU64;

    fn payment(round: u64, epsilon: f64) -> Payment {
        let budget = Budget::new(epsilon, 1e-5).unwrap();
        Payment {
            dataset: "digits".into(),
            run: "r-1".into(),
            round,
            unit: Unit::Record,
            adjacency: Adjacency::ZeroOut,
            event: Event {
                mechanism: Mechanism::Gaussian { noise_multiplier: NoiseMultiplier::new(5.0).unwrap() },
                sampling: Sampling::Everyone,
                count: NonZeroU64::new(2).unwrap(),
            },
            gates: vec![Gate { budget, rule: Rule::Filter { measure: Measure::of(budget).unwrap() } }],
        }
    }

    fn lines(ledgers: &Ledgers) -> usize {
        ledgers.journals().map(|journal| journal.entries().len() - 1).sum()
    }

    #[test]
    fn the_same_bytes_are_paid_for_once_and_others_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        assert_eq!(lines(&ledgers), 0);
        for (round, digest, want) in [(1, "a", 1), (1, "a", 1), (2, "b", 2), (1, "c", 3)] {
            ledgers.pay(&payment(round, 50.0), digest).unwrap();
            assert_eq!(lines(&ledgers), want);
            ledgers = Ledgers::open(dir.path()).unwrap();
            assert_eq!(lines(&ledgers), want, "it is on disk");
        }
    }

    #[test]
    fn a_budget_ends_it_until_somebody_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        let mut paid = 0;
        let refused = loop {
            match ledgers.pay(&payment(paid + 1, 2.0), &paid.to_string()) {
                Ok(()) => paid += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert!((2..20).contains(&paid), "{paid}");
        assert!(refused.contains("`digits` holds ε = 1.") && refused.contains("above"), "{refused}");
        assert!(ledgers.admit(&payment(99, 2.0)).is_err() && ledgers.admit(&payment(99, 3.0)).is_ok());
        // What was paid for may be sent again.
        ledgers.pay(&payment(paid, 2.0), &(paid - 1).to_string()).unwrap();
        assert_eq!(ledgers.reset("digits", "new records").unwrap().unwrap().resets(), 1);
        assert!(ledgers.reset("mnist", "x").unwrap().is_none());
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        ledgers.pay(&payment(1, 2.0), "0").unwrap();
        assert_eq!(lines(&ledgers) as u64, paid + 2);
        let other = Payment { adjacency: Adjacency::ReplaceOne, ..payment(2, 2.0) };
        assert!(ledgers.admit(&other).unwrap_err().to_string().contains("cannot be added up"));
    }

    #[test]
    fn half_a_line_paid_for_nothing_and_a_changed_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        ledgers.pay(&payment(1, 50.0), "a").unwrap();
        let path = dir.path().join("ledger/digits.jsonl");
        let whole = fs::read(&path).unwrap();
        ledgers.pay(&payment(2, 50.0), "b").unwrap();
        let two = fs::read(&path).unwrap();
        for cut in [whole.len(), whole.len() + 1, two.len() - 1] {
            fs::write(&path, &two[..cut]).unwrap();
            let mut ledgers = Ledgers::open(dir.path()).unwrap();
            assert_eq!(lines(&ledgers), 1, "{cut}");
            ledgers.pay(&payment(2, 50.0), "b").unwrap();
            assert_eq!(fs::read(&path).unwrap(), two);
        }
        fs::write(&path, &two[..20]).unwrap();
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        ledgers.pay(&payment(1, 50.0), "a").unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        fs::write(&path, String::from_utf8(two).unwrap().replace("5.0", "-5.0")).unwrap();
        let error = Ledgers::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("digits.jsonl is damaged") && error.contains("put the right file"), "{error}");
    }

    #[test]
    fn what_the_disk_does_not_take_is_not_paid() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledgers = Ledgers::open(dir.path()).unwrap();
        fs::write(dir.path().join("ledger"), "in the way").unwrap();
        assert!(matches!(ledgers.pay(&payment(1, 50.0), "a"), Err(LedgerFault::Io { .. })));
        assert_eq!(lines(&ledgers), 0);
        fs::remove_file(dir.path().join("ledger")).unwrap();
        ledgers.pay(&payment(1, 50.0), "a").unwrap();
        assert_eq!(lines(&ledgers), 1);
    }
}
