//! Layers' kernels as candle custom operations: forward and gradient of each.
//!
//! candle records the graph and runs it backwards; what happens inside a node is ours, because its
//! CPU convolution, pooling and recurrent steps are many times slower than they need to be and its
//! max-pooling gradient is wrong. Every kernel is single-threaded and sums in a fixed order, so equal
//! inputs give equal bytes; parallelism lives one level up, in `shards.rs`. Images are stored
//! channels-last: rows of pixels are then contiguous for the matrix product, whatever the batch.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod conv;
pub(super) mod embedding;
pub(super) mod gemm;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod lstm;
pub(super) mod math;
pub(super) mod norm;
pub(super) mod patches;
pub(super) mod pool;
#[cfg(test)]
pub(super) mod testing;

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};
use std::ops::{Deref, Range};

/// The scalars of an operand in a forward pass.
fn operand<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("operand is not contiguous") };
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        _ => bail!("operand is not f32"),
    }
}

/// The scalars of a tensor, read in place.
pub(super) struct Values<S> {
    storage: S,
    range: Range<usize>,
}

pub(super) fn values(tensor: &Tensor) -> Result<Values<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("tensor is not contiguous") };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values { storage, range: start..end }),
        _ => bail!("tensor is not f32 on the CPU"),
    }
}

impl<S: Deref<Target = Storage>> Deref for Values<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// A copy of a tensor's scalars in row-major order.
pub(super) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    Ok(values(&tensor)?.to_vec())
}

/// Calls `f` with the scalars of a contiguous tensor, without a copy.
pub(super) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    Ok(f(&values(&tensor.contiguous()?)?))
}

/// A tensor of the shape of another.
pub(super) fn shaped(values: Vec<f32>, tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
}

/// The gradient of `tensor`, as candle wants it.
fn like(values: Vec<f32>, tensor: &Tensor) -> Result<Option<Tensor>> {
    shaped(values, tensor).map(Some)
}

#[allow(clippy::unnecessary_wraps, reason = "the form in which forward passes return it")]
fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// Negative values become 0.
#[inline(always)]
fn rectify(values: &mut [f32]) {
    for v in values {
        *v = v.max(0.0);
    }
}

/// A gradient with the places zeroed at which the rectifier let nothing through.
fn rectified(gradient: &[f32], result: &[f32]) -> Vec<f32> {
    let mut out = gradient.to_vec();
    math::vectorised(
        #[inline(always)]
        || {
            for (g, &r) in out.iter_mut().zip(result) {
                *g = if r > 0.0 { *g } else { 0.0 };
            }
        },
    );
    out
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
