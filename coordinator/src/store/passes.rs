//! Large vectors between memory and files: each pass takes parts that stay in the cache, on all cores.

use proto::{chunk::checksums, digest::Digest, limits::CHUNK_BYTES};
use rayon::prelude::*;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

/// Taken at a time: enough for all cores, little enough for their caches.
const PART: usize = 4 * CHUNK_BYTES;

/// Reads what the page cache holds.
#[cfg(target_os = "linux")]
pub(super) fn read_cached(file: &File, into: &mut [u8], offset: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    preadv2(file, &mut [std::io::IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT).ok()
}

/// Other systems do not say what would wait.
#[cfg(not(target_os = "linux"))]
pub(super) fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Fills `bytes` from the start of the file on all cores, comparing checksums of chunks while they are in
/// the cache.
pub(super) fn read(file: &File, bytes: &mut [u8], sums: Option<&[u32]>) -> Result<(), String> {
    bytes.par_chunks_mut(PART).enumerate().try_for_each(|(number, part)| {
        let at = number * PART;
        file.read_exact_at(part, at as u64).map_err(|error| format!("cannot be read: {error}"))?;
        let Some(sums) = sums else { return Ok(()) };
        let damaged = checksums(part).zip(&sums[at / CHUNK_BYTES..]).position(|(got, wanted)| got != *wanted);
        match damaged {
            Some(chunk) => Err(format!("the file is damaged at byte {}", at + chunk * CHUNK_BYTES)),
            None => Ok(()),
        }
    })
}

/// Writes durably over what a spare file of that length held; the disk begins with the first parts while the last are still on their way to it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    /// Written before the disk is asked to begin.
    const AHEAD: usize = 32 * 1024 * 1024;
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if bytes.len() > AHEAD {
        let disk = file.try_clone()?;
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            // What fails here fails again, and is reported, below.
            scope.spawn(move || told.iter().for_each(|()| drop(disk.sync_data())));
            bytes.chunks(AHEAD).try_for_each(|part| {
                file.write_all(part)?;
                let _ = tell.send(());
                Ok::<_, std::io::Error>(())
            })
        })?;
    } else {
        file.write_all(bytes)?;
    }
    file.sync_data()
}

/// Name and checksums, of each part while it is in the cache.
pub(super) fn survey(bytes: &[u8]) -> (Digest, Arc<[u32]>) {
    let mut hasher = blake3::Hasher::new();
    let mut sums = Vec::with_capacity(bytes.len().div_ceil(CHUNK_BYTES));
    for part in bytes.chunks(PART) {
        if part.len() == PART {
            hasher.update_rayon(part);
        } else {
            hasher.update(part);
        }
        sums.extend(checksums(part));
    }
    (Digest(*hasher.finalize().as_bytes()), sums.into())
}

pub(super) fn hash(bytes: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() >= 1024 * 1024 {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
    Digest(*hasher.finalize().as_bytes())
}
