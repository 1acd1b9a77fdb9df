//! The state directory: one file for each run whose algorithm keeps client state, one lock.
//!
//! A file is written beside its place, synced, renamed, and the directory synced: at every instant
//! there is the old state or the new one. A file that cannot be read stays as it is, for its owner to
//! look at.

use super::{Durable, FileError, Owner, file};
use crate::WorkerError;
use algorithms::Vectors;
use proto::names::{RunId, WorkerName};
use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Why the client state of a run cannot be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be used.
    #[error(
        "client state {}: {error}; put the right file back, or cancel the run and start a new one (training on \
         without it would bias the run for ever)", path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: FileError,
    },
    /// The state could not be written; nothing was uploaded.
    #[error("client state {} cannot be written: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

#[derive(Debug, Default)]
struct Record {
    durable: Durable,
    /// Whose file it is; `None`: the algorithm keeps no client state, and nothing is written.
    owner: Option<Owner>,
}

/// The client states of one worker.
#[derive(Debug)]
pub struct States {
    runs: PathBuf,
    worker: WorkerName,
    records: BTreeMap<RunId, Record>,
    _lock: File,
}

impl States {
    /// Opens a state directory and keeps others out of it until dropped.
    ///
    /// # Errors
    /// If it cannot be created, or another process uses it.
    pub fn open(dir: &Path, worker: &WorkerName) -> Result<Self, WorkerError> {
        let runs = dir.join("runs");
        fs::create_dir_all(&runs).map_err(|error| WorkerError::StateDir {
            path: dir.to_owned(),
            problem: format!("cannot be created: {error}"),
        })?;
        let lock = lock(dir)?;
        Ok(Self { runs, worker: worker.clone(), records: BTreeMap::new(), _lock: lock })
    }

    /// Whose states these are.
    pub fn worker(&self) -> &WorkerName {
        &self.worker
    }

    /// The state of a run; from its file at the first time if `stateful`.
    pub fn get(&mut self, run: &RunId, algorithm: &str, stateful: bool) -> Result<&mut Durable, StateError> {
        if !self.records.contains_key(run) {
            let record = if stateful { self.read(run, algorithm)? } else { Record::default() };
            self.records.insert(run.clone(), record);
        }
        Ok(&mut self.records.entry(run.clone()).or_default().durable)
    }

    /// The upload of a run that waits for confirmation.
    pub fn upload(&self, run: &RunId) -> Vectors {
        let pending = self.records.get(run).and_then(|record| record.durable.pending.as_ref());
        pending.map(|pending| pending.upload.clone()).unwrap_or_default()
    }

    /// Writes the state of a run to disk, if its algorithm keeps any. What could not be written is
    /// forgotten: an upload that is not on disk must not be offered, the next assignment reads the file.
    pub fn save(&mut self, run: &RunId) -> Result<(), StateError> {
        let Some(Record { durable, owner: Some(owner) }) = self.records.get(run) else { return Ok(()) };
        let path = self.path(run);
        let written = replace(&path, |out| file::write(out, owner, durable));
        if written.is_err() {
            self.records.remove(run);
        }
        written.map_err(|error| StateError::Write { path, error })
    }

    /// A round was committed: settles what is in memory, and on disk.
    ///
    /// A run that is not in memory is settled by its next assignment, which says the same.
    pub fn closed(&mut self, run: &RunId, round: u64, included: bool) -> Result<bool, StateError> {
        let Some(record) = self.records.get_mut(run) else { return Ok(false) };
        let changed = record.durable.closed(round, included);
        if changed {
            self.save(run)?;
        }
        Ok(changed)
    }

    /// The run is over.
    pub fn forget(&mut self, run: &RunId) -> Result<(), StateError> {
        self.records.remove(run);
        let path = self.path(run);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, error }),
            _ => Ok(()),
        }
    }

    fn path(&self, run: &RunId) -> PathBuf {
        self.runs.join(format!("{run}.state"))
    }

    fn read(&self, run: &RunId, algorithm: &str) -> Result<Record, StateError> {
        let owner =
            Owner { worker: self.worker.to_string(), run: run.to_string(), algorithm: algorithm.to_owned() };
        let path = self.path(run);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let durable = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Durable::default()),
            Err(error) => Err(FileError::Io(error)),
            Ok((size, file)) => file::read(&mut BufReader::with_capacity(1 << 20, file), size, &owner),
        };
        match durable {
            Ok(durable) => Ok(Record { durable, owner: Some(owner) }),
            Err(error) => Err(StateError::Read { path, error }),
        }
    }
}

