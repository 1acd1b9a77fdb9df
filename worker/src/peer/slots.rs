//! Long vectors of a peer's record as files beside it. A vector that is stored already is not written again, and a
//! file is written over only when the record that is in force does not name it. Files are used again: fresh pages of
//! the page cache cost a multiple of the copy into those that are there.

use super::digests::Digests;
use gossip::machine::Vector;
use proto::digest::Digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Vectors of fewer scalars stay in the record.
const LONG: usize = 1 << 14;

/// Where a vector of a record is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In the record.
    Here(Vec<f32>),
    /// In a file.
    There(Slot),
}

/// A file that holds one vector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Slot {
    number: u32,
    scalars: u64,
    digest: Digest,
}

/// The files of one peer.
#[derive(Debug)]
pub(super) struct Slots {
    dir: PathBuf,
    /// Those that the record in force names.
    named: Vec<Slot>,
    /// Numbers of files that there are.
    there: BTreeSet<u32>,
}

fn file(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("vector-{number}"))
}

impl Slots {
    /// The files in `dir`, of which none is named yet.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            there.extend(name.to_str().and_then(|name| name.strip_prefix("vector-")?.parse::<u32>().ok()));
        }
        Ok(Self { dir: dir.to_owned(), named: Vec::new(), there })
    }

    /// Writes what is not there yet, durably, and says where everything is. The record in force stays whole.
    pub(super) fn keep(&mut self, vectors: &[Vector<f32>], digests: &Digests) -> io::Result<Vec<Place>> {
        let mut fresh: Vec<Slot> = Vec::new();
        let mut places = Vec::new();
        for vector in vectors {
            if vector.len() < LONG {
                places.push(Place::Here(vector.to_vec()));
                continue;
            }
            let digest = digests.of(&vector.shared());
            let same = |slot: &&Slot| slot.digest == digest && slot.scalars == vector.len() as u64;
            let known = self.named.iter().chain(&fresh).find(same).copied();
            let slot = if let Some(slot) = known {
                slot
            } else {
                let taken: BTreeSet<u32> = self.named.iter().chain(&fresh).map(|slot| slot.number).collect();
                let number = (0..=taken.len() as u32).find(|number| !taken.contains(number));
                let number = number.expect("one of more numbers than are taken is free");
                self.write(number, vector)?;
                let slot = Slot { number, scalars: vector.len() as u64, digest };
                fresh.push(slot);
                slot
            };
            places.push(Place::There(slot));
        }
        Ok(places)
    }

    /// The record that names these is in force.
    pub(super) fn named(&mut self, places: &[Place]) {
        self.named.clear();
        let slots = places.iter().filter_map(|place| match place {
            Place::There(slot) => Some(*slot),
            Place::Here(_) => None,
        });
        self.named.extend(slots);
        // As many again may be needed before the next record is in force; more are not kept.
        let most =
            self.named.iter().map(|slot| slot.number + 1).max().unwrap_or(0).max(2 * self.named.len() as u32);
        for number in self.there.split_off(&most) {
            let _ = fs::remove_file(file(&self.dir, number));
        }
    }

    fn write(&mut self, number: u32, vector: &[f32]) -> io::Result<()> {
        let path = file(&self.dir, number);
        let mut out = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        out.write_all(bytemuck::cast_slice(vector))?;
        out.set_len(vector.len() as u64 * 4)?;
        out.sync_data()?;
        self.there.insert(number);
        Ok(())
    }

    /// Reads a vector of a record back.
    pub(super) fn read(&self, place: Place) -> Result<Vector<f32>, String> {
        let slot = match place {
            Place::Here(values) => return Ok(values.into()),
            Place::There(slot) => slot,
        };
        let path = file(&self.dir, slot.number);
        let wrong = |why: String| format!("{}: {why}", path.display());
        let mut file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        // What the record says never decides an allocation.
        if bytes != slot.scalars * 4 {
            return Err(wrong(format!("{bytes} bytes, expected {}", slot.scalars * 4)));
        }
        let mut values = vec![0.0_f32; slot.scalars as usize];
        file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(|error| wrong(error.to_string()))?;
        if Digest::of_vector(&values) != slot.digest {
            return Err(wrong("it is damaged".into()));
        }
        Ok(values.into())
    }
}
