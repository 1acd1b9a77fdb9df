//! Two-dimensional convolution of channels-last images without a matrix of patches: the matrix kernel
//! reads the windows where they lie in the (padded) image.
//!
//! Images lie as `[batch, height, width, channels]` and filters as `[side, side, channels, filters]`. A
//! window is `side` contiguous runs, one per row of the image, so that the forward pass is a product
//! whose left factor has a row per place. The gradient of the filters is a product with the same
//! windows as columns, and the gradient of the input is a convolution of the padded gradient with the
//! turned filters; with a stride above 1 it is a product whose rows are added back (`patches.rs`). 3×3 windows
//! of many channels go another way, with fewer multiplications (`winograd`).

use super::gemm::{Left, Matrix, Packed, Rows, Target, product, product_pieces};
use super::patches::{Geometry, Window};
use super::pool::{max_pool, transpose};
use super::{add_rows, apart::Apart, column_sums, math, rectify_gradient, winograd};
use crate::engine::buffer::Buffer;
use crate::engine::cuda;
use crate::engine::tape::{Operation, Split, apply, apply_as};
use crate::engine::tensor::{Result, Tensor};

/// Depth that one pass of the kernel should not exceed by much.
const DEPTH: usize = 1_024;

#[derive(Debug, Clone, Copy)]
struct Conv {
    window: Window,
    relu: bool,
}

/// `x` is `[b, h, w, c]`, `weight` `[side, side, c, f]`, `bias` `[f]`; the result is `[b, h', w', f]`.
pub(in crate::engine) fn conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    relu: bool,
) -> Result<Tensor> {
    let op = Conv { window, relu };
    match bias {
        Some(bias) => apply(op, &[x, weight, bias]),
        None => apply(op, &[x, weight]),
    }
}

/// As [`conv`] with the rectifier, then the maximum of windows: one operation on a GPU, where both move the
/// same memory.
pub(in crate::engine) fn conv_pooled(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (window, pool): (Window, Window),
) -> Result<Tensor> {
    if x.is_on_device()
        && let Some(op) = cuda::ops::conv::Pooled::new(window, pool)
    {
        return match bias {
            Some(bias) => apply_as(Box::new(op), &[x, weight, bias]),
            None => apply_as(Box::new(op), &[x, weight]),
        };
    }
    max_pool(&conv(x, weight, bias, window, true)?, pool)
}

/// The windows of a few padded images.
struct Windows {
    images: Buffer,
    /// Scalars of a padded row.
    row: usize,
    /// Scalars of a padded image.
    image: usize,
}

impl Windows {
    fn new(g: &Geometry, images: &[f32]) -> Self {
        let row = (g.width + 2 * g.window.padding) * g.channels;
        let image = (g.height + 2 * g.window.padding) * row;
        let mut padded = Buffer::any(images.len() / g.image() * image);
        let (border, line) = (g.window.padding * g.channels, g.width * g.channels);
        for (from, to) in images.chunks_exact(g.image()).zip(padded.chunks_exact_mut(image)) {
            let edge = g.window.padding * row;
            to[..edge].fill(0.0);
            to[image - edge..].fill(0.0);
            for (from, to) in from.chunks_exact(line).zip(to[edge..].chunks_exact_mut(row)) {
                to[..border].fill(0.0);
                to[border..border + line].copy_from_slice(from);
                to[border + line..].fill(0.0);
            }
        }
        Self { images: padded, row, image }
    }

    /// Where the lines of places begin.
    fn lines<'a>(&'a self, g: &'a Geometry) -> impl Iterator<Item = usize> + 'a {
        let count = self.images.len() / self.image;
        (0..count * g.rows).map(|i| i / g.rows * self.image + i % g.rows * g.window.stride * self.row)
    }

    /// Where the windows begin.
    fn places(&self, g: &Geometry) -> Vec<usize> {
        let step = g.window.stride * g.channels;
        self.lines(g).flat_map(|line| (0..g.columns).map(move |x| line + x * step)).collect()
    }
}

/// Writes to `y` the convolution of images with filters `[side, side, c, f]`; calls `each` with parts of it.
fn convolve(g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], each: impl Fn(&mut [f32])) {
    if winograd::pays(g) {
        winograd::convolve(g, x, weight, y, each);
    } else {
        slide(g, x, &pack(g, weight), y, each);
    }
}

