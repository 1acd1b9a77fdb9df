//! Fully connected layer `y = x Wᵀ + b`, with the rectifier fused in when asked for.

use super::gemm::{Matrix, Target, product};
use super::{column_sums, math, rectify, rectify_gradient, square, weigh};
use crate::engine::buffer::Buffer;
use crate::engine::cuda;
use crate::engine::late::Late;
use crate::engine::tape::{Operation, Split, apply};
use crate::engine::tensor::{Result, Tensor, bail};

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
        Some(bias) => apply(Linear { relu }, &[x, weight, bias]),
        None => apply(Linear { relu }, &[x, weight]),
    }
}

impl Operation for Linear {
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        Some(Box::new(cuda::ops::linear::Linear::new(self.relu)))
    }

    fn forward(&mut self, operands: &[&Tensor]) -> Result<Tensor> {
        let (x, weight) = (operands[0], operands[1]);
        let [outputs, inputs] = weight.dims()?;
        let mut shape = x.shape().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => bail!("linear: input {:?} does not end in {inputs}", x.shape()),
        }
        let rows = x.len() / inputs;
        let mut y = Buffer::any(rows * outputs);
        let size = [rows, outputs, inputs];
        let (left, right) = (Matrix::rows(x.values(), inputs), Matrix::columns(weight.values(), inputs));
        if let Some(bias) = operands.get(2) {
            y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias.values()));
            product(size, Target::add(&mut y, outputs), left, right);
        } else {
            product(size, Target::replace(&mut y, outputs), left, right);
        }
        if self.relu {
            math::vectorised(
                #[inline(always)]
                || rectify(&mut y),
            );
        }
        Ok(Tensor::new(y, &shape))
    }

    fn backward(
        &self,
        operands: &[Tensor],
        result: &Tensor,
        gradient: Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut dy = gradient.into_buffer();
        if self.relu {
            rectify_gradient(&mut dy, result.values());
        }
        let dx = input_gradient(operands, &dy);
        let (x, weight) = (&operands[0], &operands[1]);
        let size = weight.dims()?;
        if !(weight.is_leaf() && Late::pays(size, x.len() / size[1])) {
            let parameters = parameter_gradients(operands, &dy).into_iter().map(Some);
            return Ok(std::iter::once(dx).chain(parameters).collect());
        }
        let bias = operands.get(2).map(|bias| Tensor::new(column_sums(&dy, size[0]), bias.shape()));
        let dy = Tensor::new(dy, result.shape());
        let dw = Tensor::of_late(Late::new(dy, x.clone(), size), weight.shape());
        Ok([dx, Some(dw)].into_iter().chain(bias.map(Some)).collect())
    }

    fn split(
        &self,
        operands: &[Tensor],
        result: &Tensor,
        gradient: &Tensor,
        examples: usize,
    ) -> Result<Option<Split>> {
        let (x, weight) = (operands[0].values(), &operands[1]);
        let [outputs, inputs] = weight.dims()?;
        if x.len() != examples * inputs {
            // Several rows for an example: its terms may cancel, and one pass for each is right.
            return Ok(None);
        }
        let mut dy = Buffer::copy(gradient.values());
        if self.relu {
            rectify_gradient(&mut dy, result.values());
        }
        // The gradient of the weight is an outer product, whose norm needs no product (Goodfellow 2015,
        // arXiv:1510.01799).
        let plus = if operands.len() > 2 { 1.0 } else { 0.0 };
        let shares = x.chunks_exact(inputs).zip(dy.chunks_exact(outputs));
        let squares = shares.map(|(x, dy)| square(dy) * (square(x) + plus)).collect();
        let input = input_gradient(operands, &dy);
        let operands = operands.to_vec();
        let weighted = Box::new(move |factors: &[f32]| {
            weigh(&mut dy, factors);
            parameter_gradients(&operands, &dy)
        });
        Ok(Some(Split { input, squares, weighted }))
    }
}

fn input_gradient(operands: &[Tensor], dy: &[f32]) -> Option<Tensor> {
    let (x, weight) = (&operands[0], &operands[1]);
    x.tracked().then(|| {
        let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
        let mut dx = Buffer::any(x.len());
        product(
            [x.len() / inputs, inputs, outputs],
            Target::replace(&mut dx, inputs),
            Matrix::rows(dy, outputs),
            Matrix::rows(weight.values(), inputs),
        );
        Tensor::new(dx, x.shape())
    })
}

/// Gradients of weight and, where there is one, bias.
fn parameter_gradients(operands: &[Tensor], dy: &[f32]) -> Vec<Tensor> {
    let (x, weight) = (&operands[0], &operands[1]);
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    let mut dw = Buffer::any(outputs * inputs);
    product(
        [outputs, inputs, x.len() / inputs],
        Target::replace(&mut dw, inputs),
        Matrix::columns(dy, outputs),
        Matrix::rows(x.values(), inputs),
    );
    let bias = operands.get(2).map(|bias| Tensor::new(column_sums(dy, outputs), bias.shape()));
    std::iter::once(Tensor::new(dw, weight.shape())).chain(bias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};

    fn check([rows, k, n]: [usize; 3], relu: bool, biased: bool) {
        let reference = |v: &[Vec<f64>]| -> Vec<f64> {
            let one = |i: usize| {
                let (r, c) = (i / n, i % n);
                let sum = (0..k).map(|p| v[0][r * k + p] * v[1][c * k + p]).sum::<f64>();
                let y = sum + v.get(2).map_or(0.0, |bias| bias[c]);
                if relu { y.max(0.0) } else { y }
            };
            (0..rows * n).map(one).collect()
        };
        let ours = |t: &[Tensor]| linear(&t[0], &t[1], t.get(2), relu);
        let inputs = [
            tensor(&numbers(rows * k, 1), &[rows, k]).unwrap(),
            tensor(&numbers(n * k, 2), &[n, k]).unwrap(),
            tensor(&numbers(n, 3), &[n]).unwrap(),
        ];
        check_gradients(&inputs[..2 + usize::from(biased)], &ours, &reference);
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        for case in [[1, 3, 2], [4, 7, 5], [3, 33, 17]] {
            for (relu, biased) in [(false, true), (true, true), (true, false)] {
                check(case, relu, biased);
            }
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        shapes(
            24,
            &(1..=7_usize, 1..=20_usize, 1..=20_usize, proptest::bool::ANY),
            |(rows, k, n, biased)| {
                check([rows, k, n], false, biased);
            },
        );
    }

    #[test]
    fn wrong_width_is_an_error() {
        let (x, w) = (tensor(&[0.0; 6], &[2, 3]).unwrap(), tensor(&[0.0; 4], &[1, 4]).unwrap());
        assert!(linear(&x, &w, None, false).unwrap_err().to_string().contains("does not end in 4"));
    }
}
