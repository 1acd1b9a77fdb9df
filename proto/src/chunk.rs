//! Vectors as streams of chunks: cut without a copy, checked and put together with one.
//!
//! A chunk carries its offset and a CRC32C, so that damage is found where it happens and a transfer
//! can go on at any chunk; the whole has a BLAKE3 digest. The receiver allocates only what its own
//! run needs: a declared length never decides an allocation.

use crate::{digest::Digest, limits::CHUNK_BYTES, v1::Chunk};
use bytes::Bytes;
use std::sync::Arc;

#[cfg(target_endian = "big")]
compile_error!("vectors are moved as little-endian bytes without conversion");

/// Why received chunks are not the announced vector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk does not follow the one before.
    #[error("chunk at byte {got}, expected byte {expected}")]
    Offset {
        /// Where the chunk says it belongs.
        got: u64,
        /// Where the received part ends.
        expected: u64,
    },
    /// A chunk's checksum is wrong.
    #[error("chunk at byte {offset}: CRC32C {got:08x}, announced {announced:08x}")]
    Crc {
        /// The chunk.
        offset: u64,
        /// Of the bytes.
        got: u32,
        /// By the sender.
        announced: u32,
    },
    /// More bytes than announced.
    #[error("{got} bytes, expected {expected}")]
    TooLong {
        /// Received.
        got: u64,
        /// Announced.
        expected: u64,
    },
    /// Fewer bytes than announced.
    #[error("the stream ended after {got} of {expected} bytes")]
    TooShort {
        /// Received.
        got: u64,
        /// Announced.
        expected: u64,
    },
    /// Every chunk was right, but not the whole.
    #[error("digest {got}, announced {announced}")]
    Digest {
        /// Of the bytes.
        got: Digest,
        /// By the sender.
        announced: Digest,
    },
}

struct Shared(Arc<Vec<f32>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The bytes of a vector, without a copy.
pub fn bytes_of(vector: &Arc<Vec<f32>>) -> Bytes {
    Bytes::from_owner(Shared(Arc::clone(vector)))
}

/// One chunk of `data` that starts at `offset` of the whole.
pub fn chunk(offset: u64, data: Bytes) -> Chunk {
    Chunk { offset, crc32c: crc32c::crc32c(&data), data }
}

/// The checksums of a byte string's chunks.
pub fn checksums(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(CHUNK_BYTES).map(crc32c::crc32c)
}

/// The chunks of several byte strings that lie end to end, from `offset` on.
pub fn chunks(parts: Vec<Bytes>, offset: u64) -> impl Iterator<Item = Chunk> + Send + 'static {
    let mut start = 0_u64;
    let placed: Vec<(u64, Bytes)> = parts
        .into_iter()
        .map(|part| {
            let at = start;
            start += part.len() as u64;
            (at, part)
        })
        .collect();
    placed.into_iter().flat_map(move |(at, part)| {
        let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(part.len());
        let length = part.len();
        (skip..length).step_by(CHUNK_BYTES).map(move |from| {
            let to = (from + CHUNK_BYTES).min(length);
            chunk(at + from as u64, part.slice(from..to))
        })
    })
}

/// Puts a vector together from its chunks; survives a broken stream, so that the rest can follow.
pub struct Assembler {
    values: Vec<f32>,
    received: usize,
    hasher: blake3::Hasher,
    announced: Digest,
}

impl std::fmt::Debug for Assembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Assembler({} of {} bytes)", self.received, self.values.len() * 4)
    }
}

impl Assembler {
    /// For `length` scalars, of which nothing has arrived.
    pub fn new(length: usize, announced: Digest) -> Self {
        Self::filling(vec![0.0; length], announced)
    }

    /// For as many scalars as `values` has, which are overwritten: memory that was used before costs
    /// no page faults.
    pub fn filling(values: Vec<f32>, announced: Digest) -> Self {
        Self { values, received: 0, hasher: blake3::Hasher::new(), announced }
    }

    /// Bytes received: where the rest starts.
    pub fn received(&self) -> u64 {
        self.received as u64
    }

    /// The scalars that have arrived whole. The last word is [`Self::finish`]'s.
    pub fn arrived(&self) -> &[f32] {
        &self.values[..self.received / 4]
    }

    /// The announced digest.
    pub fn announced(&self) -> Digest {
        self.announced
    }

