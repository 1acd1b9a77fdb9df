//! Two-dimensional convolution of channels-last images by im2col and one matrix product per group of
//! images, with bias and rectifier fused in.
//!
//! Images lie as `[batch, height, width, channels]` and filters as `[filters, side, side, channels]`,
//! so that a patch consists of `side` contiguous runs and the product's result needs no reordering.

use super::gemm::{Matrix, Target, product};
use super::{add_rows, like, operand, output, rectified, values};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use std::borrow::Cow;

/// A square window that slides over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Window {
    /// Side length in pixels.
    pub(in crate::engine) side: usize,
    /// Step in pixels.
    pub(in crate::engine) stride: usize,
    /// Rows and columns added on each side of the image.
    pub(in crate::engine) padding: usize,
}

impl Window {
    /// How many places the window has along `extent` pixels; `None` if it does not fit.
    pub(in crate::engine) fn places(self, extent: usize) -> Option<usize> {
        Some((extent + 2 * self.padding).checked_sub(self.side)? / self.stride + 1)
    }
}

#[derive(Debug, Clone, Copy)]
struct Conv {
    window: Window,
    relu: bool,
}

/// `x` is `[b, h, w, c]`, `weight` `[f, side, side, c]`, `bias` `[f]`; the result is `[b, h', w', f]`.
pub(in crate::engine) fn conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    relu: bool,
) -> Result<Tensor> {
    let op = Conv { window, relu };
    match bias {
        Some(bias) => x.apply_op3(weight, bias, op),
        None => x.apply_op2(weight, op),
    }
}

/// Rows of the patch matrix that are built at once: enough for the product to run at full speed,
/// few enough for the matrix to stay near the second-level cache.
const ROWS: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Geometry {
    window: Window,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    filters: usize,
    rows: usize,
    columns: usize,
}

impl Geometry {
    fn new(window: Window, x: &Shape, weight: &Shape) -> Result<Self> {
        let (batch, height, width, channels) = x.dims4()?;
        let (filters, side, _, inputs) = weight.dims4()?;
        let (Some(rows), Some(columns)) = (window.places(height), window.places(width)) else {
            bail!("a {side}×{side} window does not fit an image of {height}×{width}")
        };
        if inputs != channels || side != window.side {
            bail!("filters {weight:?} do not fit images {x:?}");
        }
        Ok(Self { window, batch, height, width, channels, filters, rows, columns })
    }

    /// Pixels of one output image.
    fn places(&self) -> usize {
        self.rows * self.columns
    }

    /// Scalars in one input image.
    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Scalars in one patch.
    fn patch(&self) -> usize {
        self.window.side * self.window.side * self.channels
    }

    /// Images whose patches are multiplied at once.
    fn group(&self) -> usize {
        let rounds = self.batch.div_ceil(ROWS.div_ceil(self.places())).max(1);
        self.batch.div_ceil(rounds).max(1)
    }

    /// Calls `f` with (offset in the image, offset in the patch matrix, length) of every run of a
    /// patch that lies inside the image.
    #[inline]
    fn runs(&self, mut f: impl FnMut(usize, usize, usize)) {
        let Window { side, stride, padding } = self.window;
        let c = self.channels;
        for oy in 0..self.rows {
            for ox in 0..self.columns {
                let left = (ox * stride) as isize - padding as isize;
                let first = (-left).max(0) as usize;
                let last = side.min((self.width as isize - left).max(0) as usize);
                if first >= last {
                    continue;
                }
                let column = (left + first as isize) as usize;
                let patch = (oy * self.columns + ox) * self.patch();
                for ky in 0..side {
                    let Some(y) = (oy * stride + ky).checked_sub(padding).filter(|&y| y < self.height) else {
                        continue;
                    };
                    let from = (y * self.width + column) * c;
                    f(from, patch + (ky * side + first) * c, (last - first) * c);
                }
            }
        }
    }

    /// Copies the patches of `image` to the rows of `patches`, zeros outside the image.
    fn gather(&self, image: &[f32], patches: &mut [f32]) {
        if self.window.padding > 0 {
            patches.fill(0.0);
        }
        self.runs(|from, to, length| copy_run(&image[from..from + length], &mut patches[to..to + length]));
    }

