//! Convolution: one product of the filters with the windows of the whole batch.

use super::super::array::Array;
use super::super::lane::{Arg, Lane, args};
use super::super::placement::Precision;
use super::super::product::Factor;
use super::{THREADS, factor, finish, gradient_of, slopes, sum_segments};
use crate::engine::ops::patches::{Geometry, Window};
use crate::engine::tape::Operation;
use crate::engine::tensor::{Result, Tensor, bail};
use std::sync::Arc;

/// Scalars to which matrix units want rows aligned.
const ALIGNED: usize = 8;
/// Scalars of filters whose gradient is cut into parts: how many of these, and terms of a sum that each has.
const SMALL: usize = 16_384;
const PARTS: usize = 132;
const DEPTH: usize = 256;
/// Windows of a maximum that a block takes back.
const WINDOWS: usize = 512;

#[derive(Debug)]
pub(in crate::engine) struct Conv {
    window: Window,
    relu: bool,
    /// The windows `[channels · side², batch · places]` as a factor.
    windows: Option<Array>,
}

/// How the windows of a batch lie.
struct Layout {
    /// Rows that are windows, and those with the zeros behind them.
    patch: usize,
    padded: usize,
    /// Scalars of a row.
    places: usize,
}

impl Layout {
    fn new(g: &Geometry, precision: Precision) -> Self {
        let (patch, places) = (g.patch(), g.batch * g.places());
        // Sums over rows of odd length are slow on matrix units.
        let padded = if precision == Precision::F32 { patch } else { patch.next_multiple_of(ALIGNED) };
        Self { patch, padded, places }
    }
}

impl Conv {
    pub(in crate::engine) fn new(window: Window, relu: bool) -> Self {
        Self { window, relu, windows: None }
    }

    /// Whether the windows are the image itself.
    fn is_product(&self) -> bool {
        let Window { side, stride, padding } = self.window;
        side == 1 && stride == 1 && padding == 0
    }

    fn windows(&self, g: &Geometry, x: &Array) -> Result<Array> {
        let lane = x.lane();
        let Layout { patch, padded, places } = Layout::new(g, lane.precision());
        if self.is_product() {
            return factor(x);
        }
        let (out, kernel) = match lane.precision() {
            Precision::Bf16 => (lane.scratch::<u16>(padded * places)?, "im2col_narrow"),
            _ => (lane.scratch::<f32>(padded * places)?, "im2col_wide"),
        };
        let step = if g.columns.is_multiple_of(4) { 4 } else { 1 };
        let blocks = (places / step).div_ceil(THREADS).clamp(1, 1_024);
        let arguments = [args![x, &out, g.channels].as_slice(), &sizes(g)].concat();
        lane.grid(kernel, (blocks, g.channels * g.window.side + padded - patch), &arguments)?;
        Ok(out)
    }

    /// The filters' product with the windows, which are kept: `[filters, batch · places]`.
    fn product(&mut self, g: &Geometry, x: &Tensor, weight: &Tensor) -> Result<Array> {
        let windows = self.windows(g, x.array()?)?;
        let lane = windows.lane();
        let Layout { patch, padded, places } = Layout::new(g, lane.precision());
        let mut w = factor(weight.array()?)?;
        let depth = if self.is_product() { patch } else { padded };
        if depth > patch {
            w = widened(lane, &w, (g.filters, patch, depth))?;
        }
        let y = lane.scratch::<f32>(g.filters * places)?;
        let factors = (Factor::rows(&w, depth), Factor::rows(&windows, places));
        lane.product([g.filters, places, depth], factors, (Factor::rows(&y, places), false))?;
        self.windows = weight.tracked().then(|| windows.clone());
        Ok(y)
    }

    /// Gradients of filters and input from that of the product (a factor).
    fn product_back(
        &self,
        g: &Geometry,
        (x, weight): (&Tensor, &Tensor),
        dy: &Array,
    ) -> Result<[Option<Tensor>; 2]> {
        let Some(windows) = &self.windows else { bail!("convolution: backward before forward") };
        let dw = gradient_of(weight)?;
        self.filters_back(g, (dy, windows), &dw)?;
        let dw = Some(Tensor::device(dw, weight.shape()));
        if !x.tracked() {
            return Ok([None, dw]);
        }
        let w = factor(weight.array()?)?;
        Ok([Some(Tensor::device(self.collect(g, (&w, dy), x)?, x.shape())), dw])
    }

