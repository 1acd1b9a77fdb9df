//! A gradient that is formed where it shall lie in the end.
//!
//! The gradient of a fully connected layer's weight is as large as the weight; the factors that it is a product
//! of are small if the batch is. So every shard hands these over, and the flat gradient is written once, by
//! all threads, instead of written, added up and copied. An element is the sum over all examples, in order.

use super::buffer::Buffer;
use super::ops::gemm::{Matrix, Target, product};
use super::shards::Runner;
use super::tensor::Tensor;
use std::sync::OnceLock;

/// The sum of the products of its terms.
#[derive(Debug)]
pub(super) struct Late {
    /// `[.., rows]` and `[.., columns]`: the first one's transpose times the second.
    terms: Vec<[Tensor; 2]>,
    rows: usize,
    columns: usize,
    /// The product, if somebody wanted to look at it.
    formed: OnceLock<Buffer>,
}

impl Late {
    /// Whether factors with so many terms to sum are smaller than the product.
    pub(super) fn pays([rows, columns]: [usize; 2], terms: usize) -> bool {
        terms.saturating_mul(rows + columns) <= rows * columns
    }

    /// `leftᵀ · right`, of so many rows and columns.
    pub(super) fn new(left: Tensor, right: Tensor, [rows, columns]: [usize; 2]) -> Self {
        Self { terms: vec![[left, right]], rows, columns, formed: OnceLock::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// The sum of both, `other`'s terms last; `None` if so many factors are larger than the product.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        let terms: Vec<_> = self.terms.iter().chain(&other.terms).cloned().collect();
        let all = terms.iter().map(|[_, right]| right.len() / self.columns).sum();
        let pays = Self::pays([self.rows, self.columns], all);
        pays.then(|| Self { terms, formed: OnceLock::new(), ..*self })
    }

    pub(super) fn values(&self) -> &[f32] {
        self.formed.get_or_init(|| {
            let mut values = Buffer::any(self.len());
            self.form(&mut values, &Runner::new(1));
            values
        })
    }

    pub(super) fn into_buffer(self) -> Buffer {
        self.values();
        self.formed.into_inner().unwrap_or_default()
    }

    /// Overwrites `to`.
    pub(super) fn write(&self, to: &mut [f32], runner: &Runner) {
        match self.formed.get() {
            Some(values) => to.copy_from_slice(values),
            None => self.form(to, runner),
        }
    }

    fn form(&self, to: &mut [f32], runner: &Runner) {
        let joined;
        let [left, right] = match &self.terms[..] {
            [[left, right]] => [left.values(), right.values()],
            terms => {
                joined = [0, 1].map(|side| join(terms.iter().map(|term| term[side].values())));
                [&joined[0][..], &joined[1][..]]
            }
        };
        let (height, width) = (self.rows, self.columns);
        runner.split(to, width, |rows, to| {
            product(
                [rows.len(), width, right.len() / width],
                Target::replace(to, width),
                Matrix::columns(&left[rows.start..], height),
                Matrix::rows(right, width),
            );
        });
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone) -> Buffer {
    let mut all = Buffer::any(parts.clone().map(<[f32]>::len).sum());
    let mut rest = &mut all[..];
    for part in parts {
        let (to, tail) = rest.split_at_mut(part.len());
        to.copy_from_slice(part);
        rest = tail;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{assert_close, numbers, tensor};

    #[test]
    fn a_sum_of_products_is_the_same_however_it_is_formed() {
        let (rows, columns) = (97, 10_815);
        for terms in [vec![1], vec![10], vec![13, 12], vec![7, 1, 20]] {
            let factor = |n, width, seed| tensor(&numbers(n * width, seed), &[n, width]).unwrap();
            let parts = || {
                let part = |(i, n): (usize, &usize)| {
                    Late::new(factor(*n, rows, i as u64), factor(*n, columns, 9), [rows, columns])
                };
                terms.iter().enumerate().map(part)
            };
            let sum = || parts().reduce(|sum, part| sum.plus(&part).unwrap()).unwrap();
            let mut want = vec![0.0f64; rows * columns];
            for part in parts() {
                let [left, right] = &part.terms[0];
                for (left, right) in left.values().chunks(rows).zip(right.values().chunks(columns)) {
                    for (row, l) in want.chunks_mut(columns).zip(left) {
                        row.iter_mut().zip(right).for_each(|(v, r)| *v += f64::from(*l) * f64::from(*r));
                    }
                }
            }
            let looked_at = sum();
            assert_close(looked_at.values(), &want, 1e-5);
            for threads in [1, 2, 3] {
                let mut to = vec![f32::NAN; rows * columns];
                sum().write(&mut to, &Runner::new(threads));
                assert_eq!(to, looked_at.values());
            }
            let mut to = vec![f32::NAN; rows * columns];
            looked_at.write(&mut to, &Runner::new(1));
            assert_eq!(to, *looked_at.into_buffer());
        }
    }

    #[test]
    fn factors_that_are_larger_than_their_product_are_not_kept() {
        let late = |n| {
            let factor = |width: usize| Tensor::new(vec![1.0; n * width], &[n, width]);
            Late::new(factor(6), factor(12), [6, 12])
        };
        assert!(Late::pays([6, 12], 4) && !Late::pays([6, 12], 5));
        assert_eq!(late(3).plus(&late(1)).unwrap().values(), [4.0; 72]);
        assert!(late(3).plus(&late(2)).is_none());
    }
}