    /// Adds the rows of `patches` to where they came from in `image`.
    fn scatter(&self, patches: &[f32], image: &mut [f32]) {
        self.runs(|to, from, length| {
            for (a, &b) in image[to..to + length].iter_mut().zip(&patches[from..from + length]) {
                *a += b;
            }
        });
    }

    /// The patch matrix of several images.
    fn gather_all(&self, images: &[f32], patches: &mut [f32]) {
        let step = self.places() * self.patch();
        for (image, patches) in images.chunks_exact(self.image()).zip(patches.chunks_exact_mut(step)) {
            self.gather(image, patches);
        }
    }
}

/// Short runs are frequent (a 5×5 window over one channel), and a call to `memcpy` costs more than they.
#[inline]
fn copy_run(from: &[f32], to: &mut [f32]) {
    match from.len() {
        3 => copy_fixed::<3>(from, to),
        5 => copy_fixed::<5>(from, to),
        9 => copy_fixed::<9>(from, to),
        15 => copy_fixed::<15>(from, to),
        30 => copy_fixed::<30>(from, to),
        _ => to.copy_from_slice(from),
    }
}

#[inline]
fn copy_fixed<const N: usize>(from: &[f32], to: &mut [f32]) {
    if let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) {
        *to = *from;
    }
}

impl Conv {
    fn forward(g: &Geometry, relu: bool, operands: (&[f32], &[f32], Option<&[f32]>)) -> Vec<f32> {
        let (x, weight, bias) = operands;
        let (patch, filters, group) = (g.patch(), g.filters, g.group());
        let mut y = vec![0.0; g.batch * g.places() * filters];
        let mut patches = vec![0.0; group * g.places() * patch];
        for (x, y) in x.chunks(group * g.image()).zip(y.chunks_mut(group * g.places() * filters)) {
            let rows = y.len() / filters;
            g.gather_all(x, &mut patches);
            let (left, right) = (Matrix::rows(&patches, patch), Matrix::columns(weight, patch));
            product([rows, filters, patch], Target::replace(y, filters), left, right);
            match (bias, relu) {
                (Some(bias), true) => add_bias(y, bias, |v| v.max(0.0)),
                (Some(bias), false) => add_bias(y, bias, |v| v),
                (None, true) => y.iter_mut().for_each(|v| *v = v.max(0.0)),
                (None, false) => {}
            }
        }
        y
    }

    fn backward(self, x: &Tensor, weight: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let g = Geometry::new(self.window, x.shape(), weight.shape())?;
        let (patch, filters, group) = (g.patch(), g.filters, g.group());
        let grad = grad.contiguous()?;
        let (xs, ws, dy) = (values(x)?, values(weight)?, values(&grad)?);
        let dy: Cow<'_, [f32]> =
            if self.relu { rectified(&dy, &values(res)?).into() } else { Cow::Borrowed(&dy) };
        let mut bias = vec![0.0; filters];
        add_rows(&mut bias, &dy);

        let wanted = x.track_op();
        let mut dx = vec![0.0; if wanted { xs.len() } else { 0 }];
        let mut dw = vec![0.0; ws.len()];
        let mut patches = vec![0.0; group * g.places() * patch];
        for (i, dy) in dy.chunks(group * g.places() * filters).enumerate() {
            let rows = dy.len() / filters;
            let images = i * group * g.image()..(i * group + rows / g.places()) * g.image();
            g.gather_all(&xs[images.clone()], &mut patches);
            let left = Matrix::columns(dy, filters);
            product([filters, patch, rows], Target::add(&mut dw, patch), left, Matrix::rows(&patches, patch));
            if wanted {
                let (left, right) = (Matrix::rows(dy, filters), Matrix::rows(&ws, patch));
                product([rows, patch, filters], Target::replace(&mut patches, patch), left, right);
                let images = dx[images].chunks_exact_mut(g.image());
                for (image, patches) in images.zip(patches.chunks_exact(g.places() * patch)) {
                    g.scatter(patches, image);
                }
            }
        }
        let input = if wanted { like(dx, x)? } else { None };
        Ok(Gradients { input, weight: like(dw, weight)?, bias })
    }
}

#[inline]
fn add_bias(y: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    for row in y.chunks_exact_mut(bias.len()) {
        for (v, &b) in row.iter_mut().zip(bias) {
            *v = f(*v + b);
        }
    }
}

