//! Pooling of channels-last images: maximum with the stored place of the maximum, and global mean.
//!
//! candle's own `max_pool2d` divides the gradient by the window's area and shares it among ties; here
//! the whole gradient goes to the first maximum, as in PyTorch.

use super::math;
use super::patches::Window;
use crate::engine::buffer::Buffer;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
struct MaxPool {
    window: Window,
    /// For each output, which place of its window held the maximum.
    chosen: Vec<u8>,
}

/// `[b, h, w, c]` to `[b, h', w', c]`; padding never wins.
pub(in crate::engine) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    apply(MaxPool { window, chosen: Vec::new() }, &[x])
}

/// `[b, h, w, c]` to `[b, c]`.
pub(in crate::engine) fn global_mean(x: &Tensor) -> Result<Tensor> {
    apply(GlobalMean, &[x])
}

/// `[b, h, w, c]` to `[b, c · h · w]`, the order in which PyTorch flattens an image.
pub(in crate::engine) fn flatten(x: &Tensor) -> Result<Tensor> {
    apply(Flatten, &[x])
}

impl MaxPool {
    /// Calls `f` with (offset of an output pixel, place in the window, offset of that input pixel).
    #[inline(always)]
    fn visit(
        &self,
        [batch, height, width, c]: [usize; 4],
        mut f: impl FnMut(usize, u8, usize),
    ) -> Result<()> {
        let Window { side, stride, padding } = self.window;
        let (Some(rows), Some(columns)) = (self.window.places(height), self.window.places(width)) else {
            bail!("a {side}×{side} window does not fit an image of {height}×{width}")
        };
        for (b, oy, ox) in
            (0..batch * rows * columns).map(|i| (i / columns / rows, i / columns % rows, i % columns))
        {
            let to = ((b * rows + oy) * columns + ox) * c;
            for place in 0..side * side {
                let (y, x) = (oy * stride + place / side, ox * stride + place % side);
                let inside = |v: usize, extent: usize| v.checked_sub(padding).filter(|&v| v < extent);
                if let (Some(y), Some(x)) = (inside(y, height), inside(x, width)) {
                    f(to, place as u8, ((b * height + y) * width + x) * c);
                }
            }
        }
        Ok(())
    }
}

