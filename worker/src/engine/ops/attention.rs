//! Causal self-attention on packed queries, keys and values.

use super::gemm::{Matrix, Target, product};
use super::math;
use crate::engine::buffer::Buffer;
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor, bail};

#[derive(Debug)]
struct Attention {
    heads: usize,
    /// Attention weights `[b, heads, t, t]` of the forward pass.
    weights: Buffer,
}

/// `packed` is `[b, t, 3 · width]` (queries, keys, values; each `heads` runs of `width / heads`); the
/// result is `[b, t, width]`. Position `i` attends to positions up to `i`.
pub(in crate::engine) fn causal_attention(packed: &Tensor, heads: usize) -> Result<Tensor> {
    apply(Attention { heads, weights: Buffer::default() }, &[packed])
}

/// One sequence's sizes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    length: usize,
    width: usize,
    head: usize,
}

impl Sizes {
    fn new(packed: &Tensor, heads: usize) -> Result<Self> {
        let [batch, length, packed] = packed.dims()?;
        if !packed.is_multiple_of(3 * heads) {
            bail!("attention: {packed} does not divide into three times {heads} heads");
        }
        Ok(Self { batch, length, width: packed / 3, head: packed / 3 / heads })
    }

    fn scale(self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }
}

/// Turns each row's first `i + 1` scores into weights that sum to 1 and zeroes the rest.
#[inline(always)]
fn causal_softmax(scores: &mut [f32], length: usize, scale: f32) {
    for (i, row) in scores.chunks_exact_mut(length).enumerate() {
        let (seen, unseen) = row.split_at_mut(i + 1);
        let largest = seen.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        for v in seen.iter_mut() {
            *v = math::exp((*v - largest) * scale);
        }
        let inverse = 1.0 / math::sum(seen);
        for v in seen.iter_mut() {
            *v *= inverse;
        }
        unseen.fill(0.0);
    }
}

/// Turns gradients of weights into gradients of scores, in place.
#[inline(always)]
fn softmax_gradient(gradient: &mut [f32], weights: &[f32], length: usize, scale: f32) {
    for (d, p) in gradient.chunks_exact_mut(length).zip(weights.chunks_exact(length)) {
        let mean = math::sum_pairs(d, p, |d, p| d * p);
        for (d, p) in d.iter_mut().zip(p) {
            *d = p * (*d - mean) * scale;
        }
    }
}

impl Operation for Attention {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let s = Sizes::new(inputs[0], self.heads)?;
        let (t, width, head, row) = (s.length, s.width, s.head, 3 * s.width);
        let mut y = Buffer::any(s.batch * t * width);
        let mut weights = Buffer::any(s.batch * self.heads * t * t);
        let sequences = inputs[0].values().chunks_exact(t * row).zip(y.chunks_exact_mut(t * width));
        for ((x, y), weights) in sequences.zip(weights.chunks_exact_mut(self.heads * t * t)) {
            for (h, p) in weights.chunks_exact_mut(t * t).enumerate() {
                let (q, k, v) = (&x[h * head..], &x[width + h * head..], &x[2 * width + h * head..]);
                let scores = Target::replace(p, t);
                product([t, t, head], scores, Matrix::rows(q, row), Matrix::columns(k, row));
                math::vectorised(
                    #[inline(always)]
                    || causal_softmax(p, t, s.scale()),
                );
                let mixed = Target::replace(&mut y[h * head..], width);
                product([t, head, t], mixed, Matrix::rows(p, t), Matrix::rows(v, row));
            }
        }
        self.weights = weights;
        Ok(Tensor::new(y, &[s.batch, t, width]))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let s = Sizes::new(x, self.heads)?;
        let (t, width, head, row) = (s.length, s.width, s.head, 3 * s.width);
        let (xs, dy) = (x.values(), gradient.values());
        let mut dx = Buffer::any(xs.len());
        let mut scores = Buffer::any(t * t);
        let sequences = xs.chunks_exact(t * row).zip(dy.chunks_exact(t * width));
        let sequences = sequences.zip(self.weights.chunks_exact(self.heads * t * t));
        for (((x, dy), weights), dx) in sequences.zip(dx.chunks_exact_mut(t * row)) {
            for (h, p) in weights.chunks_exact(t * t).enumerate() {
                let (q, k, v) = (h * head, width + h * head, 2 * width + h * head);
                let dy = &dy[h * head..];
                let target = Target::replace(&mut dx[v..], row);
                product([t, head, t], target, Matrix::columns(p, t), Matrix::rows(dy, width));
                let target = Target::replace(&mut scores, t);
                product([t, t, head], target, Matrix::rows(dy, width), Matrix::columns(&x[v..], row));
                math::vectorised(
                    #[inline(always)]
                    || softmax_gradient(&mut scores, p, t, s.scale()),
                );
                let target = Target::replace(&mut dx[q..], row);
                product([t, head, t], target, Matrix::rows(&scores, t), Matrix::rows(&x[k..], row));
                let target = Target::replace(&mut dx[k..], row);
                product([t, head, t], target, Matrix::columns(&scores, t), Matrix::rows(&x[q..], row));
            }
        }
        Ok(vec![Some(Tensor::new(dx, x.shape()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{check_gradients, numbers, shapes, tensor};

    fn naive(x: &[f64], [b, t, width, heads]: [usize; 4]) -> Vec<f64> {
        let head = width / heads;
        let mut y = vec![0.0; b * t * width];
        for (bi, h, i) in (0..b * heads * t).map(|n| (n / t / heads, n / t % heads, n % t)) {
            let at =
                |p: usize, part: usize, j: usize| x[(bi * t + p) * 3 * width + part * width + h * head + j];
            let score =
                |p: usize| (0..head).map(|j| at(i, 0, j) * at(p, 1, j)).sum::<f64>() / (head as f64).sqrt();
            let total: f64 = (0..=i).map(|p| score(p).exp()).sum();
            for j in 0..head {
                y[(bi * t + i) * width + h * head + j] =
                    (0..=i).map(|p| score(p).exp() / total * at(p, 2, j)).sum();
            }
        }
        y
    }

    fn check(case: [usize; 4]) {
        let [b, t, width, heads] = case;
        let x = [tensor(&numbers(b * t * 3 * width, t as u64), &[b, t, 3 * width]).unwrap()];
        check_gradients(&x, &|v| causal_attention(&v[0], heads), &|v| naive(&v[0], case));
    }

    #[test]
    fn matches_plain_loops_and_differences() {
        for case in [[2, 3, 4, 2], [1, 7, 6, 3], [2, 9, 10, 2]] {
            check(case);
        }
    }

    #[test]
    fn random_shapes_match_plain_loops_and_differences() {
        shapes(16, &(1..=2_usize, 1..=7_usize, 1..=4_usize, 1..=3_usize), |(b, t, head, heads)| {
            check([b, t, head * heads, heads]);
        });
    }

    #[test]
    fn later_positions_do_not_matter() {
        let mut x = numbers(5 * 12, 3);
        let first = causal_attention(&tensor(&x, &[1, 5, 12]).unwrap(), 2).unwrap();
        x[4 * 12..].iter_mut().for_each(|v| *v += 1.0);
        let second = causal_attention(&tensor(&x, &[1, 5, 12]).unwrap(), 2).unwrap();
        let (first, second) = (first.values(), second.values());
        assert_eq!(first[..16], second[..16]);
        assert_ne!(first[16..], second[16..]);
    }
}
