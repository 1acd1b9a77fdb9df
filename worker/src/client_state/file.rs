//! The file of one client state: magic and version, a JSON header with names and lengths, the
//! elements as little-endian `f32`, BLAKE3 over all of it.
//!
//! Read as if an enemy had written it: the size of the file bounds every allocation, and a file that
//! is damaged, of a newer version or of another worker is an error that says so.

use super::{Durable, Facts, Pending};
use algorithms::Vectors;
use proto::digest::Digest;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    sync::Arc,
};

const MAGIC: &[u8; 16] = b"starling-state\r\n";
const VERSION: u32 = 1;
/// Largest header: names and lengths of a handful of vectors.
const HEADER_BYTES: u32 = 1 << 20;
const DIGEST_BYTES: u64 = 32;

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The worker.
    pub worker: String,
    /// The run.
    pub run: String,
    /// The algorithm's name.
    pub algorithm: String,
}

/// Why a file is no client state that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no such file, or a damaged one.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Written by a newer program.
    #[error("version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// It belongs to another worker, run or algorithm.
    #[error("it belongs to {found}, expected {expected}")]
    Foreign {
        /// Whose it is.
        found: String,
        /// Whose was looked for.
        expected: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    owner: Owner,
    round: Option<u64>,
    state: Vec<(String, u64)>,
    pending: Option<PendingHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingHeader {
    round: u64,
    basis: Digest,
    facts: Facts,
    digest: Digest,
    upload: Vec<(String, u64)>,
    next: Vec<(String, u64)>,
}

fn shapes(vectors: &Vectors) -> Vec<(String, u64)> {
    vectors.iter().map(|(name, vector)| (name.clone(), vector.len() as u64)).collect()
}

/// Writes a state.
///
/// # Errors
/// Those of the writer.
pub fn write(to: &mut impl Write, owner: &Owner, durable: &Durable) -> io::Result<()> {
    let pending = durable.pending.as_ref().map(|pending| PendingHeader {
        round: pending.round,
        basis: pending.basis,
        facts: pending.facts,
        digest: pending.digest,
        upload: shapes(&pending.upload),
        next: shapes(&pending.next),
    });
    let header =
        Header { owner: owner.clone(), round: durable.round, state: shapes(&durable.state), pending };
    let header = serde_json::to_vec(&header)?;
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        to.write_all(bytes)
    };
    put(MAGIC)?;
    put(&VERSION.to_le_bytes())?;
    put(&(header.len() as u32).to_le_bytes())?;
    put(&header)?;
    let pending = durable.pending.iter().flat_map(|pending| [&pending.upload, &pending.next]);
    for vector in std::iter::once(&durable.state).chain(pending).flat_map(Vectors::values) {
        put(bytemuck::cast_slice(vector))?;
    }
    to.write_all(hasher.finalize().as_bytes())
}

/// Reads a state from a file of `size` bytes.
///
/// # Errors
/// If it cannot be read, is damaged, of a newer version or another owner's.
pub fn read(from: &mut impl Read, size: u64, owner: &Owner) -> Result<Durable, FileError> {
    let mut input = Input { from, hasher: blake3::Hasher::new(), left: size };
    let magic: [u8; 16] = input.array("its first bytes")?;
    if &magic != MAGIC {
        return Err(FileError::Damaged("it does not start as a client state does".into()));
    }
    let version = u32::from_le_bytes(input.array("its version")?);
    if version != VERSION {
        return Err(FileError::Version(version));
    }
    let header = input.header()?;
    let lengths = [&header.state].into_iter().chain(header.pending.iter().flat_map(|p| [&p.upload, &p.next]));
    let elements = lengths
        .flatten()
        .try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length))
        .and_then(|sum| sum.checked_mul(4))
        .and_then(|bytes| bytes.checked_add(DIGEST_BYTES));
    if elements != Some(input.left) {
        let expected = elements.map_or_else(|| "impossibly many".into(), |bytes| bytes.to_string());
        let left = input.left;
        return Err(FileError::Damaged(format!("{left} bytes after the header, expected {expected}")));
    }
    let state = input.vectors(&header.state)?;
    let pending = header.pending.map(|header| input.pending(header)).transpose()?;
    let computed = *input.hasher.finalize().as_bytes();
    let stored: [u8; 32] = input.array("its checksum")?;
    if stored != computed {
        return Err(FileError::Damaged("the checksum is wrong".into()));
    }
    if header.owner != *owner {
        return Err(FileError::Foreign { found: describe(&header.owner), expected: describe(owner) });
    }
    Ok(Durable { state, round: header.round, pending })
}

