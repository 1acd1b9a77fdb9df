//! Client state of many clients: in memory while it fits, in files beyond that.
//!
//! A file holds the state after one round and says so in its name, and the store's record says which
//! round of a client counts: a state that was written and not committed is garbage, found by its name. Files
//! have the worker's own format. They are not synced one by one: a killed simulation loses nothing, after a
//! power cut a file may be damaged, which its checksum tells.

use super::{SimulationError, client_name};
use algorithms::Vectors;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};
use worker::client_state::{Durable, Owner, read_file, write_file};

/// Where a state is.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Nowhere: zero.
    Empty,
    /// In memory, since that round.
    Memory(u64, Vectors),
    /// In a file, since that round.
    File(u64),
}

/// The states of all clients of a run.
#[derive(Debug)]
pub(super) struct States {
    folder: PathBuf,
    algorithm: String,
    /// Of clients that were counted.
    current: BTreeMap<usize, Held>,
    /// Of the open round.
    pending: BTreeMap<usize, Held>,
    /// In memory and newer than the file.
    dirty: BTreeSet<usize>,
    /// To be removed once the store does not name them any more.
    obsolete: Vec<PathBuf>,
    bytes: u64,
    budget: u64,
}

fn size(state: &Vectors) -> u64 {
    state.values().map(|vector| vector.len() as u64 * 4).sum()
}

impl States {
    /// Opens a folder; `counted`: the last committed round of each client. Removes whatever else is there.
    pub(super) fn open(
        folder: PathBuf,
        algorithm: &str,
        counted: &BTreeMap<usize, u64>,
        budget: u64,
    ) -> Result<Self, SimulationError> {
        let fail = |error: std::io::Error| SimulationError::file(&folder, error);
        fs::create_dir_all(&folder).map_err(fail)?;
        let keep: BTreeSet<PathBuf> =
            counted.iter().map(|(client, round)| path(&folder, *client, *round)).collect();
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let file = entry.map_err(fail)?.path();
            if !keep.contains(&file) {
                fs::remove_file(&file).map_err(|error| SimulationError::file(&file, error))?;
            }
        }
        let current = counted.iter().map(|(client, round)| (*client, Held::File(*round))).collect();
        Ok(Self {
            folder,
            algorithm: algorithm.to_owned(),
            current,
            pending: BTreeMap::new(),
            dirty: BTreeSet::new(),
            obsolete: Vec::new(),
            bytes: 0,
            budget,
        })
    }

    fn owner(&self, client: usize) -> Owner {
        Owner { worker: client_name(client), run: "simulation".into(), algorithm: self.algorithm.clone() }
    }

    /// Where a client's state is; what is in a file is then read without holding anybody up.
    pub(super) fn find(&self, client: usize) -> (Held, PathBuf, Owner) {
        let held = self.current.get(&client).cloned().unwrap_or(Held::Empty);
        let round = if let Held::File(round) = held { round } else { 0 };
        (held, path(&self.folder, client, round), self.owner(client))
    }

    /// What a client will keep if the round counts.
    pub(super) fn offer(&mut self, client: usize, round: u64, next: Vectors) -> Result<(), SimulationError> {
        let bytes = size(&next);
        if let Some(Held::Memory(_, again)) = self.pending.remove(&client) {
            self.bytes -= size(&again);
        }
        let held = if self.bytes + bytes <= self.budget {
            self.bytes += bytes;
            Held::Memory(round, next)
        } else {
            write(&path(&self.folder, client, round), &self.owner(client), round, next)?;
            Held::File(round)
        };
        self.pending.insert(client, held);
        Ok(())
    }

    /// The round is given up.
    pub(super) fn give_up(&mut self) {
        for (client, held) in std::mem::take(&mut self.pending) {
            self.drop_held(client, held);
        }
    }

    /// The round is committed with these clients.
    pub(super) fn commit(&mut self, counted: impl Iterator<Item = usize>) {
        for client in counted {
            let Some(held) = self.pending.remove(&client) else { continue };
            if let Held::Memory(..) = held {
                self.dirty.insert(client);
            } else {
                self.dirty.remove(&client);
            }
            if let Some(old) = self.current.insert(client, held) {
                self.drop_held(client, old);
            }
        }
        self.give_up();
    }

    fn drop_held(&mut self, client: usize, held: Held) {
        match held {
            Held::Empty => {}
            Held::File(round) => self.obsolete.push(path(&self.folder, client, round)),
            // A checkpoint may have written it, too.
            Held::Memory(round, state) => {
                self.bytes -= size(&state);
                self.obsolete.push(path(&self.folder, client, round));
            }
        }
    }

    /// Writes what only memory has, before the store names it.
    pub(super) fn write(&mut self) -> Result<(), SimulationError> {
        for client in std::mem::take(&mut self.dirty) {
            if let Some(Held::Memory(round, state)) = self.current.get(&client) {
                write(&path(&self.folder, client, *round), &self.owner(client), *round, state.clone())?;
            }
        }
        Ok(())
    }

    /// The store has named what [`Self::write`] wrote: older files are of no use.
    pub(super) fn clean(&mut self) {
        for file in self.obsolete.drain(..) {
            // What memory held was perhaps never written; what stays is removed at the next start.
            let _ = fs::remove_file(file);
        }
    }
}

