//! Updates in fewer bytes, and the error that this makes, given back.
//!
//! [`Compressor::encode`] makes bytes, [`Compressor::decode`] makes a vector of them; both sides of an
//! algorithm use the *decoded* vector, or client state and server state would drift apart.
//! [`Feedback`] adds what was lost to the next update (Seide et al. 2014; Karimireddy et al. 2019,
//! arXiv:1901.09847), without which biased compressors (top-k, N:M, sign, low rank) do not converge.
//!
//! Everything is a function of the vector and a seed: a retry sends the same bytes. Bytes that do not
//! decode are an error, never a panic.

mod bits;
mod feedback;
mod half;
mod low_rank;
mod packing;
mod quantise;
mod sign;
mod sparse;
#[cfg(test)]
mod tests;

pub use feedback::Feedback;
pub use packing::{Packed, Packing};

use serde::{Deserialize, Serialize};

/// How a vector is made smaller. Sizes are for d scalars; a plain vector has 4 d bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Compressor {
    /// Nothing is lost: 4 d bytes.
    None {},
    /// IEEE half precision, to nearest even; beyond ±65,504 it saturates. 2 d bytes.
    F16 {},
    /// The upper half of an `f32`, to nearest even. 2 d bytes.
    Bf16 {},
    /// Integers −127 … 127 times a scale for each block, stochastically rounded: unbiased (Alistarh et
    /// al. 2017, QSGD, arXiv:1610.02132). d + 4 ⌈d/block⌉ bytes.
    Int8 {
        /// Scalars that share a scale.
        #[serde(default = "default_block")]
        block: usize,
    },
    /// As `int8`, with −7 … 7. d/2 + 4 ⌈d/block⌉ bytes.
    Int4 {
        /// Scalars that share a scale.
        #[serde(default = "default_block")]
        block: usize,
    },
    /// The ⌈ratio d⌉ largest magnitudes, exactly. 4 k bytes, and positions as a list or a map, whichever
    /// is smaller: at most d/8.
    TopK {
        /// Share that is kept, above 0 and at most 1.
        ratio: f64,
    },
    /// ⌈ratio d⌉ places drawn by the seed, exactly. 4 k + 8 bytes: positions are not sent.
    RandomK {
        /// Share that is kept, above 0 and at most 1.
        ratio: f64,
        /// Multiplies by d/k, so that the expectation is right; not with error feedback.
        #[serde(default)]
        unbiased: bool,
    },
    /// The `keep` largest magnitudes of every `group` neighbours, exactly: 4 keep bytes and group bits
    /// for each group; no sort over d.
    NOfM {
        /// N.
        keep: usize,
        /// M, at most 64.
        group: usize,
    },
    /// Signs, times the mean magnitude of each block (Bernstein et al. 2018, arXiv:1802.04434, scaled as
    /// by Karimireddy et al. 2019). d/8 + 4 ⌈d/block⌉ bytes.
    Sign {
        /// Scalars that share a magnitude.
        #[serde(default = "default_block")]
        block: usize,
    },
    /// `P Qᵀ` for each matrix, by one power iteration from a drawn Q (Vogels, Karimireddy and Jaggi 2019,
    /// PowerSGD, arXiv:1905.13727); what it would not make smaller goes as it is. 4 rank (rows + columns)
    /// bytes a matrix.
    LowRank {
        /// Rank of the factors, at least 1.
        rank: usize,
    },
}

fn default_block() -> usize {
    256
}

/// A tensor of a vector, as a matrix: the first dimension, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// The first dimension.
    pub rows: usize,
    /// The product of the others.
    pub columns: usize,
}

/// Why something cannot be compressed, or bytes are no vector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// A key is out of its range.
    #[error("`{key}` is {value}, expected {expected}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The matrices do not make up the vector.
    #[error("matrices of {matrices} scalars, the vector has {vector}")]
    Layout {
        /// In all matrices.
        matrices: usize,
        /// In the vector.
        vector: usize,
    },
    /// These bytes were not made by this compressor for this length.
    #[error("{0}")]
    Bytes(String),
}

impl Compressor {
    /// Checks the range of every key.
    ///
    /// # Errors
    /// [`CompressError::Range`] names the key.
    pub fn check(&self) -> Result<(), CompressError> {
        match *self {
            Self::Int8 { block } | Self::Int4 { block } | Self::Sign { block } => {
                range((1..=1 << 20).contains(&block), "block", block as f64, "1 to 1048576")
            }
            Self::TopK { ratio } | Self::RandomK { ratio, .. } => {
                range(ratio > 0.0 && ratio <= 1.0, "ratio", ratio, "above 0 and at most 1")
            }
            Self::NOfM { keep, group } => {
                range((1..=64).contains(&group), "group", group as f64, "1 to 64")?;
                range((1..=group).contains(&keep), "keep", keep as f64, "1 to `group`")
            }
            Self::LowRank { rank } => range((1..=1_024).contains(&rank), "rank", rank as f64, "1 to 1024"),
            Self::None {} | Self::F16 {} | Self::Bf16 {} => Ok(()),
        }
    }