/// As [`convolve`] with packed filters (see [`pack`]).
fn slide(g: &Geometry, x: &[f32], filters: &Packed, y: &mut [f32], each: impl Fn(&mut [f32])) {
    let (run, side, group) = (g.window.side * g.channels, g.window.side, g.group());
    let lines = lines_at_once(g);
    let result = group * g.places() * g.filters;
    for (x, y) in x.chunks(group * g.image()).zip(y.chunks_mut(result)) {
        let windows = Windows::new(g, x);
        let places = windows.places(g);
        let segments: Vec<usize> = (0..side).map(|line| line * windows.row).collect();
        let piece = |block: usize| Left {
            data: &windows.images,
            rows: Rows::At(&places),
            column: 1,
            run,
            segments: &segments[block * lines..((block + 1) * lines).min(side)],
        };
        product_pieces(Target::replace(y, g.filters), piece, filters);
        each(y);
    }
}

/// Lines of the window that one pass of the kernel takes.
fn lines_at_once(g: &Geometry) -> usize {
    (DEPTH / (g.window.side * g.channels)).clamp(1, g.window.side)
}

/// Filters `[side, side, c, f]` for [`slide`].
fn pack(g: &Geometry, weight: &[f32]) -> Packed {
    let (side, lines) = (g.window.side, lines_at_once(g));
    let blocks = (0..side).step_by(lines).map(|line| (side - line).min(lines) * side * g.channels);
    Packed::by_blocks(Matrix::rows(weight, g.filters), g.filters, blocks.collect())
}

/// Adds to `dw` `[side, side, c, f]` the gradient from some images and the gradient of their results.
fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    if winograd::pays(g) {
        return winograd::weight_gradient(g, x, dy, dw);
    }
    let (run, filters, group) = (g.window.side * g.channels, g.filters, g.group());
    let gradient = group * g.places() * filters;
    for (x, dy) in x.chunks(group * g.image()).zip(dy.chunks(gradient)) {
        let windows = Windows::new(g, x);
        let lines: Vec<usize> = windows.lines(g).collect();
        let at_once = (DEPTH / 2 / g.columns).clamp(1, lines.len());
        let blocks = lines.chunks(at_once).map(|lines| lines.len() * g.columns);
        let right = Packed::by_blocks(Matrix::rows(dy, filters), filters, blocks.collect());
        for (line, dw) in dw.chunks_exact_mut(run * filters).enumerate() {
            let piece = |block: usize| Left {
                data: &windows.images[line * windows.row..],
                rows: Rows::Every { count: run, distance: 1 },
                column: g.window.stride * g.channels,
                run: g.columns,
                segments: &lines[block * at_once..((block + 1) * at_once).min(lines.len())],
            };
            product_pieces(Target::add(dw, filters), piece, &right);
        }
    }
}

/// The gradient of the images.
fn input_gradient(g: &Geometry, weight: &[f32], dy: &[f32]) -> Buffer {
    let Window { side, stride, padding } = g.window;
    let (c, f) = (g.channels, g.filters);
    if stride == 1 && padding < side {
        let mut turned = Buffer::any(weight.len());
        let taps = turned.chunks_exact_mut(c * f).rev();
        for (from, to) in weight.chunks_exact(c * f).zip(taps) {
            transpose(from, to, f);
        }
        let back = Geometry {
            window: Window { side, stride, padding: side - 1 - padding },
            batch: g.batch,
            height: g.rows,
            width: g.columns,
            channels: f,
            filters: c,
            rows: g.height,
            columns: g.width,
        };
        let mut dx = Buffer::any(g.batch * g.image());
        convolve(&back, dy, &turned, &mut dx, |_| {});
        return dx;
    }
    let (patch, group) = (g.patch(), g.group());
    let mut dx = Buffer::zeros(g.batch * g.image());
    let mut patches = Buffer::any(group * g.places() * patch);
    for (dy, images) in dy.chunks(group * g.places() * f).zip(dx.chunks_mut(group * g.image())) {
        let rows = dy.len() / f;
        let (left, right) = (Matrix::rows(dy, f), Matrix::columns(weight, f));
        product([rows, patch, f], Target::replace(&mut patches, patch), left, right);
        let step = g.places() * patch;
        for (image, patches) in images.chunks_exact_mut(g.image()).zip(patches.chunks_exact(step)) {
            math::vectorised(
                #[inline(always)]
                || g.scatter(patches, image),
            );
        }
    }
    dx
}

