//! A whole upload as it travels when it is compressed, or when parts of the model are a worker's own.
//!
//! Vectors of the model's length go through the compressor, without what is personal; scalars as they are. Each
//! becomes a number of four-byte words that follows from the run alone, zero-padded: what is announced, received
//! and vetted by length stays what it is without compression. Nothing is read as a number before it was unpacked.

use super::{CompressError, Compressor, Feedback, Matrix};
use crate::personal::Own;

/// How the uploads of one run are compressed.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    compressor: Compressor,
    feedback: bool,
    /// Those that travel.
    matrices: Vec<Matrix>,
    /// Scalars of the model.
    length: usize,
    /// Those of them that travel.
    travelling: usize,
    own: Option<Own>,
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
        Ok(Self { compressor, feedback, matrices, length, travelling: length, own: None, shapes })
    }

    /// For the same model, of which these tensors are a worker's own: they do not travel, and read as zero.
    #[must_use]
    pub fn without(mut self, own: Own) -> Self {
        let mut start = 0;
        self.matrices.retain(|matrix| {
            let at = start;
            start += matrix.rows * matrix.columns;
            !own.own().iter().any(|range| range.contains(&at))
        });
        self.travelling = own.shared().iter().map(ExactSizeIterator::len).sum();
        Self { own: Some(own), ..self }
    }

    /// Names and lengths, in words, of what travels.
    pub fn wire(&self) -> Vec<(&'static str, usize)> {
        self.shapes.iter().map(|(name, length)| (*name, self.size(*length).div_ceil(4))).collect()
    }

    /// Packs a vector of the upload; `residual` is of the last confirmed round, `seed` of this upload and
    /// vector alone.
    ///
    /// # Errors
    /// If the vector or the residual has another length than the run's.
    pub fn pack(&self, x: &[f32], residual: Option<&[f32]>, seed: u64) -> Result<Packed, CompressError> {
        let (compressor, own) = self.of(x.len());
        let given_back = self.feedback && x.len() == self.length;
        let residual = residual.filter(|_| given_back);
        if let Some(own) = own {
            if let Some(residual) = residual.filter(|residual| residual.len() != x.len()) {
                let detail = format!("a residual of {} scalars for {}", residual.len(), x.len());
                return Err(CompressError::Bytes(detail));
            }
            let residual = residual.map(|residual| own.gather(residual));
            let sent = self.send(compressor, &own.gather(x), residual.as_deref(), (given_back, seed))?;
            let (decoded, residual) =
                (own.spread(&sent.decoded), sent.residual.map(|lost| own.spread(&lost)));
            return Ok(Packed { decoded, residual, ..sent });
        }
        self.send(compressor, x, residual, (given_back, seed))
    }

    fn send(
        &self,
        compressor: Compressor,
        x: &[f32],
        residual: Option<&[f32]>,
        (given_back, seed): (bool, u64),
    ) -> Result<Packed, CompressError> {
        if !given_back && compressor == (Compressor::None {}) {
            return Ok(Packed { words: x.to_vec(), decoded: x.to_vec(), residual: None });
        }
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
            let ((compressor, own), size) = (self.of(*length), self.size(*length));
            let wrong = |detail: String| CompressError::Bytes(format!("`{name}`: {detail}"));
            let Some((part, after)) = rest.split_at_checked(size.div_ceil(4)) else {
                return Err(wrong(format!("{} words are left, expected {}", rest.len(), size.div_ceil(4))));
            };
            rest = after;
            let read = |part: &[f32]| {
                let bytes: Vec<u8> = part.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect();
                let (bytes, padding) = bytes.split_at(size);
                if padding.iter().any(|byte| *byte != 0) {
                    return Err(wrong("the padding is not zero".into()));
                }
                let scalars = self.scalars(*length);
                compressor.decode(bytes, &self.matrices, scalars).map_err(|error| wrong(error.to_string()))
            };
            let decoded = match (compressor, own) {
                (Compressor::None {}, None) => part.to_vec(),
                (Compressor::None {}, Some(own)) => own.spread(part),
                (_, None) => read(part)?,
                (_, Some(own)) => own.spread(&read(part)?),
            };
            // One vector is the usual case: it is not copied.
            if values.is_empty() { values = decoded } else { values.extend_from_slice(&decoded) }
        }
        if rest.is_empty() {
            Ok(values)
        } else {
            Err(CompressError::Bytes(format!("{} words too many", rest.len())))
        }
    }

    /// How a vector of the upload travels, and which of its parts do not.
    fn of(&self, length: usize) -> (Compressor, Option<&Own>) {
        if length == self.length { (self.compressor, self.own.as_ref()) } else { (Compressor::None {}, None) }
    }

    /// Scalars of a vector of the upload that travel.
    fn scalars(&self, length: usize) -> usize {
        if length == self.length { self.travelling } else { length }
    }

    /// Bytes of a vector of the upload on its way.
    fn size(&self, length: usize) -> usize {
        self.of(length).0.size(&self.matrices, self.scalars(length))
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
    fn what_is_a_workers_own_does_not_travel() {
        let tensors = [("a", 90), ("b", 7), ("c", 1)].map(|(name, length)| (name.to_owned(), length));
        let own = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Own::new(&names, &tensors).unwrap().unwrap()
        };
        let (shared, words) = (Packing::new((Compressor::None {}, false), Vec::new(), &[vec![9, 10]]), 90);
        let shared = Packing { shapes: vec![("delta", words), ("steps", 1)], ..shared.unwrap() };
        for compressor in all() {
            let alone = Packing { compressor, feedback: true, ..shared.clone() };
            let parts = packing(compressor).without(own(&["b", "c"]));
            let packed = parts.pack(&some(3), Some(&some(4)), 7).unwrap();
            let cut = alone.pack(&some(3)[..words], Some(&some(4)[..words]), 7).unwrap();
            assert_eq!((&packed.words, parts.wire()), (&cut.words, alone.wire()), "{compressor:?}");
            assert_eq!(packed.decoded, [&cut.decoded[..], &[0.0; 8]].concat());
            assert_eq!(packed.residual.unwrap(), [&cut.residual.unwrap()[..], &[0.0; 8]].concat());
            let values = parts.unpack(&[&packed.words[..], &[5.0]].concat()).unwrap();
            assert_eq!(values, [&packed.decoded[..], &[5.0]].concat());
            let short = parts.pack(&some(3), Some(&[1.0]), 7).unwrap_err().to_string();
            assert!(short.contains("a residual of 1 scalars for 98"), "{short}");
            let nothing = packing(compressor).without(own(&["*"]));
            let packed = nothing.pack(&some(3), None, 7).unwrap();
            assert_eq!(packed.words.len(), nothing.wire()[0].1, "{compressor:?}");
            assert_eq!(packed.decoded, [0.0; D]);
            assert_eq!(nothing.unpack(&[&packed.words[..], &[5.0]].concat()).unwrap()[..D], [0.0; D]);
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