    /// The bytes of finite values. `matrices` lie end to end in `x` (they matter to `low-rank` alone);
    /// `seed` is of this upload alone.
    ///
    /// # Errors
    /// If a key or the layout is wrong.
    pub fn encode(&self, x: &[f32], matrices: &[Matrix], seed: u64) -> Result<Vec<u8>, CompressError> {
        self.check()?;
        Ok(match *self {
            Self::None {} => x.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 {} => x.iter().flat_map(|v| half::to_f16(*v).to_le_bytes()).collect(),
            Self::Bf16 {} => x.iter().flat_map(|v| half::to_bf16(*v).to_le_bytes()).collect(),
            Self::Int8 { block } => quantise::encode::<8>(x, block, seed),
            Self::Int4 { block } => quantise::encode::<4>(x, block, seed),
            Self::TopK { ratio } => sparse::encode_top(x, kept(ratio, x.len())),
            Self::RandomK { ratio, unbiased } => {
                let k = kept(ratio, x.len());
                sparse::encode_random(x, k, if unbiased { x.len() as f64 / k as f64 } else { 1.0 }, seed)
            }
            Self::NOfM { keep, group } => sparse::encode_groups(x, keep, group),
            Self::Sign { block } => sign::encode(x, block),
            Self::LowRank { rank } => {
                layout(matrices, x.len())?;
                low_rank::encode(x, matrices, rank, seed)
            }
        })
    }

    /// Bytes of any vector of d scalars; the keys and the layout are right.
    pub fn size(&self, matrices: &[Matrix], d: usize) -> usize {
        match *self {
            Self::None {} => 4 * d,
            Self::F16 {} | Self::Bf16 {} => 2 * d,
            Self::Int8 { block } => d + 4 * d.div_ceil(block),
            Self::Int4 { block } => d.div_ceil(2) + 4 * d.div_ceil(block),
            Self::TopK { ratio } => sparse::top_size(kept(ratio, d), d),
            Self::RandomK { ratio, .. } => 8 + 4 * kept(ratio, d),
            Self::NOfM { keep, group } => d.div_ceil(8) + 4 * (d / group * keep + keep.min(d % group)),
            Self::Sign { block } => d.div_ceil(8) + 4 * d.div_ceil(block),
            Self::LowRank { rank } => low_rank::size(matrices, rank),
        }
    }

    /// The vector of d scalars that the bytes stand for.
    ///
    /// # Errors
    /// If a key or the layout is wrong, or the bytes are not this compressor's.
    pub fn decode(&self, bytes: &[u8], matrices: &[Matrix], d: usize) -> Result<Vec<f32>, CompressError> {
        self.check()?;
        let mut input = bits::Input::new(bytes);
        let x = match *self {
            Self::None {} => input.floats(d)?,
            Self::F16 {} => input.halves(d)?.into_iter().map(half::from_f16).collect(),
            Self::Bf16 {} => input.halves(d)?.into_iter().map(half::from_bf16).collect(),
            Self::Int8 { block } => quantise::decode::<8>(&mut input, block, d)?,
            Self::Int4 { block } => quantise::decode::<4>(&mut input, block, d)?,
            Self::TopK { ratio } => sparse::decode_top(&mut input, kept(ratio, d), d)?,
            Self::RandomK { ratio, .. } => sparse::decode_random(&mut input, kept(ratio, d), d)?,
            Self::NOfM { keep, group } => sparse::decode_groups(&mut input, keep, group, d)?,
            Self::Sign { block } => sign::decode(&mut input, block, d)?,
            Self::LowRank { rank } => {
                layout(matrices, d)?;
                low_rank::decode(&mut input, matrices, rank)?
            }
        };
        input.end()?;
        Ok(x)
    }
}

/// ⌈ratio d⌉, at least 1 if there is anything.
fn kept(ratio: f64, d: usize) -> usize {
    ((ratio * d as f64).ceil() as usize).clamp(d.min(1), d)
}

fn layout(matrices: &[Matrix], vector: usize) -> Result<(), CompressError> {
    let sum = |sum: usize, matrix: &Matrix| sum.saturating_add(matrix.rows.saturating_mul(matrix.columns));
    let matrices = matrices.iter().fold(0, sum);
    if matrices == vector { Ok(()) } else { Err(CompressError::Layout { matrices, vector }) }
}

fn range(holds: bool, key: &'static str, value: f64, expected: &'static str) -> Result<(), CompressError> {
    if holds { Ok(()) } else { Err(CompressError::Range { key, value: value.to_string(), expected }) }
}