    /// Adds the next chunk; an error leaves the received part as it was.
    pub fn push(&mut self, chunk: &Chunk) -> Result<(), ChunkError> {
        if chunk.offset != self.received as u64 {
            return Err(ChunkError::Offset { got: chunk.offset, expected: self.received as u64 });
        }
        let end = self.received + chunk.data.len();
        if end > self.values.len() * 4 {
            return Err(ChunkError::TooLong { got: end as u64, expected: self.values.len() as u64 * 4 });
        }
        let crc = crc32c::crc32c(&chunk.data);
        if crc != chunk.crc32c {
            return Err(ChunkError::Crc { offset: chunk.offset, got: crc, announced: chunk.crc32c });
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.values);
        bytes[self.received..end].copy_from_slice(&chunk.data);
        self.hasher.update(&chunk.data);
        self.received = end;
        Ok(())
    }

    /// Whether every byte is there.
    pub fn is_complete(&self) -> bool {
        self.received == self.values.len() * 4
    }

    /// The vector, if all of it arrived and it is the announced one.
    pub fn finish(self) -> Result<Vec<f32>, ChunkError> {
        if !self.is_complete() {
            let expected = self.values.len() as u64 * 4;
            return Err(ChunkError::TooShort { got: self.received as u64, expected });
        }
        let got = Digest(*self.hasher.finalize().as_bytes());
        if got != self.announced {
            return Err(ChunkError::Digest { got, announced: self.announced });
        }
        Ok(self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(length: usize) -> Arc<Vec<f32>> {
        Arc::new((0..length).map(|i| i as f32 * 0.5 - 3.0).collect())
    }

    #[test]
    fn a_broken_transfer_goes_on_where_it_stopped() {
        let (a, b) = (vector(100_000), vector(70_001));
        let whole: Vec<f32> = a.iter().chain(b.iter()).copied().collect();
        let parts = vec![bytes_of(&a), bytes_of(&b)];
        let mut assembler = Assembler::new(whole.len(), Digest::of_vector(&whole));
        for chunk in chunks(parts.clone(), 0).take(2) {
            assembler.push(&chunk).unwrap();
        }
        let offset = assembler.received();
        assert!(offset > 0 && !assembler.is_complete());
        assert_eq!(assembler.arrived(), &whole[..offset as usize / 4]);
        for chunk in chunks(parts, offset) {
            assembler.push(&chunk).unwrap();
        }
        assert_eq!(assembler.finish().unwrap(), whole);
    }

    #[test]
    fn what_a_buffer_held_before_does_not_show() {
        let a = vector(70_001);
        let mut assembler = Assembler::filling(vec![f32::NAN; a.len()], Digest::of_vector(&a));
        assert!(assembler.arrived().is_empty());
        for chunk in chunks(vec![bytes_of(&a)], 0) {
            assembler.push(&chunk).unwrap();
        }
        assert_eq!(assembler.finish().unwrap(), *a);
    }

    #[test]
    fn damage_is_named() {
        let a = vector(10);
        let good = chunks(vec![bytes_of(&a)], 0).next().unwrap();
        let mut assembler = Assembler::new(10, Digest::of_vector(&a));
        let moved = Chunk { offset: 4, ..good.clone() };
        assert_eq!(assembler.push(&moved), Err(ChunkError::Offset { got: 4, expected: 0 }));
        let flipped = Chunk { crc32c: good.crc32c ^ 1, ..good.clone() };
        assert!(matches!(assembler.push(&flipped), Err(ChunkError::Crc { .. })));
        let mut short = Assembler::new(9, Digest::of_vector(&a));
        assert!(matches!(short.push(&good), Err(ChunkError::TooLong { .. })));
        let longer = Assembler::new(11, Digest::of_vector(&a));
        assert!(matches!(longer.finish(), Err(ChunkError::TooShort { got: 0, expected: 44 })));
        let mut wrong = Assembler::new(10, Digest::of(b"other"));
        wrong.push(&good).unwrap();
        assert!(matches!(wrong.finish(), Err(ChunkError::Digest { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(offset in 0_u64..64, data in prop::collection::vec(any::<u8>(), 0..64), crc: u32) {
            let mut assembler = Assembler::new(8, Digest::of(b""));
            let _ = assembler.push(&Chunk { offset, crc32c: crc, data: data.clone().into() });
            let _ = assembler.push(&chunk(offset, data.into()));
            prop_assert!(assembler.received() <= 32);
        }

        #[test]
        fn any_resume_point_gives_the_rest(length in 1_usize..5, offset in 0_u64..20) {
            let a = vector(length);
            let bytes = bytes_of(&a);
            let got: Vec<u8> = chunks(vec![bytes.clone(), bytes.clone()], offset).flat_map(|c| c.data.to_vec()).collect();
            let both = [bytes.as_ref(), bytes.as_ref()].concat();
            prop_assert_eq!(&got, &both[(offset as usize).min(both.len())..]);
        }
    }
}
