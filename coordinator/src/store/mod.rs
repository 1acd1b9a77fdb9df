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
mod pool;

pub use access::{AccessTables, Holder, HolderRecord, TokenRecord};
pub use blobs::{Blobs, Reader};
pub(crate) use ledger::other_promise;
pub use ledger::{Payment, Release};

use crate::{
    machine::{Opening, Restored},
    private::Standing,
};
use algorithms::Algorithm;
use handle::Handle;
use proto::{
    digest::Digest,
    event::{Metrics, RunEvent},
    spec::RunSpec,
};
use redb::{Durability, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Whether a stored run still has work to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Stored {
    /// It goes on at the next start.
    Active {},
    /// An operator paused it.
    Paused {},
    /// All rounds are committed.
    Finished {},
    /// An operator ended it.
    Cancelled {},
    /// Its privacy budget is spent; the last committed model stands.
    Exhausted {
        /// What the gate said.
        reason: String,
    },
    /// It ended by itself.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Everything durable about a run but its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's id.
    pub id: String,
    /// Order of submission.
    pub number: u64,
    /// The run file.
    pub spec: RunSpec,
    /// Where it stands.
    pub state: Stored,
    /// Names and shapes of the model's tensors.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// The server's vectors after the last committed round.
    pub vectors: BTreeMap<String, Digest>,
    /// Scalars in each vector.
    pub length: u64,
    /// Rounds committed.
    pub round: u64,
    /// The open round.
    pub opening: Option<Opening>,
    /// Workers ever in a draw.
    pub members: BTreeSet<String>,
    /// How many there were when the last round was committed.
    pub population_before: usize,
    /// The last committed round that counted each worker.
    pub committed: BTreeMap<String, u64>,
    /// Server vectors as they were after each round that is some worker's last, as far as the algorithm
    /// recalls them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recalled: BTreeMap<u64, BTreeMap<String, Digest>>,
    /// What changes from round to round of a private run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Standing>,
    /// Rounds that counted each worker, in a run with a cap on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub participations: BTreeMap<String, u64>,
}

impl RunRecord {
    /// Keeps what `algorithm` will recall of the round that was just committed, and forgets rounds that
    /// are no worker's last any more.
    pub fn recall(&mut self, round: u64, algorithm: &dyn Algorithm) {
        let kept = |(name, _): &(&str, &str)| Some(((*name).to_owned(), *self.vectors.get(*name)?));
        let kept: BTreeMap<String, Digest> = algorithm.recalled().iter().filter_map(kept).collect();
        if !kept.is_empty() {
            self.recalled.insert(round, kept);
        }
        let last: BTreeSet<u64> = self.committed.values().copied().collect();
        self.recalled.retain(|round, _| last.contains(round));
    }

    /// Every vector that the run needs.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.vectors.values().chain(self.recalled.values().flat_map(BTreeMap::values)).copied().collect()
    }

    /// Where a machine goes on from.
    pub fn restored(&self) -> Restored {
        Restored {
            round: self.round,
            opening: self.opening.clone().filter(|opening| opening.round == self.round),
            members: self.members.clone(),
            population_before: self.population_before,
            committed: self.committed.clone(),
            participations: self.participations.clone(),
            paused: self.state == Stored::Paused {},
        }
    }
}

/// One line of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// From 0, without gaps.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    pub event: RunEvent,
}

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
                run.vectors.values().try_for_each(|digest| store.blobs.verify(*digest))?;
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
