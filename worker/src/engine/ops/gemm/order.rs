//! In which order a product of two plain matrices goes through panels, tiles and depth.
//!
//! A training step on a few examples multiplies them by matrices of weights that are larger than the caches, and
//! writes a gradient as large: what counts is that each of those passes by once. Every order sums the same
//! numbers in the same way, so that which one is taken never shows in a result.

use super::pack::{self, packed_length, panels};
use super::tile::{Kernel, ROWS_MAX, Tile};
use super::{DEPTH, Matrix, Target, left, multiply};
use crate::engine::buffer::Buffer;
use std::ops::Range;

/// Scalars of a factor that stay in the second cache while the other one passes by.
const NEAR: usize = 128 * 1_024;
/// Rows of a left factor up to which to read a right factor where it lies costs less than to pack it.
const FEW: usize = 64;

/// What is gone through from the outside to the inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Tiles of rows, then panels: for a destination that is large and of few terms, whose rows are so written
    /// from left to right while all of the right factor stays near.
    Rows,
    /// Panels, then depth, then tiles: for few rows, which stay near while the right factor passes by.
    Panels,
    /// Depth, then panels, then tiles: for two large factors.
    Depth,
}

impl Order {
    fn of([m, n, k]: [usize; 3]) -> Self {
        let near = |scalars| scalars <= NEAR;
        if k <= DEPTH && near(k * n) && !near(m * n) {
            Self::Rows
        } else if near(m * k) {
            Self::Panels
        } else {
            Self::Depth
        }
    }
}

/// `c = a · b` or `c += a · b`, with `size` `[m, n, k]`.
///
/// # Panics
/// If a slice is too short for its matrix.
pub(super) fn product(kernel: Kernel, size: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    in_order(Order::of(size), kernel, size, (c, a, b));
}

fn in_order(
    order: Order,
    kernel: Kernel,
    [m, n, k]: [usize; 3],
    (c, a, b): (Target<'_>, Matrix<'_>, Matrix<'_>),
) {
    a.check("left", m, k);
    b.check("right", k, n);
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!((m - 1) * c.stride + n <= c.data.len(), "destination too short");
    assert!(m == 1 || c.stride >= n, "rows of the destination overlap");
    let mut product = Product { kernel, m, c, a, b, panel: Buffer::default() };
    match order {
        Order::Rows => product.rows_first(n, k),
        Order::Panels => {
            for panel in panels(kernel, n) {
                depths(k).for_each(|depth| product.panel(panel, depth));
            }
        }
        Order::Depth => product.depth_first(n, k),
    }
}

/// What one pass takes of the depth.
fn depths(k: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(DEPTH);
    (0..count).map(move |i| k * i / count..k * (i + 1) / count)
}

struct Product<'a> {
    kernel: Kernel,
    m: usize,
    c: Target<'a>,
    a: Matrix<'a>,
    b: Matrix<'a>,
    /// Room for a panel that is packed.
    panel: Buffer,
}

/// Columns of the right factor for one panel's tiles.
#[derive(Clone, Copy)]
struct Columns<'a> {
    data: &'a [f32],
    /// Distance of rows, if they are not packed.
    apart: Option<usize>,
    first: usize,
    used: usize,
}

