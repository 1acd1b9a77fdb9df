//! Two-dimensional convolution of channels-last images by im2col and one matrix product per group of
//! images, with bias and rectifier fused in.
//!
//! Images lie as `[batch, height, width, channels]` and filters as `[filters, side, side, channels]`,
//! so that a patch consists of `side` contiguous runs and the product's result needs no reordering.

use super::gemm::{Matrix, Target, product};
use super::patches::{Geometry, Window};
use super::{add_rows, like, math, operand, output, rectified, values};
use crate::engine::tape::{apply2, apply3};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::borrow::Cow;

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
        Some(bias) => apply3(x, weight, bias, op),
        None => apply2(x, weight, op),
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
            math::vectorised(
                #[inline(always)]
                || match (bias, relu) {
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
                    (None, true) => y.iter_mut().for_each(|v| *v = v.max(0.0)),
                    (None, false) => {}
                },
            );
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
                    math::vectorised(
                        #[inline(always)]
                        || g.scatter(patches, image),
                    );
                }
            }
        }
        let input = if wanted { like(dx, x)? } else { None };
        Ok(Gradients { input, weight: like(dw, weight)?, bias })
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