impl Operation for Conv {
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        Some(Box::new(cuda::ops::conv::Conv::new(self.window, self.relu)))
    }

    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (inputs[0], inputs[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let mut y = Buffer::any(g.batch * g.places() * g.filters);
        let (bias, relu) = (inputs.get(2).map(|bias| bias.values()), self.relu);
        convolve(&g, x.values(), weight.values(), &mut y, |y| {
            math::vectorised(
                #[inline(always)]
                || finish(y, bias, relu),
            );
        });
        Ok(Tensor::new(y, &[g.batch, g.rows, g.columns, g.filters]))
    }

    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let g = Geometry::new(self.window, x, weight)?;
        let mut dy = gradient.into_buffer();
        if self.relu {
            rectify_gradient(&mut dy, result.values());
        }
        let dx = x.tracked().then(|| Tensor::new(input_gradient(&g, weight.values(), &dy), x.shape()));
        Ok(std::iter::once(dx).chain(parameter_gradients(&g, inputs, &dy).into_iter().map(Some)).collect())
    }

    fn split(
        &self,
        inputs: &[Tensor],
        result: &Tensor,
        gradient: &Tensor,
        examples: usize,
    ) -> Result<Option<Split>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let g = Geometry::new(self.window, x, weight)?;
        if g.batch != examples {
            return Ok(None);
        }
        let mut dy = Buffer::copy(gradient.values());
        if self.relu {
            rectify_gradient(&mut dy, result.values());
        }
        let (filters, bias) = apart(&g, inputs, &dy);
        let mut squares: Vec<f64> = filters.squares().collect();
        if let Some(bias) = &bias {
            squares.iter_mut().zip(bias.squares()).for_each(|(sum, square)| *sum += square);
        }
        let input = x.tracked().then(|| Tensor::new(input_gradient(&g, weight.values(), &dy), x.shape()));
        let shape = weight.shape().to_vec();
        let weighted = Box::new(move |factors: &[f32]| {
            let bias = bias.map(|bias| Tensor::new(bias.weighted(factors), &[g.filters]));
            std::iter::once(Tensor::new(filters.weighted(factors), &shape)).chain(bias).collect()
        });
        Ok(Some(Split { input, squares, weighted }))
    }
}

/// Gradients of filters and, where there is one, bias.
fn parameter_gradients(g: &Geometry, inputs: &[Tensor], dy: &[f32]) -> Vec<Tensor> {
    let mut dw = Buffer::zeros(inputs[1].len());
    weight_gradient(g, inputs[0].values(), dy, &mut dw);
    let bias = inputs.get(2).map(|bias| Tensor::new(column_sums(dy, g.filters), bias.shape()));
    std::iter::once(Tensor::new(dw, inputs[1].shape())).chain(bias).collect()
}

/// The images' gradients of filters and, where there is one, bias.
fn apart(g: &Geometry, inputs: &[Tensor], dy: &[f32]) -> (Apart, Option<Apart>) {
    let one = Geometry { batch: 1, ..*g };
    let mut filters = Apart::zeros(g.batch, inputs[1].len());
    let mut bias = inputs.get(2).map(|_| Apart::zeros(g.batch, g.filters));
    let images = inputs[0].values().chunks_exact(g.image());
    let slopes = || dy.chunks_exact(g.places() * g.filters);
    for ((x, dy), dw) in images.zip(slopes()).zip(filters.each()) {
        weight_gradient(&one, x, dy, dw);
    }
    for (dy, sums) in slopes().zip(bias.iter_mut().flat_map(Apart::each)) {
        add_rows(sums, dy);
    }
    (filters, bias)
}

/// Bias and rectifier, in place.
#[inline(always)]
fn finish(y: &mut [f32], bias: Option<&[f32]>, relu: bool) {
    match (bias, relu) {
        (Some(bias), true) => add_bias(
            y,
            bias,
            #[inline(always)]
            |v| v.max(0.0),
        ),
        (Some(bias), false) => add_bias(
            y,
            bias,
            #[inline(always)]
            |v| v,
        ),
        (None, true) => super::rectify(y),
        (None, false) => {}
    }
}

