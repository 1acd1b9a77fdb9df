//! What survives `kill -9`: runs, their event logs and metrics in one embedded database (redb), and
//! vectors as files beside it ([`Blobs`]).
//!
//! A round is committed in this order: the new vectors are written and synced under their digests,
//! then one transaction replaces the run's record. Before the transaction the old round is whole,
//! after it the new one; there is no instant between. Events between commits are written without a
//! sync: a crash may lose the last of them, never a fact. An I/O error loses nothing: the file is opened
//! again when the next write is tried ([`handle`]).

mod access;
mod blobs;
mod handle;
mod ledger;
mod parts;
mod passes;
mod pool;
mod record;

pub use access::{AccessTables, Holder, HolderRecord, TokenRecord};
pub use blobs::{Blobs, Reader};
pub use ledger::{Payment, Release};
pub use record::{RunRecord, Stored, StoredEvent};

use handle::Handle;
use proto::{digest::Digest, event::Metrics};
use redb::{Durability, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const RUNS: TableDefinition<&str, &[u8]> = TableDefinition::new("runs");
const EVENTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("events");
const METRICS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("metrics");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const QUARANTINE: TableDefinition<&str, u64> = TableDefinition::new("quarantine");

const FORMAT: u64 = 1;
/// Who has the directory open, or had it last.
const HOLDER: &str = "holder";

/// Why the store cannot do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be used.
    #[error("data directory {}: {detail}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: String,
    },
    /// Another process has the data directory open.
    #[error("data directory {}: is in use by another coordinator{holder}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Which process, if it has said so.
        holder: String,
    },
    /// The database failed.
    #[error("store: {0}")]
    Database(#[from] redb::Error),
    /// A record cannot be read.
    #[error("store: record of {what} is damaged: {detail}")]
    Record {
        /// Which.
        what: String,
        /// What the decoder found.
        detail: String,
    },
    /// A vector's file failed.
    #[error("vector {digest}: {detail}")]
    Blob {
        /// Which.
        digest: Digest,
        /// What failed.
        detail: String,
    },
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        }
    )*};
}
from_redb!(TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// The database and the vectors.
#[derive(Debug)]
pub struct Store {
    database: Handle,
    blobs: Blobs,
    ledgers: ledger::Ledgers,
}

impl Store {
    /// Opens or creates the store of a data directory.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let fail = |detail: String| StoreError::Directory { path: dir.to_owned(), detail };
        std::fs::create_dir_all(dir).map_err(|error| fail(format!("cannot be created: {error}")))?;
        let file = dir.join("starling.redb");
        if !file.exists() && std::fs::read_dir(dir).map_err(|e| fail(e.to_string()))?.next().is_some() {
            let detail = "is not empty and holds no starling.redb; give an empty or a new directory";
            return Err(fail(detail.to_owned()));
        }
        let database = Handle::open(&file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                let holder = std::fs::read_to_string(dir.join(HOLDER)).unwrap_or_default();
                let holder: String = holder.chars().take(80).collect();
                StoreError::InUse { path: dir.to_owned(), holder }
            }
            error => fail(format!("starling.redb cannot be opened: {error}")),
        })?;
        // Only a courtesy to whoever comes next: the lock is the database's.
        let _ = std::fs::write(dir.join(HOLDER), format!(" (process {})", std::process::id()));
        let transaction = database.begin_write()?;
        {
            transaction.open_table(RUNS)?;
            transaction.open_table(EVENTS)?;
            transaction.open_table(METRICS)?;
            transaction.open_table(QUARANTINE)?;
            access::prepare(&transaction)?;
            ledger::prepare(&transaction)?;
            let mut meta = transaction.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            match format {
                None => drop(meta.insert("format", FORMAT)?),
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(fail(format!("has format {other}, this program reads {FORMAT}")));
                }
            }
        }
        transaction.commit()?;
        let blobs = Blobs::open(dir.join("vectors"))?;
        let store = Self { database, blobs, ledgers: ledger::Ledgers::default() };
        for run in store.runs()? {
            if let Stored::Active {} | Stored::Paused {} = run.state {
                run.digests().into_iter().try_for_each(|digest| store.blobs.verify(digest))?;
            }
        }
        Ok(store)
    }

    /// The vectors.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Every run, in order of submission.
    pub fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(RUNS)?;
        let mut runs = Vec::new();
        for row in table.iter()? {
            let (id, bytes) = row?;
            runs.push(decode::<RunRecord>(id.value(), bytes.value())?);
        }
        runs.sort_by_key(|run| run.number);
        Ok(runs)
    }

    /// A number that no run has had.
    pub fn next_number(&self) -> Result<u64, StoreError> {
        let transaction = self.database.begin_write()?;
        let number = {
            let mut meta = transaction.open_table(META)?;
            let number = meta.get("run")?.map_or(1, |number| number.value() + 1);
            meta.insert("run", number)?;
            number
        };
        transaction.commit()?;
        Ok(number)
    }

    /// Makes a run's record durable, with the events that led to it and the metrics of a round.
    pub fn save(
        &self,
        record: &RunRecord,
        events: &[StoredEvent],
        metrics: Option<&Metrics>,
    ) -> Result<(), StoreError> {
        self.save_with(record, events, metrics, |_| Ok(()))
    }

    /// As [`Self::save`], with more in the same transaction.
    fn save_with(
        &self,
        record: &RunRecord,
        events: &[StoredEvent],
        metrics: Option<&Metrics>,
        more: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        let mark = self.database.mark();
        transaction.open_table(RUNS)?.insert(record.id.as_str(), encode(record).as_slice())?;
        write_events(&transaction, &record.id, events)?;
        write_metrics(&transaction, &record.id, metrics)?;
        more(&transaction)?;
        transaction.commit()?;
        self.database.settle(mark);
        Ok(())
    }

    /// Appends to a run's log; durable with the next [`Self::save`]. After an error the caller gives the
    /// events again; the metrics are kept until the disk takes them.
    pub fn append(
        &self,
        run: &str,
        events: &[StoredEvent],
        metrics: Option<&Metrics>,
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), StoreError> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            write_events(&transaction, run, events)?;
            write_metrics(&transaction, run, metrics)?;
            Ok(transaction.commit()?)
        };
        let written = write();
        self.database.owe(run, if written.is_ok() { events } else { &[] }, metrics);
        written
    }

    /// At most `limit` events of a run from a sequence number on.
    pub fn events(&self, run: &str, from: u64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let table = self.database.begin_read()?.open_table(EVENTS)?;
        table
            .range((run, from)..=(run, u64::MAX))?
            .take(limit)
            .map(|row| {
                let (_, bytes) = row?;
                decode(run, bytes.value())
            })
            .collect()
    }

    /// The sequence number of the next event of a run.
    pub fn next_sequence(&self, run: &str) -> Result<u64, StoreError> {
        let table = self.database.begin_read()?.open_table(EVENTS)?;
        let last = table.range((run, 0)..=(run, u64::MAX))?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| key.value().1 + 1))
    }

    /// The metrics of a run, in order of rounds.
    pub fn metrics(&self, run: &str) -> Result<Vec<Metrics>, StoreError> {
        let table = self.database.begin_read()?.open_table(METRICS)?;
        table
            .range((run, 0)..=(run, u64::MAX))?
            .map(|row| {
                let (_, bytes) = row?;
                decode(run, bytes.value())
            })
            .collect()
    }

    /// Workers in quarantine.
    pub fn quarantined(&self) -> Result<BTreeSet<String>, StoreError> {
        let table = self.database.begin_read()?.open_table(QUARANTINE)?;
        table.iter()?.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    /// Puts a worker into quarantine or releases it.
    pub fn set_quarantine(&self, worker: &str, on: bool) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(QUARANTINE)?;
            if on {
                table.insert(worker, 1)?;
            } else {
                table.remove(worker)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn write_events(transaction: &WriteTransaction, run: &str, events: &[StoredEvent]) -> Result<(), StoreError> {
    let mut table = transaction.open_table(EVENTS)?;
    for event in events {
        table.insert((run, event.sequence), encode(event).as_slice())?;
    }
    Ok(())
}

fn write_metrics(
    transaction: &WriteTransaction,
    run: &str,
    metrics: Option<&Metrics>,
) -> Result<(), StoreError> {
    if let Some(metrics) = metrics {
        transaction.open_table(METRICS)?.insert((run, metrics.round), encode(metrics).as_slice())?;
    }
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys")
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Record { what: what.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests;
