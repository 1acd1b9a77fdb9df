//! Fully connected layer `y = x Wᵀ + b`, with the rectifier fused in when asked for.

use super::gemm::{Matrix, Target, product};
use super::{add_rows, like, operand, output, rectified, rectify, values};
use crate::engine::tape::{apply2, apply3};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::borrow::Cow;

#[derive(Debug, Clone, Copy)]
struct Linear {
    relu: bool,
}

/// `x` is `[.., k]`, `weight` `[n, k]`, `bias` `[n]`; the result is `[.., n]`.
pub(in crate::engine) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    match bias {
        Some(bias) => apply3(x, weight, bias, Linear { relu }),
        None => apply2(x, weight, Linear { relu }),
    }
}

impl Linear {
    fn forward(self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
        let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
        let mut y = vec![0.0; rows * outputs];
        let size = [rows, outputs, inputs];
        let (left, right) = (Matrix::rows(x, inputs), Matrix::columns(weight, inputs));
        if let Some(bias) = bias {
            y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
            product(size, Target::add(&mut y, outputs), left, right);
        } else {
            product(size, Target::replace(&mut y, outputs), left, right);
        }
        if self.relu {
            rectify(&mut y);
        }
        y
    }

    /// Gradients of input (if it is wanted), weight and bias.
    fn backward(self, x: &Tensor, weight: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (outputs, inputs) = weight.dims2()?;
        let grad = grad.contiguous()?;
        let (xs, ws, g) = (values(x)?, values(weight)?, values(&grad)?);
        let g: Cow<'_, [f32]> =
            if self.relu { rectified(&g, &values(res)?).into() } else { Cow::Borrowed(&g) };
        let rows = xs.len() / inputs;
        let mut bias = vec![0.0; outputs];
        add_rows(&mut bias, &g);
        let mut dw = vec![0.0; outputs * inputs];
        product(
            [outputs, inputs, rows],
            Target::replace(&mut dw, inputs),
            Matrix::columns(&g, outputs),
            Matrix::rows(&xs, inputs),
        );
        let input = if x.track_op() {
            let mut dx = vec![0.0; xs.len()];
            product(
                [rows, inputs, outputs],
                Target::replace(&mut dx, inputs),
                Matrix::rows(&g, outputs),
                Matrix::rows(&ws, inputs),
            );
            like(dx, x)?
        } else {
            None
        };
        Ok(Gradients { input, weight: like(dw, weight)?, bias })
    }
}

struct Gradients {
    input: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Vec<f32>,
}

fn shape(x: &Layout, weight: &Layout) -> Result<(usize, Shape)> {
    let (outputs, inputs) = weight.shape().dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => candle_core::bail!("linear: input {:?} does not end in {inputs}", x.dims()),
    }
    Ok((inputs, dims.into()))
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (inputs, shape) = shape(xl, wl)?;
        output(self.forward(operand(x, xl)?, operand(w, wl)?, Some(operand(b, bl)?), inputs), shape)
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

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear-no-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, shape) = shape(xl, wl)?;
        output(self.forward(operand(x, xl)?, operand(w, wl)?, None, inputs), shape)
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

    #[test]
    fn matches_plain_loops_and_differences() {
        for (case, &(rows, k, n)) in [(1, 3, 2), (4, 7, 5), (3, 33, 17)].iter().enumerate() {
            let (x, w, b) = (numbers(rows * k, 1), numbers(n * k, 2 + case as u64), numbers(n, 3));
            for (relu, biased) in [(false, true), (true, true), (true, false)] {
                let reference = |v: &[Vec<f64>]| -> Vec<f64> {
                    let mut y = vec![0.0; rows * n];
                    for (i, y) in y.iter_mut().enumerate() {
                        let (r, c) = (i / n, i % n);
                        *y = (0..k).map(|p| v[0][r * k + p] * v[1][c * k + p]).sum::<f64>()
                            + if biased { v[2][c] } else { 0.0 };
                        if relu {
                            *y = y.max(0.0);
                        }
                    }
                    y
                };
                let ours = |t: &[Tensor]| linear(&t[0], &t[1], t.get(2), relu);
                let inputs =
                    [tensor(&x, &[rows, k]), tensor(&w, &[n, k]), tensor(&b, &[n])].map(|t| t.unwrap());
                check_gradients(&inputs[..2 + usize::from(biased)], &ours, &reference);
            }
        }
    }

    #[test]
    fn wrong_width_is_an_error() {
        let (x, w) = (tensor(&[0.0; 6], &[2, 3]).unwrap(), tensor(&[0.0; 4], &[1, 4]).unwrap());
        assert!(linear(&x, &w, None, false).unwrap_err().to_string().contains("does not end in 4"));
    }
}
