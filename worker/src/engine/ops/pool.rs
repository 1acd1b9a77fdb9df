//! Pooling of channels-last images: maximum with the stored place of the maximum, and global mean.
//!
//! candle's own `max_pool2d` divides the gradient by the window's area and shares it among ties; here
//! the whole gradient goes to the first maximum, as in PyTorch.

use super::patches::Window;
use super::{like, math, operand, output, values};
use crate::engine::tape::apply1;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::sync::OnceLock;

#[derive(Debug)]
struct MaxPool {
    window: Window,
    /// For each output, which place of its window held the maximum.
    chosen: OnceLock<Vec<u8>>,
}

/// `[b, h, w, c]` to `[b, h', w', c]`; padding never wins.
pub(in crate::engine) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    apply1(x, MaxPool { window, chosen: OnceLock::new() })
}

/// `[b, h, w, c]` to `[b, c]`.
pub(in crate::engine) fn global_mean(x: &Tensor) -> Result<Tensor> {
    apply1(x, GlobalMean)
}

/// `[b, h, w, c]` to `[b, c · h · w]`, the order in which PyTorch flattens an image.
pub(in crate::engine) fn flatten(x: &Tensor) -> Result<Tensor> {
    apply1(x, Flatten)
}

impl MaxPool {
    /// Calls `f` with (offset of an output pixel, place in the window, offset of that input pixel).
    #[inline(always)]
    fn visit(&self, shape: &Shape, mut f: impl FnMut(usize, u8, usize)) -> Result<(usize, usize)> {
        let (batch, height, width, c) = shape.dims4()?;
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
        Ok((rows, columns))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, c) = layout.shape().dims4()?;
        let (rows, columns) =
            (self.window.places(height).unwrap_or(0), self.window.places(width).unwrap_or(0));
        let x = operand(x, layout)?;
        let mut y = vec![f32::NEG_INFINITY; batch * rows * columns * c];
        let mut chosen = vec![u8::MAX; y.len()];
        math::vectorised(
            #[inline(always)]
            || {
                self.visit(
                    layout.shape(),
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
        // A second forward pass of the same node does not happen; if it did, it would store the same.
        let _ = self.chosen.set(chosen);
        output(y, (batch, rows, columns, c))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(chosen) = self.chosen.get() else { bail!("max-pool: backward before forward") };
        let grad = grad.contiguous()?;
        let g = values(&grad)?;
        let c = x.dim(3)?;
        let mut dx = vec![0.0; x.elem_count()];
        math::vectorised(
            #[inline(always)]
            || {
                self.visit(
                    x.shape(),
                    #[inline(always)]
                    |from, place, to| {
                        let sources = g[from..from + c].iter().zip(&chosen[from..from + c]);
                        for (d, (&g, &which)) in dx[to..to + c].iter_mut().zip(sources) {
                            *d += if which == place { g } else { 0.0 };
                        }
                    },
                )
            },
        )?;
        like(dx, x)
    }
}

#[derive(Debug)]
struct GlobalMean;

impl CustomOp1 for GlobalMean {
    fn name(&self) -> &'static str {
        "global-mean"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, c) = layout.shape().dims4()?;
        let scale = 1.0 / (height * width) as f32;
        let mut y = vec![0.0; batch * c];
        for (y, image) in y.chunks_exact_mut(c).zip(operand(x, layout)?.chunks_exact(height * width * c)) {
            super::add_rows(y, image);
            for v in y.iter_mut() {
                *v *= scale;
            }
        }
        output(y, (batch, c))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, c) = x.dims4()?;
        let scale = 1.0 / (height * width) as f32;
        let grad = grad.contiguous()?;
        let mut dx = Vec::with_capacity(x.elem_count());
        for g in values(&grad)?.chunks_exact(c) {
            for _ in 0..height * width {
                dx.extend(g.iter().map(|g| g * scale));
            }
        }
        like(dx, x)
    }
}

#[derive(Debug)]
struct Flatten;