impl Product<'_> {
    /// For a depth of one pass.
    fn rows_first(&mut self, n: usize, k: usize) {
        let kernel = self.kernel;
        let mut packed = Buffer::any(packed_length(kernel, k, n));
        pack::pack(kernel, self.b, 0..k, n, &mut packed);
        for rows in self.tiles() {
            for (first, used, _) in panels(kernel, n) {
                let columns = Columns { data: &packed[first * k..], apart: None, first, used };
                self.tile(rows.clone(), columns, 0..k);
            }
        }
    }

    fn depth_first(&mut self, n: usize, k: usize) {
        let Self { kernel, m, a, .. } = *self;
        let mut packed = Buffer::any(packed_length(kernel, k.min(DEPTH), n));
        for depth in depths(k) {
            let packed = &mut packed[..packed_length(kernel, depth.len(), n)];
            pack::pack(kernel, self.b, depth.clone(), n, packed);
            let add = self.c.add || depth.start > 0;
            let target = Target { data: &mut *self.c.data, stride: self.c.stride, add };
            multiply(kernel, target, left(a, m, depth.len(), &[depth.start * a.column]), packed, n);
        }
    }

    /// The tiles of a panel, which is packed if it must be.
    fn panel(&mut self, (first, used, width): (usize, usize, usize), depth: Range<usize>) {
        let b = self.b;
        if b.column == 1 && used == width && self.m <= FEW {
            let columns =
                Columns { data: &b.data[depth.start * b.row + first..], apart: Some(b.row), first, used };
            return self.tiles().for_each(|rows| self.tile(rows, columns, depth.clone()));
        }
        let mut panel = std::mem::take(&mut self.panel);
        if panel.len() < depth.len() * width {
            panel = Buffer::any(depth.len() * 2 * self.kernel.lanes);
        }
        let rest = Matrix { data: &b.data[first * b.column..], ..b };
        pack::pack(self.kernel, rest, depth.clone(), used, &mut panel[..depth.len() * width]);
        let columns = Columns { data: &panel, apart: None, first, used };
        self.tiles().for_each(|rows| self.tile(rows, columns, depth.clone()));
        self.panel = panel;
    }

    /// The rows of the tiles.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (m, count) = (self.m, self.m.div_ceil(self.kernel.rows));
        (0..count).map(move |i| m * i / count..m * (i + 1) / count)
    }

    #[allow(unsafe_code, reason = "the kernel takes pointers; every bound is checked here")]
    fn tile(&mut self, rows: Range<usize>, right: Columns<'_>, depth: Range<usize>) {
        let Self { kernel, c, a, .. } = self;
        let width = right.used.next_multiple_of(kernel.lanes);
        assert!(
            (depth.len() - 1) * right.apart.unwrap_or(width) + width <= right.data.len(),
            "right factor too short"
        );
        let tile = Tile {
            left: a.data.as_ptr(),
            offsets: std::array::from_fn::<_, ROWS_MAX, _>(|r| (rows.start + r) * a.row),
            rows: rows.len(),
            adjacent: a.row == 1,
            column: a.column,
            run: depth.len(),
            segments: &(depth.start * a.column),
            count: 1,
            right: right.data.as_ptr(),
            apart: right.apart,
            result: c.data[rows.start * c.stride + right.first..].as_mut_ptr(),
            stride: c.stride,
            columns: right.used,
            add: c.add || depth.start > 0,
        };
        // SAFETY: `product` has checked left factor and destination, whose rows do not overlap, and the
        // assertion the right factor; the kernel suits this processor.
        unsafe { (kernel.run)(&tile) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::{
        gemm::tile::{BEST, available},
        testing::{assert_close, numbers},
    };

    /// The product in an order, added to `start`.
    fn compute(order: Order, kernel: Kernel, size: [usize; 3], (a, b): (Matrix<'_>, Matrix<'_>)) -> Vec<f32> {
        let [m, n, _] = size;
        let mut c = numbers(m * (n + 1), 3);
        in_order(order, kernel, size, (Target::add(&mut c, n + 1), a, b));
        c
    }

    #[test]
    fn every_order_gives_the_same_bytes() {
        let sizes = (1..=20).map(|m| (m, 2 * m + 21, 3 * m)).chain([
            (1, 1, 1),
            (13, 64, 512),
            (7, 95, 513),
            (10, 33, 1_100),
            (65, 96, 40),
        ]);
        for (m, n, k) in sizes {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for (left, right) in [
                (Matrix::rows(&a, k), Matrix::columns(&b, k)),
                (Matrix::rows(&a, k), Matrix::rows(&b, n)),
                (Matrix::columns(&a, m), Matrix::rows(&b, n)),
            ] {
                let at = |x: Matrix<'_>, i: usize, j: usize| f64::from(x.data[i * x.row + j * x.column]);
                let mut want: Vec<f64> = numbers(m * (n + 1), 3).into_iter().map(f64::from).collect();
                for (i, row) in want.chunks_exact_mut(n + 1).enumerate() {
                    for (j, sum) in row[..n].iter_mut().enumerate() {
                        *sum += (0..k).map(|p| at(left, i, p) * at(right, p, j)).sum::<f64>();
                    }
                }
                for kernel in available() {
                    let one = compute(Order::Depth, kernel, [m, n, k], (left, right));
                    assert_close(&one, &want, 1e-5);
                    assert_eq!(one, compute(Order::Panels, kernel, [m, n, k], (left, right)));
                    if k <= DEPTH {
                        assert_eq!(one, compute(Order::Rows, kernel, [m, n, k], (left, right)));
                    }
                }
            }
        }
    }

    #[test]
    fn large_products_are_those_of_their_parts() {
        for (size, order) in
            [([4, 300, 700], Order::Panels), ([1_500, 100, 9], Order::Rows), ([300, 40, 600], Order::Depth)]
        {
            let [m, n, k] = size;
            assert_eq!(Order::of(size), order);
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let (mut whole, mut rows) = (vec![0.0; m * n], vec![0.0; m * n]);
            product(*BEST, size, Target::replace(&mut whole, n), Matrix::rows(&a, k), Matrix::rows(&b, n));
            for (a, c) in a.chunks_exact(k).zip(rows.chunks_exact_mut(n)) {
                product(*BEST, [1, n, k], Target::replace(c, n), Matrix::rows(a, k), Matrix::rows(&b, n));
            }
            assert_eq!(whole, rows);
        }
    }

    #[test]
    #[should_panic(expected = "destination too short")]
    fn a_short_destination_is_refused() {
        let (a, b, mut c) = ([0.0; 6], [0.0; 6], [0.0; 3]);
        product(*BEST, [2, 2, 3], Target::replace(&mut c, 2), Matrix::rows(&a, 3), Matrix::rows(&b, 2));
    }
}
