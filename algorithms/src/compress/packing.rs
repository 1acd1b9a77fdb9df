//! A whole upload as it travels when it is compressed.
//!
//! Vectors of the model's length go through the compressor, scalars as they are. Each becomes a number of
//! four-byte words that follows from the run alone, zero-padded: what is announced, received and vetted by
//! length stays what it is without compression. Nothing is read as a number before it was unpacked.

use super::{CompressError, Compressor, Feedback, Matrix};

/// How the uploads of one run are compressed.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    compressor: Compressor,
    feedback: bool,
    matrices: Vec<Matrix>,
    /// Scalars of the model.
    length: usize,
    shapes: Vec<(&'static str, usize)>,
}

/// One vector, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// What goes over the wire.
    pub words: Vec<f32>,
    /// What both sides use for client and server state.
    pub decoded: Vec<f32>,
    /// What was lost, where it is to be given back: client state.
    pub residual: Option<Vec<f32>>,
}

impl Packing {
    /// For uploads of these vectors (`Algorithm::upload`) and a model of these tensors, each by its
    /// dimensions. `feedback`: whether what was lost is added to the next update.
    ///
    /// # Errors
    /// If a key of the compressor is out of its range.
    pub fn new(
        (compressor, feedback): (Compressor, bool),
        shapes: Vec<(&'static str, usize)>,
        tensors: &[Vec<usize>],
    ) -> Result<Self, CompressError> {
        compressor.check()?;
        let matrix = |dimensions: &Vec<usize>| {
            let rows = dimensions.first().copied().unwrap_or(1);
            Matrix { rows, columns: dimensions.iter().skip(1).product() }
        };
        let matrices: Vec<Matrix> = tensors.iter().map(matrix).collect();
        let length = matrices.iter().map(|matrix| matrix.rows * matrix.columns).sum();
        Ok(Self { compressor, feedback, matrices, length, shapes })
    }

    /// Names and lengths, in words, of what travels.
    pub fn wire(&self) -> Vec<(&'static str, usize)> {
        let words = |length: usize| self.of(length).size(&self.matrices, length).div_ceil(4);
        self.shapes.iter().map(|(name, length)| (*name, words(*length))).collect()
    }

    /// Packs a vector of the upload; `residual` is of the last confirmed round, `seed` of this upload and
    /// vector alone.
    ///
    /// # Errors
    /// If the vector or the residual has another length than the run's.
    pub fn pack(&self, x: &[f32], residual: Option<&[f32]>, seed: u64) -> Result<Packed, CompressError> {
        let compressor = self.of(x.len());
        let given_back = self.feedback && x.len() == self.length;
        let residual = residual.filter(|_| given_back);
        let sent = Feedback::compress(compressor, x, residual, &self.matrices, seed)?;
        let word = |bytes: &[u8]| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            f32::from_bits(u32::from_le_bytes(word))
        };
        let words = sent.bytes.chunks(4).map(word).collect();
        Ok(Packed { words, decoded: sent.decoded, residual: given_back.then_some(sent.residual) })
    }

    /// The vectors of an upload, end to end, from what travelled.
    ///
    /// # Errors
    /// If the words are not what this compressor makes of such an upload.
    pub fn unpack(&self, words: &[f32]) -> Result<Vec<f32>, CompressError> {
        let mut rest = words;
        let mut values = Vec::new();
        for (name, length) in &self.shapes {
            let compressor = self.of(*length);
            let size = compressor.size(&self.matrices, *length);
            let wrong = |detail: String| CompressError::Bytes(format!("`{name}`: {detail}"));
            let Some((own, after)) = rest.split_at_checked(size.div_ceil(4)) else {
                return Err(wrong(format!("{} words are left, expected {}", rest.len(), size.div_ceil(4))));
            };
            rest = after;
            let bytes: Vec<u8> = own.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect();
            let (bytes, padding) = bytes.split_at(size);
            if padding.iter().any(|byte| *byte != 0) {
                return Err(wrong("the padding is not zero".into()));
            }
            let decoded = compressor
                .decode(bytes, &self.matrices, *length)
                .map_err(|error| wrong(error.to_string()))?;
            // One vector is the usual case: it is not copied.
            if values.is_empty() { values = decoded } else { values.extend_from_slice(&decoded) }
        }
        if rest.is_empty() {
            Ok(values)
        } else {
            Err(CompressError::Bytes(format!("{} words too many", rest.len())))
        }
    }

    fn of(&self, length: usize) -> Compressor {
        if length == self.length { self.compressor } else { Compressor::None {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::tests::all;

    const TENSORS: [&[usize]; 3] = [&[9, 5, 2], &[7], &[]];
    const D: usize = 98;

    fn packing(compressor: Compressor) -> Packing {
        let tensors = TENSORS.map(<[usize]>::to_vec);
        Packing::new((compressor, true), vec![("delta", D), ("steps", 1)], &tensors).unwrap()
    }

    fn some(salt: u64) -> Vec<f32> {
        (0..D as u64).map(|i| crate::seed::unit(crate::seed::mix(salt ^ i)) as f32 - 0.4).collect()
    }

    #[test]
    fn an_upload_travels_in_the_announced_words() {
        for compressor in all() {
            let packing = packing(compressor);
            let delta = packing.pack(&some(3), Some(&some(4)), 7).unwrap();
            let steps = packing.pack(&[5.0], None, 8).unwrap();
            let lengths = packing.wire().iter().map(|(_, words)| *words).collect::<Vec<_>>();
            assert_eq!([delta.words.len(), steps.words.len()][..], lengths, "{compressor:?}");
            assert_eq!((steps.decoded, steps.residual), (vec![5.0], None), "a scalar is not touched");
            assert_eq!(delta.residual.map(|lost| lost.len()), Some(D));
            let values = packing.unpack(&[delta.words, steps.words].concat()).unwrap();
            assert_eq!(values, [delta.decoded, vec![5.0]].concat(), "{compressor:?}");
        }
    }

    #[test]
    fn what_was_not_packed_so_is_refused() {
        let packing = packing(Compressor::Sign { block: 64 });
        let mut words = packing.pack(&some(1), None, 1).unwrap().words;
        words.extend(packing.pack(&[5.0], None, 1).unwrap().words);
        let refused = |words: &[f32]| packing.unpack(words).unwrap_err().to_string();
        assert!(refused(&words[..words.len() - 1]).contains("`steps`: 0 words are left"));
        assert!(refused(&[&words[..], &[0.0]].concat()).contains("too many"));
        // 2 scales and 98 bits: of the last word two bytes are padding.
        let at = words.len() - 2;
        words[at] = f32::from_bits(words[at].to_bits() | 1 << 31);
        assert!(refused(&words).contains("padding"), "{}", refused(&words));
    }
}