impl CustomOp1 for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, c) = layout.shape().dims4()?;
        let pixels = height * width;
        let x = operand(x, layout)?;
        let mut y = vec![0.0; x.len()];
        for (from, to) in x.chunks_exact(pixels * c).zip(y.chunks_exact_mut(pixels * c)) {
            transpose(from, to, c);
        }
        output(y, (batch, pixels * c))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, c) = x.dims4()?;
        let pixels = height * width;
        let grad = grad.contiguous()?;
        let mut dx = vec![0.0; x.elem_count()];
        for (from, to) in values(&grad)?.chunks_exact(pixels * c).zip(dx.chunks_exact_mut(pixels * c)) {
            transpose(from, to, pixels);
        }
        like(dx, x)
    }
}

/// Writes the transpose of `from`, whose rows have `width` elements.
pub(in crate::engine) fn transpose(from: &[f32], to: &mut [f32], width: usize) {
    let height = from.len() / width;
    for (j, column) in to.chunks_exact_mut(height).enumerate() {
        for (i, v) in column.iter_mut().enumerate() {
            *v = from[i * width + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, tensor};
    use crate::engine::ops::to_vec;

    const HALVE: Window = Window { side: 2, stride: 2, padding: 0 };

    #[test]
    fn the_whole_gradient_goes_to_the_maximum() {
        let x = tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 2, 1]).unwrap();
        let grads = max_pool(&x, HALVE).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(to_vec(grads.get(&x).unwrap()).unwrap(), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_first_of_equal_maxima_gets_it_all() {
        let x = tensor(&[5.0; 4], &[1, 2, 2, 1]).unwrap();
        let grads = max_pool(&x, HALVE).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(to_vec(grads.get(&x).unwrap()).unwrap(), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn maxima_match_plain_loops_and_differences() {
        for [b, h, w, c, side, stride, padding] in
            [[2, 4, 6, 3, 2, 2, 0], [1, 5, 7, 2, 2, 2, 0], [2, 7, 6, 5, 3, 2, 1], [1, 6, 6, 1, 3, 1, 1]]
        {
            let window = Window { side, stride, padding };
            let naive = |v: &[Vec<f64>]| -> Vec<f64> {
                let (oh, ow) = ((h + 2 * padding - side) / stride + 1, (w + 2 * padding - side) / stride + 1);
                (0..b * oh * ow * c)
                    .map(|i| {
                        let (ci, ox, oy, bi) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
                        let mut best = f64::NEG_INFINITY;
                        for (y, x) in
                            (0..side * side).map(|p| (oy * stride + p / side, ox * stride + p % side))
                        {
                            if y >= padding && x >= padding && y - padding < h && x - padding < w {
                                best = best.max(v[0][((bi * h + y - padding) * w + x - padding) * c + ci]);
                            }
                        }
                        best
                    })
                    .collect()
            };
            let x = tensor(&numbers(b * h * w * c, side as u64), &[b, h, w, c]).unwrap();
            check_gradients(&[x], &|t| max_pool(&t[0], window), &naive);
        }
    }

    #[test]
    fn mean_and_flatten_match_plain_loops() {
        let (b, h, w, c) = (2, 3, 5, 4);
        let x = [tensor(&numbers(b * h * w * c, 4), &[b, h, w, c]).unwrap()];
        check_gradients(&x, &|t| global_mean(&t[0]), &|v| {
            (0..b * c)
                .map(|i| {
                    (0..h * w).map(|p| v[0][(i / c * h * w + p) * c + i % c]).sum::<f64>() / (h * w) as f64
                })
                .collect()
        });
        check_gradients(&x, &|t| flatten(&t[0]), &|v| {
            (0..b * c * h * w)
                .map(|i| v[0][(i / (c * h * w) * h * w + i % (h * w)) * c + i / (h * w) % c])
                .collect()
        });
    }

    #[test]
    fn not_a_number_is_passed_on() {
        let x = tensor(&[1.0, f32::NAN, 3.0, 4.0], &[1, 2, 2, 1]).unwrap();
        assert!(to_vec(&max_pool(&x, HALVE).unwrap()).unwrap()[0].is_nan());
    }
}
