//! Matrices of low rank: singular values are shrunk layer by layer, and what is left travels as factors.
//!
//! A linear layer `[o, i]` is its matrix. A convolution `[n, m, h, w]` is the matrix of `n·h` rows and `m·w`
//! columns in which the filter's rows go with its outputs and its columns with its inputs (the order of axes
//! `n, h, m, w`), as in FedSLR's code. What has one dimension stays as it is.
//!
//! The model *is* the product of its factors as they are sent: both sides multiply them in the same order, so
//! that a worker that receives factors has the coordinator's bytes.

use crate::Scalar;
use nalgebra::DMatrix;

/// In the place of a rank: the tensor follows as it is.
const DENSE: f64 = -1.0;
/// Iterations of the singular value decomposition for each row or column.
const ITERATIONS: usize = 200;

/// A tensor as a matrix.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Outputs, rows of a filter, inputs, columns of a filter.
    n: usize,
    h: usize,
    m: usize,
    w: usize,
}

impl View {
    fn of(shape: &[usize]) -> Option<Self> {
        match *shape {
            [n, m] => Some(Self { n, h: 1, m, w: 1 }),
            [n, m, h, w] => Some(Self { n, h, m, w }),
            _ => None,
        }
    }

    fn rows(&self) -> usize {
        self.n * self.h
    }

    fn columns(&self) -> usize {
        self.m * self.w
    }

    /// Where a matrix element lies in the tensor.
    fn place(&self, row: usize, column: usize) -> usize {
        let (output, top, input, left) = (row / self.h, row % self.h, column / self.w, column % self.w);
        ((output * self.m + input) * self.h + top) * self.w + left
    }
}

/// Two thin matrices, row-major: `rows × rank` and `rank × columns`.
struct Factors<S> {
    rank: usize,
    left: Vec<S>,
    right: Vec<S>,
}

impl<S: Scalar> Factors<S> {
    /// The product, put into the tensor's order.
    fn multiply(&self, view: View, tensor: &mut [S]) {
        let columns = view.columns();
        let mut line = vec![S::ZERO; columns];
        for (row, left) in self.left.chunks_exact(self.rank.max(1)).enumerate() {
            line.fill(S::ZERO);
            for (l, right) in left.iter().zip(self.right.chunks_exact(columns.max(1))) {
                crate::axpy(&mut line, *l, right);
            }
            for (column, value) in line.iter().enumerate() {
                tensor[view.place(row, column)] = *value;
            }
        }
        if self.rank == 0 {
            tensor.fill(S::ZERO);
        }
    }
}

/// `U √S'` and `√S' Vᵀ` of a matrix, `S' = max(S − τ, 0)` without its zeros; `None`: no decomposition was found,
/// as for what is not finite.
fn shrink<S: Scalar>(view: View, tensor: &[S], tau: f64) -> Option<Factors<S>> {
    if tensor.iter().any(|value| !value.wide().is_finite()) {
        return None;
    }
    let matrix =
        DMatrix::from_fn(view.rows(), view.columns(), |row, column| tensor[view.place(row, column)].wide());
    let most = ITERATIONS * view.rows().max(view.columns());
    let svd = matrix.try_svd(true, true, f64::EPSILON * 5.0, most)?;
    let (u, vt) = (svd.u?, svd.v_t?);
    let roots: Vec<f64> = svd.singular_values.iter().map(|s| (s - tau).max(0.0).sqrt()).collect();
    let kept: Vec<usize> = (0..roots.len()).filter(|k| roots[*k] > 0.0).collect();
    let left = (0..view.rows()).flat_map(|row| kept.iter().map(move |k| (row, *k)));
    let right = kept.iter().flat_map(|k| (0..view.columns()).map(move |column| (*k, column)));
    Some(Factors {
        rank: kept.len(),
        left: left.map(|(row, k)| S::of(u[(row, k)] * roots[k])).collect(),
        right: right.map(|(k, column)| S::of(roots[k] * vt[(k, column)])).collect(),
    })
}

/// Shrinks the singular values of each matrix of `w` by `tau`, in place. Gives what the result is made from:
/// for each tensor its rank and its factors, or [`DENSE`] and its values where that is not more.
pub(crate) fn threshold<S: Scalar>(w: &mut [S], shapes: &[Vec<usize>], tau: f64) -> Vec<S> {
    let (mut packed, mut rest) = (Vec::new(), w);
    for shape in shapes {
        let length = shape.iter().product::<usize>();
        let (tensor, tail) = rest.split_at_mut(length);
        rest = tail;
        let found = View::of(shape).and_then(|view| Some((view, shrink(view, tensor, tau)?)));
        let Some((view, factors)) = found else {
            packed.push(S::of(DENSE));
            packed.extend_from_slice(tensor);
            continue;
        };
        factors.multiply(view, tensor);
        if factors.rank * (view.rows() + view.columns()) < length {
            packed.push(S::of(factors.rank as f64));
            packed.extend(factors.left);
            packed.extend(factors.right);
        } else {
            packed.push(S::of(DENSE));
            packed.extend_from_slice(tensor);
        }
    }
    packed
}

