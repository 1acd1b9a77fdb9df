//! A simulation that stands still, in one file: written beside its place and renamed, so that it is the old one
//! or the new one, with a digest that tells damage.

use crate::training::SimulationError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, Instant},
};

const MAGIC: &[u8; 16] = b"starling-sim-1\r\n";
const DIGEST_BYTES: usize = 32;
/// A file takes at most a so manieth part of the time between two of them.
const RARELY: u32 = 20;

/// Replaces the file.
pub(crate) fn write<T: Serialize>(file: &Path, state: &T) -> Result<(), SimulationError> {
    let failed = |error: &dyn std::fmt::Display| SimulationError::file(file, error);
    let bytes = postcard::to_extend(state, MAGIC.to_vec()).map_err(|error| failed(&error))?;
    let digest = blake3::hash(&bytes[MAGIC.len()..]);
    let beside = file.with_extension("partial");
    let mut whole = bytes;
    whole.extend(digest.as_bytes());
    fs::write(&beside, whole).and_then(|()| fs::rename(&beside, file)).map_err(|error| failed(&error))
}

/// What the file holds; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, SimulationError> {
    let failed = |why: &dyn std::fmt::Display| {
        SimulationError::file(file, format!("{why}; remove the folder that it lies in to begin anew"))
    };
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let body = bytes.strip_prefix(MAGIC).filter(|body| body.len() >= DIGEST_BYTES);
    let (body, digest) = body
        .map(|body| body.split_at(body.len() - DIGEST_BYTES))
        .ok_or_else(|| failed(&"it is no snapshot of a simulation of this version"))?;
    if blake3::hash(body).as_bytes() != digest {
        return Err(failed(&"it is damaged"));
    }
    postcard::from_bytes(body).map(Some).map_err(|error| failed(&error))
}

/// When the next file is due.
#[derive(Debug)]
pub(crate) struct Pace {
    least: Duration,
    last: Instant,
    cost: Duration,
}

impl Pace {
    /// At least so far apart; zero: always.
    pub(crate) fn new(least: Duration) -> Self {
        Self { least, last: Instant::now(), cost: Duration::ZERO }
    }

    pub(crate) fn due(&self) -> bool {
        self.least.is_zero() || self.last.elapsed() >= self.least.max(self.cost * RARELY)
    }

    /// Does what is due.
    pub(crate) fn pay<T>(&mut self, write: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = write();
        (self.last, self.cost) = (Instant::now(), began.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_and_nothing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("peers");
        assert_eq!(read::<Vec<f32>>(&file).unwrap(), None);
        let state = vec![1.0_f32, f32::MIN_POSITIVE, -0.0];
        write(&file, &state).unwrap();
        assert_eq!(read::<Vec<f32>>(&file).unwrap(), Some(state));
        let whole = fs::read(&file).unwrap();
        for at in [0, MAGIC.len() + 1, whole.len() - 1] {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            fs::write(&file, broken).unwrap();
            assert!(read::<Vec<f32>>(&file).unwrap_err().to_string().contains("begin anew"), "byte {at}");
        }
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert!(read::<Vec<f32>>(&file).is_err());
    }
}
