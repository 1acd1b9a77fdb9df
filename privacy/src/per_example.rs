//! The clipped sum of DP-SGD (Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang 2016): each
//! example's gradient is shortened by itself, before the sum.
//!
//! Two ways. [`ClippedSum`] takes gradients one by one onto the grid: the sum is exact and its
//! sensitivity an integer. [`factor`] and [`norms`] serve an engine that knows the norms without the
//! gradients ("ghost norms") or holds a batch of gradients as one matrix, and weighs the examples in a
//! second pass: the float sum is then rounded to the grid, and
//! [`Grid::loose_variance`](crate::Grid::loose_variance) pays for what floats may do to it.

use crate::{ClipNorm, Grid, NotFinite, ParameterError, parameters::require};

/// The weight in (0, 1] that shortens a vector of this squared norm to the bound, a little below it for
/// the rounding of the product.
///
/// # Errors
/// If the squared norm is not a finite number from 0.
pub fn factor(square: f64, bound: ClipNorm) -> Result<f64, ParameterError> {
    require(square.is_finite() && square >= 0.0, "square", square, "a finite squared norm from 0")?;
    let norm = square.sqrt();
    Ok((bound.get() * (1.0 - 1.0 / 1_048_576.0) / norm).min(1.0))
}

/// L2 norms of the rows of a matrix of gradients, one example a row.
///
/// # Panics
/// If the length is not a multiple of `parameters`.
pub fn norms(gradients: &[f32], parameters: usize) -> Vec<f64> {
    assert!(parameters > 0 && gradients.len().is_multiple_of(parameters), "norms: rows of unequal length");
    gradients.chunks(parameters).map(crate::clip::l2_norm).collect()
}

/// The sum of the clipped gradients of a batch, in quanta of a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct ClippedSum {
    grid: Grid,
    sum: Vec<i64>,
    scratch: Vec<f32>,
    examples: u64,
    clipped: u64,
}

impl ClippedSum {
    /// An empty sum over this many parameters.
    pub fn new(grid: Grid, parameters: usize) -> Self {
        Self { grid, sum: vec![0; parameters], scratch: vec![0.0; parameters], examples: 0, clipped: 0 }
    }

    /// Adds the gradient of one example, clipped. Returns the factor that it was multiplied by.
    ///
    /// # Errors
    /// If an element is not finite; then nothing was added.
    ///
    /// # Panics
    /// If the length is not the number of parameters.
    pub fn add(&mut self, gradient: &[f32]) -> Result<f64, NotFinite> {
        self.scratch.copy_from_slice(gradient);
        let factor = self.grid.clip(&mut [&mut self.scratch])?;
        let inverse = 1.0 / self.grid.quantum();
        for (sum, x) in self.sum.iter_mut().zip(&self.scratch) {
            *sum += (f64::from(*x) * inverse) as i64;
        }
        self.examples += 1;
        self.clipped += u64::from(factor < 1.0);
        Ok(factor)
    }

    /// Adds the sum of another part of the batch: parts may be summed by different threads, since whole
    /// numbers add up the same in any order.
    ///
    /// # Panics
    /// If it is of another grid or length.
    pub fn merge(&mut self, other: &Self) {
        assert!(self.grid == other.grid && self.sum.len() == other.sum.len(), "merge: different sums");
        self.sum.iter_mut().zip(&other.sum).for_each(|(sum, x)| *sum += x);
        self.examples += other.examples;
        self.clipped += other.clipped;
    }

    /// The sum, for the noise to be added to.
    pub fn sum_mut(&mut self) -> &mut [i64] {
        &mut self.sum
    }

    /// The mean gradient over the *expected* size of a batch; dividing by the size that it had would tell
    /// who was drawn, and change the sensitivity.
    ///
    /// # Errors
    /// If `expected` is not a finite number above 0.
    pub fn mean(&self, expected: f64) -> Result<Vec<f32>, ParameterError> {
        require(expected.is_finite() && expected > 0.0, "expected", expected, "a finite number above 0")?;
        let unit = self.grid.quantum() / expected;
        Ok(self.sum.iter().map(|x| (*x as f64 * unit) as f32).collect())
    }

    /// Number of examples. Not to be released: it is not paid for.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Number of examples that were shortened. Not to be released either.
    pub fn clipped(&self) -> u64 {
        self.clipped
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn grid(norm: f64) -> Grid {
        Grid::new(ClipNorm::new(norm).unwrap(), NonZeroU64::new(3).unwrap()).unwrap()
    }

    #[test]
    fn one_example_moves_the_sum_by_at_most_the_norm() {
        let mut sum = ClippedSum::new(grid(1.0), 3);
        let before = sum.clone();
        assert_eq!(sum.add(&[0.25, 0.0, -0.5]).unwrap(), 1.0);
        assert!((sum.add(&[30.0, 40.0, 0.0]).unwrap() - 0.02).abs() < 1e-5);
        let mean = sum.mean(2.0).unwrap();
        for (got, want) in mean.iter().zip([0.425, 0.4, -0.25]) {
            assert!((got - want).abs() < 1e-4, "{mean:?}");
        }
        assert_eq!((sum.examples(), sum.clipped()), (2, 1));
        let mut parts = before.clone();
        let mut other = before;
        parts.add(&[30.0, 40.0, 0.0]).unwrap();
        other.add(&[0.25, 0.0, -0.5]).unwrap();
        parts.merge(&other);
        assert_eq!(parts.sum_mut(), sum.sum_mut());
        assert_eq!(sum.add(&[0.0, f32::NAN, 0.0]), Err(NotFinite { index: 1 }));
        assert_eq!(sum.examples(), 2);
        assert!(sum.mean(0.0).is_err());
    }

    #[test]
    fn factors_from_norms_keep_to_the_bound() {
        let bound = ClipNorm::new(2.0).unwrap();
        assert_eq!(factor(0.0, bound), Ok(1.0));
        assert_eq!(factor(3.0, bound), Ok(1.0));
        let weight = factor(100.0, bound).unwrap();
        assert!(weight * 10.0 <= 2.0 && weight * 10.0 > 1.99999);
        assert!(factor(f64::NAN, bound).is_err() && factor(-1.0, bound).is_err());
        assert_eq!(norms(&[3.0, 4.0, 0.0, 1.0], 2), [5.0, 1.0]);
    }
}
