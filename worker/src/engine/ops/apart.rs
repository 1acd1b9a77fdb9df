//! Gradients of single examples, kept until it is known how much each of them counts.
//!
//! Differentially private SGD bounds what one example adds to a sum. That holds to the last bit only if
//! what is added is what was measured: a product over all examples' rows, scaled after their norms were
//! found, sums in another order, and where many terms of one example cancel it may be off by far more than
//! its norm says.

use super::{math, square};
use crate::engine::buffer::Buffer;

/// Elements of a sum that stay in the nearest cache while the examples pass by.
const BLOCK: usize = 2_048;

/// One vector for each example, end to end.
#[derive(Debug)]
pub(super) struct Apart {
    values: Buffer,
    length: usize,
}

impl Apart {
    /// Zeros of this length for each of the examples.
    pub(super) fn zeros(examples: usize, length: usize) -> Self {
        Self { values: Buffer::zeros(examples * length), length }
    }

    /// The examples' vectors.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.length)
    }

    /// Their squared norms.
    pub(super) fn squares(&self) -> impl Iterator<Item = f64> {
        self.values.chunks_exact(self.length).map(square)
    }

    /// The sum of the vectors, each times its factor, in the order of the examples.
    pub(super) fn weighted(&self, factors: &[f32]) -> Buffer {
        let mut sum = Buffer::zeros(self.length);
        math::vectorised(
            #[inline(always)]
            || {
                for (block, sum) in sum.chunks_mut(BLOCK).enumerate() {
                    for (vector, &factor) in self.values.chunks_exact(self.length).zip(factors) {
                        for (sum, &value) in sum.iter_mut().zip(&vector[block * BLOCK..]) {
                            *sum += factor * value;
                        }
                    }
                }
            },
        );
        sum
    }
}
