//! A ledger as lines of JSON: append-only, one entry a line, so that it can be written durably before
//! the release that it pays for, and read by anyone.
//!
//! The first line opens the ledger of a data set; each later one is a release or, on an operator's
//! word, a reset. A reset keeps what was before it: the lines stay, and [`Journal::resets`] tells.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{Adjacency, Event, Ledger, LedgerError, Unit};

/// Version of the format.
const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The first line.
    Opened {
        /// Version of the format: 1.
        version: u32,
        /// Name of the data set whose privacy is counted.
        dataset: String,
        /// Whose privacy.
        unit: Unit,
        /// Against what.
        adjacency: Adjacency,
    },
    /// A release that may have happened.
    Released {
        /// Name of the run.
        run: String,
        /// Round of the run, from 1; 0 for what a run pays before its first round.
        round: u64,
        /// What was released.
        event: Event,
        /// BLAKE3 of the release, in the ledger of a worker: the same round may be tried again with another
        /// one, which costs again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// An operator declared that what was released before does not count any more.
    Reset {
        /// Why, in their words.
        reason: String,
    },
}

/// The lines of one data set, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Journal {
    dataset: String,
    ledger: Ledger,
    entries: Vec<Entry>,
    resets: u64,
}

/// Why lines are no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A line is not an entry.
    #[error("line {line}: {error}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// An entry stands where it must not.
    #[error("line {line}: {expected}")]
    Order {
        /// Its number, from 1.
        line: usize,
        /// What was expected.
        expected: &'static str,
    },
    /// The event makes no sense in the ledger.
    #[error("line {line}: {error}")]
    Event {
        /// Its number, from 1.
        line: usize,
        /// Why.
        error: LedgerError,
    },
}

impl Entry {
    /// The entry as one line, with its end.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("an entry has string keys and finite numbers");
        line.push('\n');
        line
    }
}

impl Journal {
    /// The journal of a data set without a release, and its first line.
    pub fn open(dataset: &str, unit: Unit, adjacency: Adjacency) -> Self {
        let entry = Entry::Opened { version: VERSION, dataset: dataset.to_owned(), unit, adjacency };
        let ledger = Ledger::new(unit, adjacency);
        Self { dataset: dataset.to_owned(), ledger, entries: vec![entry], resets: 0 }
    }

    /// Reads lines. A last line without its end was not finished when the writer stopped: what it was to
    /// pay for was not released, so it is left out.
    ///
    /// # Errors
    /// If a line is no entry, stands in the wrong place or makes no sense.
    pub fn parse(text: &str) -> Result<Self, JournalError> {
        let mut journal: Option<Self> = None;
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for (index, text) in whole.lines().enumerate() {
            let line = index + 1;
            let entry: Entry =
                serde_json::from_str(text).map_err(|error| JournalError::Line { line, error })?;
            match (&mut journal, entry) {
                (None, Entry::Opened { version: VERSION, dataset, unit, adjacency }) => {
                    journal = Some(Self::open(&dataset, unit, adjacency));
                }
                (None, Entry::Opened { .. }) => {
                    return Err(JournalError::Order { line, expected: "expected version 1 of the format" });
                }
                (None, _) => {
                    return Err(JournalError::Order {
                        line,
                        expected: "expected `opened` as the first entry",
                    });
                }
                (Some(_), Entry::Opened { .. }) => {
                    return Err(JournalError::Order { line, expected: "expected `opened` only once" });
                }
                (Some(journal), entry) => {
                    journal.append(entry).map_err(|error| JournalError::Event { line, error })?;
                }
            }
        }
        journal.ok_or(JournalError::Order { line: 1, expected: "expected `opened` as the first entry" })
    }

    /// Appends a release and returns its line, which must be durable before the release happens.
    ///
    /// # Errors
    /// If the event makes no sense in this ledger.
    pub fn release(&mut self, run: &str, round: u64, event: Event) -> Result<String, LedgerError> {
        self.append(Entry::Released { run: run.to_owned(), round, event, digest: None })?;
        Ok(self.last_line())
    }

    /// As [`Self::release`], of a release with this digest; `None`: it was paid for since the last reset.
    ///
    /// # Errors
    /// If the event makes no sense in this ledger.
    pub fn release_once(
        &mut self,
        (run, round): (&str, u64),
        event: Event,
        digest: &str,
    ) -> Result<Option<String>, LedgerError> {
        let same = |entry: &Entry| {
            matches!(entry, Entry::Released { run: r, round: n, digest: Some(d), .. }
                if r == run && *n == round && d == digest)
        };
        if self.current().any(same) {
            return Ok(None);
        }
        let digest = Some(digest.to_owned());
        self.append(Entry::Released { run: run.to_owned(), round, event, digest })?;
        Ok(Some(self.last_line()))
    }

    /// Starts to count anew and returns the line that says so.
    pub fn reset(&mut self, reason: &str) -> String {
        let entry = Entry::Reset { reason: reason.to_owned() };
        self.append(entry).expect("a reset is always in place");
        self.last_line()
    }

    fn append(&mut self, entry: Entry) -> Result<(), LedgerError> {
        match &entry {
            Entry::Released { event, .. } => self.ledger.record(event.clone())?,
            Entry::Reset { .. } => {
                self.ledger = Ledger::new(self.ledger.unit(), self.ledger.adjacency());
                self.resets += 1;
            }
            Entry::Opened { .. } => {}
        }
        self.entries.push(entry);
        Ok(())
    }