    /// The gradient of the filters: a small matrix from sums over all places, which are cut into parts.
    fn filters_back(&self, g: &Geometry, (dy, windows): (&Array, &Array), dw: &Array) -> Result<()> {
        let lane = dy.lane();
        let Layout { patch, padded, places } = Layout::new(g, lane.precision());
        let factors = (Factor::rows(dy, places), Factor::columns(windows, places));
        let width = if self.is_product() { patch } else { padded };
        let parts = parts_of(places, g.filters * width);
        if parts == 1 {
            return lane.product([g.filters, patch, places], factors, (Factor::rows(dw, patch), false));
        }
        let (depth, size) = (places / parts, g.filters * width);
        let partial = lane.scratch::<f32>(parts * size)?;
        let to = (Factor::rows(&partial, width), false);
        lane.products([g.filters, width, depth], factors, to, (parts, [depth, depth, size]))?;
        let sizes = args![&partial, dw, dw.len(), parts, patch, width, size];
        lane.grid("sum_parts", (dw.len().div_ceil(32), 1), sizes)
    }

    /// The gradient of the input from that of its windows.
    fn collect(&self, g: &Geometry, (weight, dy): (&Array, &Array), x: &Tensor) -> Result<Array> {
        let (lane, n) = (dy.lane(), g.batch * g.places());
        let dx = gradient_of(x)?;
        let factors = (Factor::columns(weight, g.patch()), Factor::rows(dy, n));
        let product =
            |to: &Array| lane.product([g.patch(), n, g.filters], factors, (Factor::rows(to, n), false));
        if self.is_product() {
            product(&dx)?;
            return Ok(dx);
        }
        let narrow = lane.precision() == Precision::Bf16;
        let length = g.patch() * n;
        let windows = if narrow { lane.scratch::<u16>(length)? } else { lane.scratch::<f32>(length)? };
        product(&windows)?;
        let Window { side, stride, padding } = g.window;
        let (kernel, threads) = (planes_kernel(side, narrow), g.height * g.columns / 4);
        // A line of windows is at most as much shorter than one of pixels as the window is wide.
        let fits = stride == 1 && g.columns.is_multiple_of(4) && (1..=THREADS).contains(&threads);
        if let (Some(kernel), true) = (kernel, fits && g.width < g.columns + side) {
            let (planes, own) = (g.channels * g.batch, THREADS / threads);
            let shape = args![g.batch, g.height, g.width, g.rows, g.columns, padding];
            let arguments = [args![&windows, &dx, planes, own].as_slice(), shape].concat();
            lane.grid(kernel, (planes.div_ceil(own), 1), &arguments)?;
            return Ok(dx);
        }
        let kernel = if narrow { "col2im_narrow" } else { "col2im_wide" };
        let places = args![&windows, &dx, dx.len()];
        lane.each(kernel, dx.len(), &[places.as_slice(), &sizes(g)].concat())?;
        Ok(dx)
    }
}

/// Parts of equal length into which sums over `places` are cut for a matrix of `size` scalars, so that all of a
/// GPU works; 1: the library cuts a larger one by itself, or no number divides them.
fn parts_of(places: usize, size: usize) -> usize {
    if size > SMALL {
        return 1;
    }
    let fits = |parts: &usize| places.is_multiple_of(parts * ALIGNED);
    (2..=PARTS.min(places / DEPTH)).rev().find(fits).unwrap_or(1)
}

/// The kernel that collects whole planes, for the usual windows.
fn planes_kernel(side: usize, narrow: bool) -> Option<&'static str> {
    match (side, narrow) {
        (3, false) => Some("col2im_3_wide"),
        (3, true) => Some("col2im_3_narrow"),
        (5, false) => Some("col2im_5_wide"),
        (5, true) => Some("col2im_5_narrow"),
        _ => None,
    }
}

/// Rows of `width` with zeros up to `stride`.
fn widened(lane: &Arc<Lane>, x: &Array, (rows, width, stride): (usize, usize, usize)) -> Result<Array> {
    let n = rows * stride;
    let (out, kernel) = match x.size() {
        2 => (lane.scratch::<u16>(n)?, "pad_narrow"),
        _ => (lane.scratch::<f32>(n)?, "pad_wide"),
    };
    lane.each(kernel, n, args![x, &out, n, width, stride])?;
    Ok(out)
}

