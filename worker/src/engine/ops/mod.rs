//! Layers' kernels: forward and gradient of each, recorded and run backwards by the tape.
//!
//! Every kernel is single-threaded and sums in a fixed order, so equal
//! inputs give equal bytes; parallelism lives one level up, in `shards.rs`. Images are stored
//! channels-last: rows of pixels are then contiguous for the matrix product, whatever the batch.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

pub(super) mod activation;
mod apart;
pub(super) mod attention;
pub(super) mod conv;
pub(super) mod embedding;
pub(in crate::engine) mod gemm;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod lstm;
pub(super) mod math;
pub(super) mod norm;
pub(super) mod patches;
pub(super) mod pool;
#[cfg(test)]
pub(super) mod testing;
mod winograd;

use super::buffer::Buffer;

/// Negative values become 0.
#[inline(always)]
fn rectify(values: &mut [f32]) {
    for v in values {
        *v = v.max(0.0);
    }
}

/// Zeroes a gradient at the places at which the rectifier let nothing through.
fn rectify_gradient(gradient: &mut [f32], result: &[f32]) {
    math::vectorised(
        #[inline(always)]
        || {
            for (g, &r) in gradient.iter_mut().zip(result) {
                *g = if r > 0.0 { *g } else { 0.0 };
            }
        },
    );
}

/// Adds `values` to `sum`.
pub(super) fn add(sum: &mut [f32], values: &[f32]) {
    math::vectorised(
        #[inline(always)]
        || {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += value;
            }
        },
    );
}

/// Adds to `sums` the rows of `matrix`, top to bottom.
fn add_rows(sums: &mut [f32], matrix: &[f32]) {
    math::vectorised(
        #[inline(always)]
        || {
            for row in matrix.chunks_exact(sums.len()) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
        },
    );
}

/// Column sums of a matrix with rows of `width`.
fn column_sums(matrix: &[f32], width: usize) -> Buffer {
    let mut sums = Buffer::zeros(width);
    add_rows(&mut sums, matrix);
    sums
}

/// Sum of squares, in f64: no square of an f32 overflows or vanishes there, and the sum of any layer is good
/// to 1e-10.
pub(super) fn square(values: &[f32]) -> f64 {
    math::vectorised(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 16];
            let (chunks, rest) = values.as_chunks::<16>();
            for chunk in chunks {
                for (lane, &v) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(v) * f64::from(v);
                }
            }
            for (lane, &v) in lanes.iter_mut().zip(rest) {
                *lane += f64::from(v) * f64::from(v);
            }
            lanes.iter().sum()
        },
    )
}

/// Scales each example's share of `values` by its factor.
fn weigh(values: &mut [f32], factors: &[f32]) {
    let share = values.len() / factors.len().max(1);
    for (values, factor) in values.chunks_exact_mut(share.max(1)).zip(factors) {
        for v in values {
            *v *= factor;
        }
    }
}
