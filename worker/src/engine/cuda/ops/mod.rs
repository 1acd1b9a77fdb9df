//! The layers' operations on a device: each is what the CPU's operation of the same name becomes where
//! its operands lie on a GPU.
//!
//! Shapes are labelled as on the CPU; images lie as [channels, batch, height, width] (`common.cuh`).
//! Gradients of parameters are written to their place in the flat gradient. Nothing is changed in place
//! that another may hold.

pub(in crate::engine) mod attention;
pub(in crate::engine) mod conv;
pub(in crate::engine) mod elementwise;
pub(in crate::engine) mod embedding;
pub(in crate::engine) mod frame;
pub(in crate::engine) mod linear;
pub(in crate::engine) mod loss;
pub(in crate::engine) mod lstm;
pub(in crate::engine) mod norm;
pub(in crate::engine) mod pool;

use super::array::Array;
use super::lane::{Lane, THREADS, args};
use super::placement::Precision;
use crate::engine::tensor::{Result, Tensor};
use std::sync::Arc;

/// Where the gradient of `tensor` is written: its place if it is a parameter, else new memory.
fn gradient_of(tensor: &Tensor) -> Result<Array> {
    let array = tensor.array()?;
    match array.gradient() {
        Some(place) => Ok(place.clone()),
        None => array.lane().scratch::<f32>(array.len()),
    }
}

/// `array` as a factor of a product: itself, or in bfloat16.
fn factor(array: &Array) -> Result<Array> {
    let lane = array.lane();
    if lane.precision() != Precision::Bf16 {
        return Ok(array.clone());
    }
    if let Some(narrow) = array.narrow() {
        return Ok(narrow.clone());
    }
    let narrow = lane.scratch::<u16>(array.len())?;
    lane.each("narrow_all", array.len(), args![array, &narrow, array.len()])?;
    Ok(narrow)
}

/// The gradient before a rectifier (`result`; none: there was none), in f32 and as a factor.
fn slopes(gradient: &Array, result: Option<&Array>) -> Result<(Array, Array)> {
    let lane = gradient.lane();
    let n = gradient.len();
    let narrow = match lane.precision() {
        Precision::Bf16 => Some(lane.scratch::<u16>(n)?),
        _ => None,
    };
    let wide = if result.is_some() { Some(lane.scratch::<f32>(n)?) } else { None };
    if wide.is_some() || narrow.is_some() {
        let places = args![gradient, result, wide.as_ref(), narrow.as_ref(), n];
        lane.each("relu_back", n, places)?;
    }
    let wide = wide.unwrap_or_else(|| gradient.clone());
    let factor = narrow.unwrap_or_else(|| wide.clone());
    Ok((wide, factor))
}

/// Threads that share a sum over `length` elements: a power of two up to a block.
fn lanes(length: usize) -> usize {
    length.div_ceil(4).next_power_of_two().clamp(1, THREADS)
}

/// Sums of `segments` neighbouring runs of `length` to `out`.
fn sum_segments(lane: &Arc<Lane>, x: &Array, out: &Array, segments: usize, length: usize) -> Result<()> {
    let parts = (length / 2_048).clamp(1, 64);
    if parts == 1 {
        return segments_of(lane, x, out, (segments, length, 1));
    }
    let partial = lane.scratch::<f32>(segments * parts)?;
    segments_of(lane, x, &partial, (segments, length, parts))?;
    segments_of(lane, &partial, out, (segments, parts, 1))
}

fn segments_of(
    lane: &Arc<Lane>,
    x: &Array,
    out: &Array,
    (segments, length, parts): (usize, usize, usize),
) -> Result<()> {
    let lanes = lanes(length / parts);
    let grid = (segments.div_ceil(THREADS / lanes), parts);
    lane.grid("sum_segments", grid, args![x, out, segments, length, lanes])
}

/// Parts into which the rows of a column sum are cut.
fn parts(rows: usize) -> usize {
    (rows / 64).clamp(1, 64)
}

/// Sums of the columns of a matrix with rows of `width` to `out`.
fn sum_columns(lane: &Arc<Lane>, x: &Array, out: &Array, rows: usize, width: usize) -> Result<()> {
    let parts = parts(rows);
    let columns = width.div_ceil(32);
    if parts == 1 {
        return lane.grid("sum_columns", (columns, 1), args![x, out, rows, width]);
    }
    let partial = lane.scratch::<f32>(parts * width)?;
    lane.grid("sum_columns", (columns, parts), args![x, &partial, rows, width])?;
    lane.grid("sum_columns", (columns, 1), args![&partial, out, parts, width])
}

/// `y = x + bias`, rectified if asked for, and to `narrow`; element i has bias `i / inner % width`. In place,
/// nobody else has `y` yet.
fn finish(
    y: &Array,
    bias: Option<&Tensor>,
    (inner, width): (usize, usize),
    relu: bool,
    narrow: Option<&Array>,
) -> Result<()> {
    let bias = bias.map(Tensor::array).transpose()?;
    if bias.is_none() && !relu && narrow.is_none() {
        return Ok(());
    }
    y.lane().each("bias_act", y.len(), args![y, y, narrow, bias, y.len(), inner, width, relu])
}

/// Memory for `n` values in bfloat16 beside those in f32, where products want them.
fn twin(lane: &Arc<Lane>, n: usize) -> Result<Option<Array>> {
    (lane.precision() == Precision::Bf16).then(|| lane.scratch::<u16>(n)).transpose()
}
