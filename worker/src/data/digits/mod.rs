//! Handwriting without a file: digits drawn by pen strokes under random distortion.
//!
//! A first run and most tests need data that is always there, that a person can look at and that a
//! convolution learns while a linear model struggles. Each image follows from (seed, split, index)
//! alone, so any part can be drawn anywhere, in parallel. Only additions, multiplications, divisions
//! and square roots are used: IEEE 754 fixes their results, so the bytes are equal on every machine.

mod glyphs;
mod pen;

use std::path::Path;

use rayon::prelude::*;

use super::augment::Pixels;
use super::dataset::Normalisation;
use super::images::{RawImages, Reader};
use super::random::stream;
use super::{DataError, Split};

/// Rows and columns.
pub(crate) const SIDE: usize = 28;

/// More images than this are taken for a slip of the pen (784 MB).
const MOST: usize = 1_000_000;

/// The procedural data set.
#[derive(Debug)]
pub(crate) struct Digits {
    pub(crate) train: usize,
    pub(crate) test: usize,
    pub(crate) seed: u64,
}

impl Digits {
    fn count(&self, split: Split) -> Result<usize, DataError> {
        let (key, count) = match split {
            Split::Train => ("train", self.train),
            Split::Test => ("test", self.test),
        };
        if (1..=MOST).contains(&count) {
            return Ok(count);
        }
        Err(DataError::Config { key, value: count.to_string(), expected: format!("1 to {MOST} images") })
    }
}

impl Reader for Digits {
    fn path(&self) -> &Path {
        Path::new("digits")
    }

    fn images(&self, split: Split) -> Result<RawImages, DataError> {
        let labels = self.labels(split)?;
        let mut pixels = vec![0; labels.len() * SIDE * SIDE];
        let images = pixels.par_chunks_exact_mut(SIDE * SIDE).zip(&labels).enumerate();
        images.for_each(|(index, (image, &label))| {
            let mut rng = stream("digit", &[self.seed, split as u64, index as u64]);
            pen::draw(label as usize, &mut rng, image);
        });
        Ok(RawImages { shape: self.shape()?, pixels, labels, keys: None })
    }

    /// The last digit of the index, so that any run of ten images has every class once.
    fn labels(&self, split: Split) -> Result<Vec<u32>, DataError> {
        Ok((0..self.count(split)? as u32).map(|index| index % 10).collect())
    }

    fn shape(&self) -> Result<Pixels, DataError> {
        Ok(Pixels { channels: 1, height: SIDE, width: SIDE })
    }

    fn fixed_classes(&self) -> Result<Option<usize>, DataError> {
        Ok(Some(10))
    }

    /// Measured once over 100,000 images; constant, so that workers with other counts and seeds agree.
    fn constants(&self, _: Pixels, _: usize) -> Option<Normalisation> {
        Some(Normalisation { mean: vec![0.1307], std: vec![0.3081] })
    }
}