/// The model from what [`threshold`] gave; `None` if it is not of these shapes.
pub(crate) fn rebuild<S: Scalar>(packed: &[S], shapes: &[Vec<usize>]) -> Option<Vec<S>> {
    let mut w = Vec::new();
    let mut rest = packed;
    for shape in shapes {
        let length = shape.iter().product::<usize>();
        let (rank, tail) = rest.split_first()?;
        rest = tail;
        if *rank == S::of(DENSE) {
            let (tensor, tail) = rest.split_at_checked(length)?;
            w.extend_from_slice(tensor);
            rest = tail;
            continue;
        }
        let view = View::of(shape)?;
        let most = view.rows().min(view.columns()) as f64;
        let rank =
            Some(rank.wide()).filter(|rank| (0.0..=most).contains(rank) && rank.fract() == 0.0)? as usize;
        let (left, tail) = rest.split_at_checked(rank * view.rows())?;
        let (right, tail) = tail.split_at_checked(rank * view.columns())?;
        rest = tail;
        let at = w.len();
        w.resize(at + length, S::ZERO);
        Factors { rank, left: left.to_vec(), right: right.to_vec() }.multiply(view, &mut w[at..]);
    }
    rest.is_empty().then_some(w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{mix, unit};

    fn some(salt: u64, length: usize) -> Vec<f32> {
        (0..length as u64).map(|at| unit(mix(mix(salt) ^ at)) as f32 - 0.5).collect()
    }

    fn singular(view: View, tensor: &[f64]) -> Vec<f64> {
        let matrix = DMatrix::from_fn(view.rows(), view.columns(), |r, c| tensor[view.place(r, c)]);
        matrix.singular_values().iter().copied().collect()
    }

    #[test]
    fn the_golden_matrix() {
        // From the numpy reference.
        let mut w = [3.0_f64, 1.0, 0.0, 1.0, 2.0, 1.0];
        threshold(&mut w, &[vec![2, 3]], 0.5);
        let want = [
            2.507_413_185_662_312,
            0.969_304_400_630_814_6,
            0.080_100_003_246_025_46,
            0.985_324_401_280_020_7,
            1.570_148_786_329_907_3,
            0.745_024_391_541_940_1,
        ];
        for (got, want) in w.iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{w:?}");
        }
    }

    #[test]
    fn singular_values_are_shrunk_and_ranks_fall() {
        for shape in [vec![5, 7], vec![3, 4, 2, 3]] {
            let view = View::of(&shape).unwrap();
            let first: Vec<f64> = some(1, shape.iter().product()).into_iter().map(f64::from).collect();
            let before = singular(view, &first);
            let mut last = usize::MAX;
            for tau in [0.01, 0.3, 0.8, 100.0] {
                let mut w = first.clone();
                threshold(&mut w, std::slice::from_ref(&shape), tau);
                let after = singular(view, &w);
                for (before, after) in before.iter().zip(&after) {
                    assert!(((before - tau).max(0.0) - after).abs() < 1e-12, "{tau}: {before} {after}");
                }
                let rank = after.iter().filter(|s| **s > 1e-12).count();
                assert!(rank <= last, "{tau}");
                last = rank;
            }
            assert_eq!(last, 0);
        }
    }

    #[test]
    fn factors_rebuild_the_same_bytes() {
        let shapes = [vec![6], vec![20, 30], vec![8, 6, 3, 3], vec![2, 2]];
        let length = shapes.iter().map(|shape| shape.iter().product::<usize>()).sum();
        let mut sizes = Vec::new();
        for tau in [1e-3, 0.5, 1.0, 1.7, 1e9] {
            let mut w = some(4, length);
            let packed = threshold(&mut w, &shapes, tau);
            let bits = |w: &[f32]| w.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&rebuild(&packed, &shapes).unwrap()), bits(&w), "{tau}");
            sizes.push(packed.len());
        }
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert!(sizes[0] == length + shapes.len() && *sizes.last().unwrap() < 20, "{sizes:?}");
        assert!(sizes[3] < length, "{sizes:?}");
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let shapes = [vec![4, 5], vec![3]];
        let mut w = some(2, 23);
        let packed = threshold(&mut w, &shapes, 0.4);
        for cut in 0..packed.len() {
            assert_eq!(rebuild(&packed[..cut], &shapes), None);
        }
        assert_eq!(rebuild(&[packed.as_slice(), &[0.0]].concat(), &shapes), None);
        for rank in [0.5, 1e9, f32::NAN, -2.0] {
            assert_eq!(rebuild(&[&[rank], &packed[1..]].concat(), &shapes), None, "{rank}");
        }
        let mut bad = [f32::NAN; 4];
        assert_eq!(threshold(&mut bad, &[vec![2, 2]], 0.1)[0], -1.0, "no decomposition: as it is");
    }
}