fn describe(owner: &Owner) -> String {
    format!("worker {}, run {}, algorithm {}", owner.worker, owner.run, owner.algorithm)
}

struct Input<'a, R> {
    from: &'a mut R,
    hasher: blake3::Hasher,
    /// Bytes of the file that were not read.
    left: u64,
}

impl<R: Read> Input<'_, R> {
    fn bytes(&mut self, into: &mut [u8], what: &str) -> Result<(), FileError> {
        self.left = self
            .left
            .checked_sub(into.len() as u64)
            .ok_or_else(|| FileError::Damaged(format!("it ends within {what}")))?;
        self.from.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::Damaged(format!("it ends within {what}")),
            _ => FileError::Io(error),
        })?;
        self.hasher.update(into);
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FileError> {
        let mut array = [0; N];
        self.bytes(&mut array, what)?;
        Ok(array)
    }

    fn header(&mut self) -> Result<Header, FileError> {
        let length = u32::from_le_bytes(self.array("its header")?);
        if length > HEADER_BYTES {
            return Err(FileError::Damaged(format!("a header of {length} bytes")));
        }
        let mut text = vec![0; length as usize];
        self.bytes(&mut text, "its header")?;
        serde_json::from_slice(&text).map_err(|error| FileError::Damaged(format!("header: {error}")))
    }

    fn vectors(&mut self, shapes: &[(String, u64)]) -> Result<Vectors, FileError> {
        let mut vectors = Vectors::new();
        for (name, length) in shapes {
            // The sum of the lengths was checked against the size of the file.
            let mut vector = vec![0.0_f32; *length as usize];
            self.bytes(bytemuck::cast_slice_mut(&mut vector), "its vectors")?;
            vectors.insert(name.clone(), Arc::new(vector));
        }
        Ok(vectors)
    }

    fn pending(&mut self, header: PendingHeader) -> Result<Pending, FileError> {
        let PendingHeader { round, basis, facts, digest, upload, next } = header;
        let (upload, next) = (self.vectors(&upload)?, self.vectors(&next)?);
        Ok(Pending { round, basis, facts, digest, upload, next })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::durable;
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner { worker: "w".into(), run: "r-1".into(), algorithm: "scaffold".into() }
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &owner(), &durable()).unwrap();
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Durable, FileError> {
        read(&mut &bytes[..], bytes.len() as u64, &owner())
    }

    #[test]
    fn a_state_survives_the_file() {
        assert_eq!(parse(&bytes()).unwrap(), durable());
        let empty = Durable::default();
        let mut file = Vec::new();
        write(&mut file, &owner(), &empty).unwrap();
        assert_eq!(parse(&file).unwrap(), empty);
    }

    #[test]
    fn every_flipped_byte_is_an_error() {
        let good = bytes();
        for at in (0..good.len()).step_by(7).chain((0..good.len()).step_by(97)) {
            for bit in [0x01, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                assert!(parse(&bad).is_err(), "byte {at} flipped by {bit:#x}");
            }
        }
    }

    #[test]
    fn every_truncation_and_every_addition_is_an_error() {
        let good = bytes();
        for length in 0..good.len() {
            assert!(matches!(parse(&good[..length]), Err(FileError::Damaged(_))), "{length} bytes");
        }
        assert!(parse(&[good.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn the_state_of_another_worker_is_named() {
        let other = Owner { worker: "other".into(), ..owner() };
        let error = read(&mut &bytes()[..], bytes().len() as u64, &other).unwrap_err().to_string();
        assert!(error.contains("worker w,") && error.contains("worker other,"), "{error}");
        let mut newer = bytes();
        newer[16] = 9;
        assert!(matches!(parse(&newer), Err(FileError::Version(9))));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..256), size in 0_u64..512) {
            prop_assert!(read(&mut &data[..], size, &owner()).is_err());
            // Behind a good start, where lengths are read.
            let mut file = bytes();
            file.truncate(24);
            file.extend(&data);
            prop_assert!(parse(&file).is_err());
        }

        #[test]
        fn any_lengths_never_allocate(length in any::<u64>()) {
            let header = format!(
                r#"{{"owner":{{"worker":"w","run":"r-1","algorithm":"scaffold"}},"round":null,"state":[["c",{length}],["d",{length}]],"pending":null}}"#
            );
            let mut file = MAGIC.to_vec();
            file.extend(VERSION.to_le_bytes());
            file.extend((header.len() as u32).to_le_bytes());
            file.extend(header.as_bytes());
            file.extend([0; 36]);
            prop_assert!(parse(&file).is_err());
        }
    }
}