#[inline(always)]
fn add_bias(y: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    for row in y.chunks_exact_mut(bias.len()) {
        for (v, &b) in row.iter_mut().zip(bias) {
            *v = f(*v + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};
    use proptest::strategy::Strategy;

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
                        * v[1][((ky * side + kx) * c + ci) * f + fi];
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
                    tensor(&numbers(f * side * side * c, 50 + i as u64), &[side, side, c, f]).unwrap(),
                    tensor(&numbers(f, 9), &[f]).unwrap(),
                ];
                let ours = |t: &[Tensor]| conv(&t[0], &t[1], t.get(2), window, relu);
                check_gradients(&inputs[..operands], &ours, &|v| naive(v, case, relu));
            }
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        let sizes = (1..=3_usize, 1..=7_usize, 1..=7_usize, 1..=3_usize, 1..=4_usize);
        let windows = (1..=5_usize, 1..=3_usize, 0..=2_usize);
        let fitting = (sizes, windows)
            .prop_filter("the window fits", |((_, h, w, ..), (side, _, padding))| {
                h.min(w) + 2 * padding >= *side && padding < side
            });
        shapes(24, &fitting, |((b, h, w, c, f), (side, stride, padding))| {
            let inputs = [
                tensor(&numbers(b * h * w * c, 1), &[b, h, w, c]).unwrap(),
                tensor(&numbers(f * side * side * c, 2), &[side, side, c, f]).unwrap(),
                tensor(&numbers(f, 9), &[f]).unwrap(),
            ];
            let (window, case) = (Window { side, stride, padding }, [b, h, w, c, f, side, stride, padding]);
            check_gradients(&inputs, &|t| conv(&t[0], &t[1], t.get(2), window, false), &|v| {
                naive(v, case, false)
            });
        });
    }

    #[test]
    fn large_batches_go_through_several_groups() {
        let case = [9, 8, 9, 2, 3, 3, 1, 1];
        let inputs = [
            tensor(&numbers(9 * 72 * 2, 1), &[9, 8, 9, 2]).unwrap(),
            tensor(&numbers(54, 2), &[3, 3, 2, 3]).unwrap(),
        ];
        let window = Window { side: 3, stride: 1, padding: 1 };
        check_gradients(&inputs, &|t| conv(&t[0], &t[1], None, window, false), &|v| naive(v, case, false));
    }

    /// Where the terms of an example cancel, the same sum in another order is another number.
    #[test]
    fn what_is_added_has_the_norm_that_was_measured() {
        let (examples, side) = (6, 14);
        let mut images = numbers(examples * side * side, 3);
        images.iter_mut().enumerate().for_each(|(i, x)| *x += if i % 2 == 0 { 1e5 } else { -1e5 });
        let images = Tensor::leaf(images, &[examples, side, side, 1]);
        let inputs = [images, Tensor::leaf(numbers(18, 4), &[3, 3, 1, 2]), Tensor::leaf(numbers(2, 5), &[2])];
        let mut conv = Conv { window: Window { side: 3, stride: 1, padding: 0 }, relu: false };
        let result = conv.forward(&inputs.each_ref()).unwrap();
        let slopes = numbers(result.len(), 6).into_iter().map(|v| 1.0 + 1e-4 * v).collect::<Vec<_>>();
        let slopes = Tensor::new(slopes, result.shape());
        for one in 0..examples {
            let split = conv.split(&inputs, &result, &slopes, examples).unwrap().unwrap();
            let norm = split.squares[one].sqrt();
            let mut factors = vec![0.0; examples];
            factors[one] = (1.0 / norm) as f32;
            let added = (split.weighted)(&factors);
            let square: f64 = added.iter().map(|part| crate::engine::ops::square(part.values())).sum();
            assert!((square.sqrt() - 1.0).abs() < 2e-7, "example {one}: {}", square.sqrt());
        }
    }

    #[test]
    fn too_small_an_image_is_an_error() {
        let inputs = [tensor(&[0.0; 4], &[1, 2, 2, 1]).unwrap(), tensor(&[0.0; 25], &[5, 5, 1, 1]).unwrap()];
        let window = Window { side: 5, stride: 1, padding: 0 };
        let error = conv(&inputs[0], &inputs[1], None, window, false).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
