//! A sampler as plain numbers, for a device that draws the same integers from the same key.

use super::{Kind, ReleaseKey, Sampler, table::Table};

/// All that draws follow from besides the stream. How they do is told by `batch.rs` and `table.rs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// For each slot what is known at one look.
    pub slots: Vec<u64>,
    /// For each slot its cut to 192 bits, the highest first.
    pub cuts: Vec<[u64; 3]>,
    /// 1 for the discrete law, 0 for the rounded one.
    pub discrete: u64,
    /// How the integer follows from a block and an offset: bits, round and shift.
    pub shape: [u64; 3],
    /// Bits of the offset that are drawn with each attempt.
    pub known_bits: u64,
    /// `w²/2σ²`.
    pub kappa: f64,
    /// The same to 384 bits, the highest first.
    pub exact_kappa: [u64; 6],
}

impl Sampler {
    /// The tables.
    pub fn tables(&self) -> Tables {
        self.table.plain()
    }
}

impl ReleaseKey {
    /// The secret as ChaCha20 takes it: whoever has it can take the noise away. For a device that draws.
    pub fn expose(&self) -> [u32; 8] {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(self.0.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words
    }
}

impl Table {
    fn plain(&self) -> Tables {
        let (slots, shape) = self.looks();
        Tables {
            slots,
            cuts: self.exact_cuts.clone(),
            discrete: u64::from(self.kind == Kind::Discrete),
            shape,
            known_bits: self.known_bits.into(),
            kappa: self.kappa,
            exact_kappa: self.exact_kappa.0,
        }
    }
}
