//! The privacy ledgers: one journal for each data set, append-only, a line a row. A line that pays for a
//! round is written in the transaction that commits the round: there is no instant at which a model is
//! released and not in the ledger.

use super::{RunRecord, Store, StoreError, StoredEvent};
use privacy::{Adjacency, Event, Gate, Journal, Unit};
use proto::event::Metrics;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const LEDGER: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("ledger");

/// Journals that were read, by data set; locked while one grows. Whoever reads one takes no copy of it.
pub(super) type Ledgers = Mutex<BTreeMap<String, Arc<Journal>>>;

/// What a release costs, and which ledger pays.
#[derive(Debug, Clone)]
pub struct Payment {
    /// The data set.
    pub dataset: String,
    /// Whose privacy.
    pub unit: Unit,
    /// Against what.
    pub adjacency: Adjacency,
    /// The round, from 1; 0 for what is paid before the first.
    pub round: u64,
    /// What is released; `None`: it was paid for before.
    pub event: Option<Event>,
    /// The watch over the budget, if there is one.
    pub gate: Option<Gate>,
    /// For the ε that is shown.
    pub delta: f64,
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq)]
pub enum Release {
    /// It is durable and paid for.
    Done {
        /// ε of all that was released from the data set.
        epsilon: f64,
        /// Why another release of this kind would not fit.
        last: Option<String>,
    },
    /// It does not fit the budget: nothing was written.
    Refused(String),
}

pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(LEDGER)?;
    Ok(())
}

impl Store {
    fn ledgers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Journal>>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journals of all data sets, by name.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn journals(&self) -> Result<Vec<Journal>, StoreError> {
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        let table = self.database.begin_read()?.open_table(LEDGER)?;
        for row in table.iter()? {
            let (key, line) = row?;
            let text = lines.entry(key.value().0.to_owned()).or_default();
            text.push_str(&String::from_utf8_lossy(line.value()));
        }
        lines.iter().map(|(dataset, text)| parse(dataset, text)).collect()
    }

    /// The journal of a data set, if anything was ever released from it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn journal(&self, dataset: &str) -> Result<Option<Arc<Journal>>, StoreError> {
        if let Some(journal) = self.ledgers().get(dataset) {
            return Ok(Some(Arc::clone(journal)));
        }
        let table = self.database.begin_read()?.open_table(LEDGER)?;
        let mut text = String::new();
        for row in table.range((dataset, 0)..=(dataset, u64::MAX))? {
            text.push_str(&String::from_utf8_lossy(row?.1.value()));
        }
        if text.is_empty() { Ok(None) } else { parse(dataset, &text).map(|journal| Some(Arc::new(journal))) }
    }

    /// Makes a run's record durable together with the payment for what it releases, or refuses. What was
    /// paid for already, such as a retry of the same round, is not paid for twice.
    ///
    /// # Errors
    /// If the store fails; then nothing was written.
    pub fn release(
        &self,
        record: &RunRecord,
        events: &[StoredEvent],
        metrics: Option<&mut Metrics>,
        payment: &Payment,
    ) -> Result<Release, StoreError> {
        let Payment { dataset, unit, adjacency, round, event, gate, delta } = payment;
        let known = self.journal(dataset)?;
        let mut ledgers = self.ledgers();
        let mut lines = Vec::new();
        let known = ledgers.get(dataset).cloned().or(known);
        let mut journal = known.map_or_else(
            || {
                let journal = Journal::open(dataset, *unit, *adjacency);
                lines.push((0, journal.export()));
                journal
            },
            Arc::unwrap_or_clone,
        );
        if (journal.ledger().unit(), journal.ledger().adjacency()) != (*unit, *adjacency) {
            return Ok(Release::Refused(journal.other_promise()));
        }
        if let Some(event) = event.as_ref().filter(|_| !journal.paid(&record.id, *round)) {
            if let Some(Err(error)) = gate.as_ref().map(|gate| gate.admit(journal.ledger(), event)) {
                return Ok(Release::Refused(error.to_string()));
            }
            let sequence = journal.entries().len() as u64;
            match journal.release(&record.id, *round, event.clone()) {
                Ok(line) => lines.push((sequence, line)),
                Err(error) => return Ok(Release::Refused(error.to_string())),
            }
        }
        let epsilon = match gate {
            Some(gate) => gate.epsilon(journal.ledger()).epsilon,
            None => privacy::accountants::report::epsilon(journal.ledger(), *delta, 1).epsilon,
        };
        let line = metrics.map(|metrics| {
            metrics.epsilon = Some(epsilon).filter(|epsilon| epsilon.is_finite());
            &*metrics
        });
        self.save_with(record, events, line, |transaction| append(transaction, dataset, &lines))?;
        let next = gate.as_ref().zip(event.as_ref());
        let last = next.and_then(|(gate, event)| gate.admit(journal.ledger(), event).err());
        ledgers.insert(dataset.clone(), Arc::new(journal));
        Ok(Release::Done { epsilon, last: last.map(|error| error.to_string()) })
    }

    /// Starts to count anew on an operator's word; the lines before stay. Gives the number of the reset,
    /// or `None` if there is no ledger of that name.
    ///
    /// # Errors
    /// If the store fails; then nothing was changed.
    pub fn reset_ledger(&self, dataset: &str, reason: &str) -> Result<Option<u64>, StoreError> {
        let known = self.journal(dataset)?;
        let mut ledgers = self.ledgers();
        let Some(journal) = ledgers.get(dataset).cloned().or(known) else { return Ok(None) };
        let mut journal = Arc::unwrap_or_clone(journal);
        let sequence = journal.entries().len() as u64;
        let line = journal.reset(reason);
        let transaction = self.database.begin_write()?;
        append(&transaction, dataset, &[(sequence, line)])?;
        transaction.commit()?;
        let resets = journal.resets();
        ledgers.insert(dataset.to_owned(), Arc::new(journal));
        Ok(Some(resets))
    }
}

fn append(transaction: &WriteTransaction, dataset: &str, lines: &[(u64, String)]) -> Result<(), StoreError> {
    let mut table = transaction.open_table(LEDGER)?;
    for (sequence, line) in lines {
        table.insert((dataset, *sequence), line.as_bytes())?;
    }
    Ok(())
}

fn parse(dataset: &str, text: &str) -> Result<Journal, StoreError> {
    let damaged = |error: privacy::JournalError| StoreError::Record {
        what: format!("privacy ledger of {dataset}"),
        detail: error.to_string(),
    };
    Journal::parse(text).map_err(damaged)
}
