//! The database file, opened again after an I/O error: redb refuses all work from the first one on, and
//! with the file it forgets what was written without a sync. That is kept here until it is durable.

use super::{StoredEvent, write_events, write_metrics};
use proto::event::Metrics;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageError, TransactionError,
    WriteTransaction,
};
use std::{
    cell::Cell,
    io, panic,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard},
};

/// redb keeps up to 1 GiB of pages by default; the coordinator reads little of what it wrote.
const CACHE_BYTES: usize = 128 * 1024;

/// Rows that a crash may lose and an I/O error must not.
#[derive(Debug)]
struct Rows {
    number: u64,
    run: String,
    events: Vec<StoredEvent>,
    metrics: Option<Metrics>,
}

#[derive(Debug, Default)]
struct Owed {
    next: u64,
    rows: Vec<Rows>,
}

/// The database of a store. `None`: the last attempt to open it again failed.
#[derive(Debug)]
pub(super) struct Handle {
    file: PathBuf,
    database: RwLock<Option<Database>>,
    owed: Mutex<Owed>,
}

impl Handle {
    /// Opens or creates the file and checks every page that is in use.
    pub(super) fn open(file: &Path) -> Result<Self, DatabaseError> {
        let database = checked(|| {
            let mut database = Database::builder().set_cache_size(CACHE_BYTES).create(file)?;
            if !database.check_integrity()? {
                return Err(damaged(
                    "it is set back to the last commit that is whole; start again to go on from there",
                ));
            }
            Ok(database)
        })?;
        let (database, owed) = (RwLock::new(Some(database)), Mutex::default());
        Ok(Self { file: file.to_owned(), database, owed })
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads; after an I/O error only once a writer has opened the file again.
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        self.database().as_ref().ok_or(StorageError::PreviousIo)?.begin_read()
    }

    /// Writes; opens the file again if an earlier I/O error closed it.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        let begin = || self.database().as_ref().ok_or(StorageError::PreviousIo)?.begin_write();
        match begin() {
            Err(TransactionError::Storage(_)) => {
                self.reopen()?;
                begin()
            }
            begun => begun,
        }
    }

    /// Keeps rows that were written without a sync, or could not be written at all.
    pub(super) fn owe(&self, run: &str, events: &[StoredEvent], metrics: Option<&Metrics>) {
        let mut owed = self.owed();
        let number = owed.next;
        owed.next += 1;
        owed.rows.push(Rows {
            number,
            run: run.to_owned(),
            events: events.to_vec(),
            metrics: metrics.cloned(),
        });
    }

    /// The number of the next rows: those before it are durable once a transaction that is open now is.
    pub(super) fn mark(&self) -> u64 {
        self.owed().next
    }

    /// Forgets the rows before a mark.
    pub(super) fn settle(&self, mark: u64) {
        self.owed().rows.retain(|rows| rows.number >= mark);
    }

    fn reopen(&self) -> Result<(), TransactionError> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let fails =
            |database: &Database| matches!(database.try_begin_write(), Err(TransactionError::Storage(_)));
        if slot.as_ref().is_some_and(|database| !fails(database)) {
            return Ok(());
        }
        // Closed first: the file is locked as long as it is open. Never created: a file that has vanished
        // is not an empty one.
        *slot = None;
        let opened = checked(|| Database::builder().set_cache_size(CACHE_BYTES).open(&self.file));
        let database = opened.map_err(|error| {
            io::Error::other(format!("{} cannot be opened again: {error}", self.file.display()))
        });
        let database = database.map_err(StorageError::Io)?;
        self.rewrite(&database).map_err(|error| {
            StorageError::Io(io::Error::other(format!("what was not yet synced cannot be written: {error}")))
        })?;
        tracing::info!(file = %self.file.display(), "opened again");
        *slot = Some(database);
        Ok(())
    }

    fn rewrite(&self, database: &Database) -> Result<(), super::StoreError> {
        let mut owed = self.owed();
        let transaction = database.begin_write()?;
        for Rows { run, events, metrics, .. } in &owed.rows {
            write_events(&transaction, run, events)?;
            write_metrics(&transaction, run, metrics.as_ref())?;
        }
        transaction.commit()?;
        owed.rows.clear();
        Ok(())
    }
}

fn damaged(detail: &str) -> DatabaseError {
    StorageError::Corrupted(format!("it is damaged: {detail}")).into()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Opens a file. redb decodes some pages of a file that was closed in order before it has verified them,
/// and panics where they are damaged.
fn checked(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database, DatabaseError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let other = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                other(info);
            }
        }));
    });
    QUIET.set(true);
    let opened = panic::catch_unwind(panic::AssertUnwindSafe(open));
    QUIET.set(false);
    opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(damaged(
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its pages make no sense"),
        ))
    })
}