    fn last_line(&self) -> String {
        self.entries.last().map(Entry::to_line).unwrap_or_default()
    }

    /// Why a run with another promise cannot use this ledger.
    pub fn other_promise(&self) -> String {
        let unit = if self.ledger.unit() == Unit::Record { "record" } else { "client" };
        let adjacency = self.ledger.adjacency().name();
        format!(
            "the ledger of `{}` counts unit `{unit}` and adjacency `{adjacency}`; state the same in `[privacy]`: \
             different promises cannot be added up",
            self.dataset
        )
    }

    /// Name of the data set.
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// What counts: all releases since the last reset.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// All entries, those before a reset too.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How often it was reset.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Whether a round of a run was paid for since the last reset: a retry of the same release is not paid
    /// for twice, since it has the same noise.
    pub fn paid(&self, run: &str, round: u64) -> bool {
        self.current()
            .any(|entry| matches!(entry, Entry::Released { run: r, round: n, .. } if r == run && *n == round))
    }

    /// Rounds of a run that were paid for one by one since the last reset.
    pub fn rounds(&self, run: &str) -> u64 {
        let of = |entry: &&Entry| matches!(entry, Entry::Released { run: r, round: 1.., .. } if r == run);
        self.current().filter(of).count() as u64
    }

    /// Whether anything of a run was paid for since the last reset.
    pub fn has_run(&self, run: &str) -> bool {
        self.current().any(|entry| matches!(entry, Entry::Released { run: r, .. } if r == run))
    }

    /// Entries since the last reset, the last one first.
    fn current(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().take_while(|entry| !matches!(entry, Entry::Reset { .. }))
    }

    /// All lines.
    pub fn export(&self) -> String {
        self.entries.iter().map(Entry::to_line).collect()
    }

    /// What a run would cost if the events of all its rounds were the same, for the gate.
    pub fn with(&self, event: &Event, rounds: NonZeroU64) -> Result<Ledger, LedgerError> {
        let mut ledger = self.ledger.clone();
        ledger.record(Event { count: event.count.saturating_mul(rounds), ..event.clone() })?;
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mechanism, NoiseMultiplier, Probability, Sampling, accountants::report};

    fn event(z: f64) -> Event {
        Event {
            mechanism: Mechanism::Gaussian { noise_multiplier: NoiseMultiplier::new(z).unwrap() },
            sampling: Sampling::Poisson { rate: Probability::new(0.1).unwrap() },
            count: NonZeroU64::MIN,
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_costs_the_same() {
        let mut journal = Journal::open("mnist", Unit::Client, Adjacency::ZeroOut);
        let mut text = journal.export();
        for round in 1..=20 {
            text += &journal.release("a", round, event(1.1)).unwrap();
        }
        let read = Journal::parse(&text).unwrap();
        assert_eq!(read, journal);
        assert_eq!(read.export(), text);
        assert_eq!((read.dataset(), read.ledger().events().len(), text.lines().count()), ("mnist", 20, 21));
        assert_eq!(report::epsilon(read.ledger(), 1e-5, 1), report::epsilon(journal.ledger(), 1e-5, 1));
        assert!(read.paid("a", 20) && !read.paid("a", 21) && !read.paid("b", 1));
        assert_eq!([read.rounds("a"), read.rounds("b")], [20, 0]);
        // Every line is JSON with a sense of its own.
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line,
            r#"{"entry":"released","run":"a","round":1,"event":{"mechanism":{"kind":"gaussian","noise_multiplier":1.1},"sampling":{"kind":"poisson","rate":0.1},"count":1}}"#
        );
        let twice = read.with(&event(1.1), NonZeroU64::new(20).unwrap()).unwrap();
        assert!(report::epsilon(&twice, 1e-5, 1).epsilon > report::epsilon(read.ledger(), 1e-5, 1).epsilon);
    }

    #[test]
    fn a_reset_is_told_and_keeps_the_lines() {
        let mut journal = Journal::open("d", Unit::Record, Adjacency::AddRemove);
        journal.release("a", 1, event(1.0)).unwrap();
        journal.reset("the records were replaced");
        assert_eq!(journal.ledger().events().len(), 0);
        assert!(!journal.paid("a", 1) && journal.rounds("a") == 0);
        journal.release("b", 1, event(2.0)).unwrap();
        let read = Journal::parse(&journal.export()).unwrap();
        assert_eq!((read.resets(), read.entries().len(), read.ledger().events().len()), (1, 4, 1));
        assert_eq!(read, journal);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_bad_one_is_named() {
        let mut journal = Journal::open("d", Unit::Client, Adjacency::ZeroOut);
        journal.release("a", 1, event(1.0)).unwrap();
        let text = journal.export();
        let torn = format!("{text}{{\"entry\":\"relea");
        assert_eq!(Journal::parse(&torn).unwrap(), journal);
        let bad = |text: &str| Journal::parse(text).unwrap_err().to_string();
        assert!(bad("").contains("`opened` as the first"));
        assert!(bad(&text.replace("\"version\":1", "\"version\":2")).contains("line 1: expected version 1"));
        assert!(bad(&text.replace("\"count\":1", "\"count\":0")).contains("line 2"));
        assert!(bad(&text.replace("1.0", "-1.0")).contains("noise_multiplier"));
        assert!(bad(&format!("{text}{text}")).contains("line 3: expected `opened` only once"));
        let first = text.lines().next().unwrap();
        let second = text.lines().nth(1).unwrap();
        assert!(bad(&format!("{second}\n{first}\n")).contains("line 1"));
    }
}
