//! Where the randomness of noise comes from: a secret key of the run, a key of each release derived
//! from it, and a stream for each shard of each vector of that release.
//!
//! A release that is retried gets the same noise, whatever the number of threads and wherever it
//! crashed before: two releases of one sum with fresh noise would have to be paid for twice. Two
//! *different* sums must never meet the same noise, since their difference would be bare: number
//! releases such that a sum which changed after it may have been seen has a number of its own.

use std::{convert::Infallible, fmt};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng, TryRng},
};

use super::{
    Sampler,
    wide::{Columns, Wide},
};

/// Elements in a shard: a unit of parallel work, and no parameter, since the noise depends on it.
pub const SHARD: usize = 1 << 16;

/// The secret of a run: 256 bits from the operating system, never the seed of training.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// The secret of one release.
#[derive(Clone, PartialEq, Eq)]
pub struct ReleaseKey(pub(super) [u8; 32]);

/// Random bits of ChaCha20 that follow from a key: the same on every machine.
#[derive(Clone)]
pub struct Stream(Cipher);

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a box would be a look into memory for every draw")]
enum Cipher {
    Plain(ChaCha20Rng),
    Wide(Box<Wide>),
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match &mut self.0 {
            Cipher::Plain(plain) => plain.try_next_u32(),
            Cipher::Wide(wide) => wide.try_next_u32(),
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match &mut self.0 {
            Cipher::Plain(plain) => plain.try_next_u64(),
            Cipher::Wide(wide) => wide.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match &mut self.0 {
            Cipher::Plain(plain) => plain.try_fill_bytes(bytes),
            Cipher::Wide(wide) => wide.try_fill_bytes(bytes),
        }
    }
}

// None may end in a log.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream(secret)")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl fmt::Debug for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReleaseKey(secret)")
    }
}

impl Key {
    /// A key of these bytes; whoever knows them can take the noise away.
    pub fn new(entropy: [u8; 32]) -> Self {
        Self(entropy)
    }

    /// The key of one release, such as a round.
    pub fn release(&self, number: u64) -> ReleaseKey {
        let mut bytes = [0; 32];
        stream(self.0, number).fill_bytes(&mut bytes);
        ReleaseKey(bytes)
    }
}

impl ReleaseKey {
    /// The stream of one shard of one vector of the release.
    pub fn stream(&self, vector: u32, shard: u32) -> Stream {
        let number = u64::from(vector) << 32 | u64::from(shard);
        Stream(match Wide::new(self.0, number) {
            Some(wide) => Cipher::Wide(Box::new(wide)),
            None => Cipher::Plain(stream(self.0, number)),
        })
    }

    /// The same bytes, many at a time and in another order.
    pub(super) fn columns(&self, vector: u32, shard: u32) -> Columns {
        let number = u64::from(vector) << 32 | u64::from(shard);
        Columns::new(self.0, number, stream(self.0, number))
    }

    /// Adds noise to one shard of a vector, in units of which the sampler's quantum has `unit`.
    pub fn add_noise(&self, sampler: &Sampler, (vector, shard): (u32, u32), sum: &mut [i64], unit: i64) {
        sampler.add_scaled_noise(sum, unit, &mut self.stream(vector, shard));
    }
}

/// The shards of a vector, which may be worked on in any order and at the same time.
pub fn shards(sum: &mut [i64]) -> impl Iterator<Item = (u32, &mut [i64])> {
    sum.chunks_mut(SHARD).enumerate().map(|(index, shard)| (index as u32, shard))
}

fn stream(seed: [u8; 32], number: u64) -> ChaCha20Rng {
    let mut random = ChaCha20Rng::from_seed(seed);
    random.set_stream(number);
    random
}