/// Keeps others out of a state directory until dropped.
///
/// # Errors
/// If it does not exist, or another process uses it.
pub fn lock(dir: &Path) -> Result<File, WorkerError> {
    let fail = |problem: String| WorkerError::StateDir { path: dir.to_owned(), problem };
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let lock = lock.map_err(|error| fail(format!("its lock cannot be opened: {error}")))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            fail("another worker uses it; give each worker a `state_dir` of its own".into())
        }
        TryLockError::Error(error) => fail(format!("cannot be locked: {error}")),
    })?;
    Ok(lock)
}

/// Puts a new file in the place of `path`, or leaves the old one.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension("state.tmp");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&beside)?);
    write(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, tests::*};
    use super::*;
    use proto::digest::Digest;

    fn run() -> RunId {
        "r-1".parse().unwrap()
    }

    fn open(dir: &Path) -> States {
        States::open(dir, &"w".parse().unwrap()).unwrap()
    }

    fn filled(dir: &Path) -> States {
        let mut states = open(dir);
        *states.get(&run(), "scaffold", true).unwrap() = durable();
        states.save(&run()).unwrap();
        states
    }

    #[test]
    fn a_crash_after_the_pending_write_offers_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let mut states = open(dir.path());
        let found = states.get(&run(), "scaffold", true).unwrap();
        assert_eq!(*found, durable());
        assert_eq!(found.assigned(6, pending(6).basis, Some(4), true), Verdict::Offer);
    }

    #[test]
    fn a_crash_before_the_pending_write_trains_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = open(dir.path());
        *states.get(&run(), "scaffold", true).unwrap() = Durable { pending: None, ..durable() };
        states.save(&run()).unwrap();
        states.get(&run(), "scaffold", true).unwrap().pending = Some(pending(6));
        drop(states);
        let mut states = open(dir.path());
        let found = states.get(&run(), "scaffold", true).unwrap();
        assert_eq!(found.assigned(6, pending(6).basis, Some(4), true), Verdict::Train);
    }

    #[test]
    fn a_crash_between_write_and_rename_keeps_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let beside = dir.path().join("runs/r-1.state.tmp");
        fs::write(&beside, b"half of a new sta").unwrap();
        let mut states = open(dir.path());
        assert_eq!(*states.get(&run(), "scaffold", true).unwrap(), durable());
        assert!(states.closed(&run(), 6, true).unwrap());
        assert!(!beside.exists());
        drop(states);
        let mut states = open(dir.path());
        assert_eq!(states.get(&run(), "scaffold", true).unwrap().round, Some(6));
    }

    #[test]
    fn what_the_disk_did_not_take_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = filled(dir.path());
        // A directory in the place of the temporary file: the write fails, whoever runs the test.
        let beside = dir.path().join("runs/r-1.state.tmp");
        fs::create_dir(&beside).unwrap();
        states.get(&run(), "scaffold", true).unwrap().pending = Some(pending(7));
        assert!(matches!(states.save(&run()), Err(StateError::Write { .. })));
        let found = states.get(&run(), "scaffold", true).unwrap();
        assert_eq!(*found, durable(), "as the disk has it");
        fs::remove_dir(&beside).unwrap();
        assert!(states.closed(&run(), 6, true).unwrap());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let path = dir.path().join("runs/r-1.state");
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0xFF;
            fs::write(&path, &bad).unwrap();
            let mut states = open(dir.path());
            let error = states.get(&run(), "scaffold", true).unwrap_err().to_string();
            assert!(error.contains("r-1.state"), "byte {at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn without_client_state_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = open(dir.path());
        states.get(&run(), "fedavg", false).unwrap().pending = Some(pending(0));
        states.save(&run()).unwrap();
        states.closed(&run(), 0, true).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 0);
    }

    #[test]
    fn one_process_at_a_time_and_no_file_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = filled(dir.path());
        let error = States::open(dir.path(), &"w".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("another worker"), "{error}");
        states.forget(&run()).unwrap();
        states.forget(&run()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 0);
        let fresh = states.get(&run(), "scaffold", true).unwrap();
        assert_eq!(fresh.assigned(9, Digest::of(b""), Some(6), true), Verdict::Lost { ours: None });
    }
}