struct Gradients {
    input: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Vec<f32>,
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = Geometry::new(self.window, xl.shape(), wl.shape())?;
        let operands = (operand(x, xl)?, operand(w, wl)?, Some(operand(b, bl)?));
        output(Self::forward(&g, self.relu, operands), (g.batch, g.rows, g.columns, g.filters))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = self.backward(x, w, res, grad)?;
        Ok((g.input, g.weight, like(g.bias, b)?))
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv-no-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = Geometry::new(self.window, xl.shape(), wl.shape())?;
        let operands = (operand(x, xl)?, operand(w, wl)?, None);
        output(Self::forward(&g, self.relu, operands), (g.batch, g.rows, g.columns, g.filters))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = self.backward(x, w, res, grad)?;
        Ok((g.input, g.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, tensor};

    /// batch, height, width, channels, filters, side, stride, padding
    const CASES: [[usize; 8]; 6] = [
        [1, 5, 5, 1, 2, 3, 1, 0],
        [2, 6, 5, 3, 2, 3, 1, 1],
        [3, 7, 6, 2, 3, 5, 1, 2],
        [2, 7, 8, 2, 2, 3, 2, 1],
        [2, 5, 6, 3, 2, 1, 2, 0],
        [1, 9, 9, 1, 2, 7, 2, 3],
    ];

    fn naive(v: &[Vec<f64>], case: [usize; 8], relu: bool) -> Vec<f64> {
        let [b, h, w, c, f, side, stride, padding] = case;
        let (oh, ow) = ((h + 2 * padding - side) / stride + 1, (w + 2 * padding - side) / stride + 1);
        let mut y = Vec::new();
        for (bi, oy, ox, fi) in
            (0..b * oh * ow * f).map(|i| (i / f / ow / oh, i / f / ow % oh, i / f % ow, i % f))
        {
            let mut sum = v.get(2).map_or(0.0, |bias| bias[fi]);
            for (ky, kx, ci) in (0..side * side * c).map(|i| (i / c / side, i / c % side, i % c)) {
                let (py, px) = (oy * stride + ky, ox * stride + kx);
                if py >= padding && px >= padding && py - padding < h && px - padding < w {
                    sum += v[0][((bi * h + py - padding) * w + px - padding) * c + ci]
                        * v[1][((fi * side + ky) * side + kx) * c + ci];
                }
            }
            y.push(if relu { sum.max(0.0) } else { sum });
        }
        y
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        for (i, case) in CASES.into_iter().enumerate() {
            let [b, h, w, c, f, side, stride, padding] = case;
            let window = Window { side, stride, padding };
            for (relu, operands) in [(false, 3), (true, 3), (false, 2)] {
                let inputs = [
                    tensor(&numbers(b * h * w * c, i as u64), &[b, h, w, c]).unwrap(),
                    tensor(&numbers(f * side * side * c, 50 + i as u64), &[f, side, side, c]).unwrap(),
                    tensor(&numbers(f, 9), &[f]).unwrap(),
                ];
                let ours = |t: &[Tensor]| conv(&t[0], &t[1], t.get(2), window, relu);
                check_gradients(&inputs[..operands], &ours, &|v| naive(v, case, relu));
            }
        }
    }

    #[test]
    fn large_batches_go_through_several_groups() {
        let case = [9, 8, 9, 2, 3, 3, 1, 1];
        let inputs = [
            tensor(&numbers(9 * 72 * 2, 1), &[9, 8, 9, 2]).unwrap(),
            tensor(&numbers(54, 2), &[3, 3, 3, 2]).unwrap(),
        ];
        let window = Window { side: 3, stride: 1, padding: 1 };
        check_gradients(&inputs, &|t| conv(&t[0], &t[1], None, window, false), &|v| naive(v, case, false));
    }

    #[test]
    fn too_small_an_image_is_an_error() {
        let inputs = [tensor(&[0.0; 4], &[1, 2, 2, 1]).unwrap(), tensor(&[0.0; 25], &[1, 5, 5, 1]).unwrap()];
        let window = Window { side: 5, stride: 1, padding: 0 };
        let error = conv(&inputs[0], &inputs[1], None, window, false).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