impl Operation for MaxPool {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let dims = x.dims()?;
        let [batch, height, width, c] = dims;
        let (rows, columns) =
            (self.window.places(height).unwrap_or(0), self.window.places(width).unwrap_or(0));
        let x = x.values();
        let mut y = Buffer::any(batch * rows * columns * c);
        y.fill(f32::NEG_INFINITY);
        let mut chosen = vec![u8::MAX; y.len()];
        math::vectorised(
            #[inline(always)]
            || {
                self.visit(
                    dims,
                    #[inline(always)]
                    |to, place, from| {
                        let (best, which) = (&mut y[to..to + c], &mut chosen[to..to + c]);
                        for ((best, which), &v) in best.iter_mut().zip(which).zip(&x[from..from + c]) {
                            // The first place wins unless a later one is larger; NaN always wins.
                            let better = v > *best || v.is_nan() || *which == u8::MAX;
                            *best = if better { v } else { *best };
                            *which = if better { place } else { *which };
                        }
                    },
                )
            },
        )?;
        self.chosen = chosen;
        Ok(Tensor::new(y, &[batch, rows, columns, c]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let dims = x.dims()?;
        let (g, c) = (gradient.values(), dims[3]);
        let mut dx = Buffer::zeros(x.len());
        math::vectorised(
            #[inline(always)]
            || {
                self.visit(
                    dims,
                    #[inline(always)]
                    |from, place, to| {
                        let sources = g[from..from + c].iter().zip(&self.chosen[from..from + c]);
                        for (d, (&g, &which)) in dx[to..to + c].iter_mut().zip(sources) {
                            *d += if which == place { g } else { 0.0 };
                        }
                    },
                )
            },
        )?;
        Ok(vec![Some(Tensor::new(dx, x.shape()))])
    }
}

#[derive(Debug)]
struct GlobalMean;

impl Operation for GlobalMean {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let scale = 1.0 / (height * width) as f32;
        let mut y = Buffer::zeros(batch * c);
        let images = inputs[0].values().chunks_exact(height * width * c);
        for (y, image) in y.chunks_exact_mut(c).zip(images) {
            super::add_rows(y, image);
            for v in y.iter_mut() {
                *v *= scale;
            }
        }
        Ok(Tensor::new(y, &[batch, c]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [_, height, width, c] = inputs[0].dims()?;
        let scale = 1.0 / (height * width) as f32;
        let mut dx = Buffer::any(inputs[0].len());
        let images = dx.chunks_exact_mut(height * width * c);
        for (image, g) in images.zip(gradient.values().chunks_exact(c)) {
            for pixel in image.chunks_exact_mut(c) {
                for (d, g) in pixel.iter_mut().zip(g) {
                    *d = g * scale;
                }
            }
        }
        Ok(vec![Some(Tensor::new(dx, inputs[0].shape()))])
    }
}

#[derive(Debug)]
struct Flatten;

impl Operation for Flatten {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [batch, height, width, c] = inputs[0].dims()?;
        let image = height * width * c;
        let mut y = Buffer::any(inputs[0].len());
        for (from, to) in inputs[0].values().chunks_exact(image).zip(y.chunks_exact_mut(image)) {
            transpose(from, to, c);
        }
        Ok(Tensor::new(y, &[batch, image]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let [_, height, width, c] = inputs[0].dims()?;
        let image = height * width * c;
        let mut dx = Buffer::any(inputs[0].len());
        for (from, to) in gradient.values().chunks_exact(image).zip(dx.chunks_exact_mut(image)) {
            transpose(from, to, height * width);
        }
        Ok(vec![Some(Tensor::new(dx, inputs[0].shape()))])
    }
}

/// Writes the transpose of `from`, whose rows have `width` elements; square by square, for the caches.
pub(in crate::engine) fn transpose(from: &[f32], to: &mut [f32], width: usize) {
    const SIDE: usize = 16;
    let height = from.len() / width;
    for top in (0..height).step_by(SIDE) {
        let rows = (height - top).min(SIDE);
        for left in (0..width).step_by(SIDE) {
            for j in left..(left + SIDE).min(width) {
                for (i, v) in to[j * height + top..][..rows].iter_mut().enumerate() {
                    *v = from[(top + i) * width + j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};
    use crate::engine::tape::Tape;
    use proptest::strategy::Strategy;

    const HALVE: Window = Window { side: 2, stride: 2, padding: 0 };

    /// The gradient of the sum of all maxima.
    fn ones_back(x: &Tensor) -> Vec<f32> {
        let (y, tape) = Tape::record(|| max_pool(x, HALVE).unwrap());
        let ones = Tensor::new(vec![1.0; y.len()], y.shape());
        tape.gradients(&y, ones).unwrap().get(x).unwrap().values().to_vec()
    }

    /// candle-core 0.11.1 gives 0.25 here. A note for its authors: the backward pass of `max_pool2d`
    /// (`backprop.rs`, `Op::MaxPool2D`) compares the upsampled maxima with the argument for equality and
    /// scales the result by 1 / (kernel height · kernel width), as average pooling would. One maximum of a
    /// window should receive the whole gradient; and where several elements are equal, as zeros after
    /// a rectifier often are, the comparison gives each of them a share, where PyTorch gives all to the
    /// first. Reproduction: `max_pool2d(2)` of `[[1, 2], [3, 4]]`, summed, `backward()`.
    #[test]
    fn the_whole_gradient_goes_to_the_maximum() {
        let x = tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 2, 1]).unwrap();
        assert_eq!(ones_back(&x), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(candle_back(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [0.0, 0.0, 0.0, 0.25], "candle was mended");
    }

    /// The same gradient by candle's own operations.
    fn candle_back(window: &[f32; 4]) -> candle_core::Result<Vec<f32>> {
        use candle_core::{Device, Error, Var};
        let x = Var::from_slice(window, (1, 1, 2, 2), &Device::Cpu)?;
        let gradients = x.max_pool2d(2)?.sum_all()?.backward()?;
        let gradient = gradients.get(&x).ok_or_else(|| Error::msg("the window has a gradient"))?;
        gradient.flatten_all()?.to_vec1()
    }

    #[test]
    fn the_first_of_equal_maxima_gets_it_all() {
        let x = tensor(&[5.0; 4], &[1, 2, 2, 1]).unwrap();
        assert_eq!(ones_back(&x), [1.0, 0.0, 0.0, 0.0]);
    }

    /// batch, height, width, channels, side, stride, padding
    fn naive(x: &[f64], [b, h, w, c, side, stride, padding]: [usize; 7]) -> Vec<f64> {
        let (oh, ow) = ((h + 2 * padding - side) / stride + 1, (w + 2 * padding - side) / stride + 1);
        let largest = |i: usize| {
            let (ci, ox, oy, bi) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
            let mut best = f64::NEG_INFINITY;
            for (y, column) in (0..side * side).map(|p| (oy * stride + p / side, ox * stride + p % side)) {
                if y >= padding && column >= padding && y - padding < h && column - padding < w {
                    best = best.max(x[((bi * h + y - padding) * w + column - padding) * c + ci]);
                }
            }
            best
        };
        (0..b * oh * ow * c).map(largest).collect()
    }

    fn check_maxima(case: [usize; 7]) {
        let [b, h, w, c, side, stride, padding] = case;
        let x = tensor(&numbers(b * h * w * c, side as u64), &[b, h, w, c]).unwrap();
        let window = Window { side, stride, padding };
        check_gradients(&[x], &|t| max_pool(&t[0], window), &|v| naive(&v[0], case));
    }

    #[test]
    fn maxima_match_plain_loops_and_differences() {
        for case in
            [[2, 4, 6, 3, 2, 2, 0], [1, 5, 7, 2, 2, 2, 0], [2, 7, 6, 5, 3, 2, 1], [1, 6, 6, 1, 3, 1, 1]]
        {
            check_maxima(case);
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        let sizes = (1..=3_usize, 1..=7_usize, 1..=7_usize, 1..=5_usize);
        let windows = (1..=4_usize, 1..=3_usize, 0..=2_usize);
        let fitting = (sizes, windows)
            .prop_filter("the window fits", |((_, h, w, _), (side, _, padding))| {
                h.min(w) + 2 * padding >= *side && 2 * padding <= *side
            });
        shapes(32, &fitting, |((b, h, w, c), (side, stride, padding))| {
            check_maxima([b, h, w, c, side, stride, padding]);
        });
        shapes(16, &(1..=3_usize, 1..=5_usize, 1..=5_usize, 1..=6_usize), |(b, h, w, c)| {
            let x = [tensor(&numbers(b * h * w * c, 4), &[b, h, w, c]).unwrap()];
            check_gradients(&x, &|t| global_mean(&t[0]), &|v| {
                let pixels = |i: usize| (0..h * w).map(move |p| (i / c * h * w + p) * c + i % c);
                (0..b * c).map(|i| pixels(i).map(|at| v[0][at]).sum::<f64>() / (h * w) as f64).collect()
            });
            check_gradients(&x, &|t| flatten(&t[0]), &|v| {
                let from = |i: usize| (i / (c * h * w) * h * w + i % (h * w)) * c + i / (h * w) % c;
                (0..b * c * h * w).map(|i| v[0][from(i)]).collect()
            });
        });
    }

    #[test]
    fn not_a_number_is_passed_on() {
        let x = tensor(&[1.0, f32::NAN, 3.0, 4.0], &[1, 2, 2, 1]).unwrap();
        assert!(max_pool(&x, HALVE).unwrap().values()[0].is_nan());
    }
}