fn path(folder: &Path, client: usize, round: u64) -> PathBuf {
    folder.join(format!("{client}-{round}.state"))
}

fn write(path: &Path, owner: &Owner, round: u64, state: Vectors) -> Result<(), SimulationError> {
    let durable = Durable { state, round: Some(round), pending: None };
    let written = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        write_file(&mut out, owner, &durable)?;
        out.flush()
    };
    written().map_err(|error| SimulationError::file(path, error))
}

/// Reads the state that [`States::find`] has found.
pub(super) fn load((held, path, owner): (Held, PathBuf, Owner)) -> Result<Vectors, SimulationError> {
    match held {
        Held::Empty => Ok(Vectors::new()),
        Held::Memory(_, state) => Ok(state),
        Held::File(_) => {
            let fail = |error: &dyn std::fmt::Display| SimulationError::file(&path, error);
            let file = File::open(&path).map_err(|error| fail(&error))?;
            let size = file.metadata().map_err(|error| fail(&error))?.len();
            let mut from = BufReader::with_capacity(1 << 20, file);
            read_file(&mut from, size, &owner).map(|durable| durable.state).map_err(|error| fail(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn state(value: f32) -> Vectors {
        Vectors::from([("c".to_owned(), Arc::new(vec![value; 4]))])
    }

    fn files(folder: &Path) -> BTreeSet<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_state_counts_when_its_round_does() {
        for budget in [0, 16, 1_000] {
            let folder = tempfile::tempdir().unwrap();
            let open = |counted: &[(usize, u64)]| {
                let counted = counted.iter().copied().collect();
                States::open(folder.path().to_owned(), "scaffold", &counted, budget).unwrap()
            };
            let mut states = open(&[]);
            states.offer(3, 0, state(1.0)).unwrap();
            states.offer(5, 0, state(2.0)).unwrap();
            assert_eq!(load(states.find(3)).unwrap(), Vectors::new());
            states.commit([3].into_iter());
            assert_eq!(load(states.find(3)).unwrap(), state(1.0));
            assert_eq!(load(states.find(5)).unwrap(), Vectors::new(), "it was not counted");
            states.write().unwrap();
            states.clean();
            assert_eq!(files(folder.path()), BTreeSet::from(["3-0.state".to_owned()]));
            // Killed after a write that the store did not name.
            states.offer(3, 1, state(3.0)).unwrap();
            states.commit([3].into_iter());
            states.write().unwrap();
            let mut states = open(&[(3, 0)]);
            assert_eq!(load(states.find(3)).unwrap(), state(1.0));
            assert_eq!(files(folder.path()), BTreeSet::from(["3-0.state".to_owned()]));
            states.offer(3, 1, state(4.0)).unwrap();
            states.commit([3].into_iter());
            states.write().unwrap();
            states.clean();
            assert_eq!(load(states.find(3)).unwrap(), state(4.0));
            assert_eq!(files(folder.path()), BTreeSet::from(["3-1.state".to_owned()]));
        }
    }
}
