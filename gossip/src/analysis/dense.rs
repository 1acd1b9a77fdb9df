//! Square dense matrices of `f64`, as much of them as the analysis needs.

use crate::Mixing;

/// An n × n matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    pub(crate) n: usize,
    pub(crate) data: Vec<f64>,
}

impl Dense {
    pub(crate) fn identity(n: usize) -> Self {
        let mut data = vec![0.0; n * n];
        data.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        Self { n, data }
    }

    pub(crate) fn zeros(n: usize) -> Self {
        Self { n, data: vec![0.0; n * n] }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.data.chunks_exact(self.n.max(1))
    }

    /// `P · self`, in as many operations as `P` has entries a column.
    pub(crate) fn mixed(&self, mixing: &Mixing) -> Self {
        let mut out = Self::zeros(self.n);
        for (from, row) in self.rows().enumerate() {
            for share in mixing.column(from) {
                let target = &mut out.data[share.to * self.n..(share.to + 1) * self.n];
                target.iter_mut().zip(row).for_each(|(out, x)| *out += share.weight * x);
            }
        }
        out
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.n);
        for (out, row) in out.data.chunks_exact_mut(self.n.max(1)).zip(self.rows()) {
            for (factor, other) in row.iter().zip(other.rows()).filter(|(factor, _)| **factor != 0.0) {
                out.iter_mut().zip(other).for_each(|(out, x)| *out += factor * x);
            }
        }
        out
    }

    pub(crate) fn transposed(&self) -> Self {
        let data = (0..self.n * self.n).map(|at| self.data[(at % self.n) * self.n + at / self.n]).collect();
        Self { n: self.n, data }
    }

    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.data.iter_mut().zip(&other.data).for_each(|(x, other)| *x += other);
        self
    }

    /// `self − left 1ᵀ`: what is left of a product of column-stochastic matrices after its limit.
    pub(crate) fn minus_limit(mut self, left: &[f64]) -> Self {
        for (row, left) in self.data.chunks_exact_mut(self.n.max(1)).zip(left) {
            for x in row.iter_mut() {
                *x -= left;
            }
        }
        self
    }

    pub(crate) fn scale(&mut self, factor: f64) {
        for x in &mut self.data {
            *x *= factor;
        }
    }

    /// Frobenius norm.
    pub(crate) fn norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    pub(crate) fn trace(&self) -> f64 {
        self.data.iter().step_by(self.n + 1).sum()
    }
}