fn sizes(g: &Geometry) -> [Arg; 8] {
    let Window { side, stride, padding } = g.window;
    [g.batch, g.height, g.width, g.rows, g.columns, side, stride, padding].map(Arg::from)
}

impl Operation for Conv {
    fn forward(&mut self, operands: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (operands[0], operands[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let y = self.product(&g, x, weight)?;
        let inner = g.batch * g.places();
        finish(&y, operands.get(2).copied(), (inner, g.filters), self.relu, None)?;
        Ok(Tensor::device(y, &[g.batch, g.rows, g.columns, g.filters]))
    }

    fn backward(
        &self,
        operands: &[Tensor],
        result: &Tensor,
        gradient: Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&operands[0], &operands[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let rectified = if self.relu { Some(result.array()?) } else { None };
        let (wide, dy) = slopes(gradient.array()?, rectified)?;
        drop(gradient);
        let mut gradients = Vec::from(self.product_back(&g, (x, weight), &dy)?);
        if let Some(bias) = operands.get(2) {
            let db = gradient_of(bias)?;
            sum_segments(dy.lane(), &wide, &db, g.filters, g.batch * g.places())?;
            gradients.push(Some(Tensor::device(db, bias.shape())));
        }
        Ok(gradients)
    }
}

/// Convolution, rectifier and the maximum of windows that lie side by side.
#[derive(Debug)]
pub(in crate::engine) struct Pooled {
    conv: Conv,
    side: usize,
    /// For each result, which place of its window held the maximum.
    chosen: Option<Array>,
}

impl Pooled {
    /// `None`: windows of the maximum overlap or are padded.
    pub(in crate::engine) fn new(window: Window, pool: Window) -> Option<Self> {
        let apart = pool.side == pool.stride && pool.padding == 0 && pool.side < 16;
        apart.then(|| Self { conv: Conv::new(window, true), side: pool.side, chosen: None })
    }
}

impl Operation for Pooled {
    fn forward(&mut self, operands: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (operands[0], operands[1]);
        let g = Geometry::new(self.conv.window, x, weight)?;
        let (side, rows, columns) = (self.side, g.rows / self.side, g.columns / self.side);
        if rows == 0 || columns == 0 {
            bail!("a {side}×{side} window does not fit an image of {}×{}", g.rows, g.columns);
        }
        let from = self.conv.product(&g, x, weight)?;
        let (lane, n) = (from.lane(), g.filters * g.batch * rows * columns);
        let bias = operands.get(2).map(|bias| bias.array()).transpose()?;
        let (y, chosen) = (lane.scratch::<f32>(n)?, lane.scratch::<u8>(n)?);
        let sizes = args![&from, bias, &y, &chosen, n, g.batch, g.rows, g.columns, rows, columns, side];
        lane.each("relu_pool", n, sizes)?;
        self.chosen = Some(chosen);
        Ok(Tensor::device(y, &[g.batch, rows, columns, g.filters]))
    }

    fn backward(&self, operands: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&operands[0], &operands[1]);
        let g = Geometry::new(self.conv.window, x, weight)?;
        let (side, rows, columns) = (self.side, g.rows / self.side, g.columns / self.side);
        let Some(chosen) = &self.chosen else { bail!("maximum: backward before forward") };
        let lane = chosen.lane();
        let n = g.filters * g.batch * g.places();
        let (dy, kernel) = match lane.precision() {
            Precision::Bf16 => (lane.scratch::<u16>(n)?, "relu_pool_back_narrow"),
            _ => (lane.scratch::<f32>(n)?, "relu_pool_back_wide"),
        };
        let windows = g.batch * g.rows.div_ceil(side) * g.columns.div_ceil(side);
        let parts = (windows / WINDOWS).clamp(1, 64);
        let partial = lane.scratch::<f32>(g.filters * parts)?;
        let (from, shape) = (gradient.array()?, [g.batch, g.rows, g.columns, rows, columns, side]);
        let arguments = [args![from, chosen, &dy, &partial].as_slice(), &shape.map(Arg::from)].concat();
        lane.grid(kernel, (parts, g.filters), &arguments)?;
        drop(gradient);
        let mut gradients = Vec::from(self.conv.product_back(&g, (x, weight), &dy)?);
        if let Some(bias) = operands.get(2) {
            let db = gradient_of(bias)?;
            sum_segments(lane, &partial, &db, g.filters, parts)?;
            gradients.push(Some(Tensor::device(db, bias.shape())));
        }
        Ok(gradients)
    }
}
