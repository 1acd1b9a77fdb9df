//! Single-threaded matrix product behind safe functions.
//!
//! One kernel per kind of processor (AVX-512, AVX2, plain Rust; NEON through the compiler) with one
//! order of summation, so that a product has the same bytes on every processor that can multiply and
//! add with one rounding. Training multiplies by thin matrices, where it pays to read the left factor
//! in place and to pack a right factor once that is used many times. No threads: see `shards.rs`.

#![allow(clippy::needless_pass_by_value, reason = "a destination is consumed: it is written")]

mod order;
mod pack;
mod tile;
mod vector;

use crate::engine::buffer::Buffer;
use tile::{BEST, Kernel, ROWS_MAX, Tile};

/// Largest depth that one pass over the panels takes, so that a panel stays in the nearest caches.
const DEPTH: usize = 512;

/// The instructions that matrix products use on this processor, for people.
pub fn instructions() -> &'static str {
    BEST.name
}

/// A read-only matrix inside a slice: element `(i, j)` lies at `i · row + j · column`.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Matrix<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `stride` elements.
    pub(in crate::engine) fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row: stride, column: 1 }
    }

    /// The transpose of [`Matrix::rows`].
    pub(in crate::engine) fn columns(data: &'a [f32], stride: usize) -> Self {
        Self { data, row: 1, column: stride }
    }

    fn check(&self, what: &str, rows: usize, columns: usize) {
        let fits = rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len();
        assert!(fits, "{what} factor too short");
    }
}

/// The destination: rows of `stride` elements.
#[derive(Debug)]
pub(in crate::engine) struct Target<'a> {
    data: &'a mut [f32],
    stride: usize,
    add: bool,
}

impl<'a> Target<'a> {
    /// Overwrites what is there.
    pub(in crate::engine) fn replace(data: &'a mut [f32], stride: usize) -> Self {
        Self { data, stride, add: false }
    }

    /// Adds to what is there.
    pub(in crate::engine) fn add(data: &'a mut [f32], stride: usize) -> Self {
        Self { data, stride, add: true }
    }
}

/// Where the rows of a left factor begin.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) enum Rows<'a> {
    /// So many, at equal distances.
    Every { count: usize, distance: usize },
    /// At these offsets.
    At(&'a [usize]),
}

/// A left factor whose rows may overlap and be made of pieces: element `(i, s · run + p)` lies at
/// `row i + segment s + p · column`.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Left<'a> {
    pub(in crate::engine) data: &'a [f32],
    pub(in crate::engine) rows: Rows<'a>,
    pub(in crate::engine) column: usize,
    pub(in crate::engine) run: usize,
    pub(in crate::engine) segments: &'a [usize],
}

/// A right factor in the kernel's order.
#[derive(Debug)]
pub(in crate::engine) struct Packed {
    values: Buffer,
    /// Depths of the blocks, one after the other; each has all columns.
    blocks: Vec<usize>,
    columns: usize,
}

impl Packed {
    /// Packs a `depth × columns` matrix in blocks of equal depth.
    pub(in crate::engine) fn new(matrix: Matrix<'_>, depth: usize, columns: usize) -> Self {
        let count = depth.div_ceil(DEPTH);
        let blocks = (0..count).map(|i| depth * (i + 1) / count - depth * i / count).collect();
        Self::in_blocks(*BEST, matrix, columns, blocks)
    }

    /// Packs a matrix in blocks of these depths.
    pub(in crate::engine) fn by_blocks(matrix: Matrix<'_>, columns: usize, blocks: Vec<usize>) -> Self {
        Self::in_blocks(*BEST, matrix, columns, blocks)
    }

    fn in_blocks(kernel: Kernel, matrix: Matrix<'_>, columns: usize, blocks: Vec<usize>) -> Self {
        let depth = blocks.iter().sum();
        matrix.check("right", depth, columns);
        let mut values = Buffer::any(pack::packed_length(kernel, depth, columns));
        let (mut rest, mut first) = (&mut values[..], 0);
        for &block in &blocks {
            let (part, tail) = rest.split_at_mut(pack::packed_length(kernel, block, columns));
            pack::pack(kernel, matrix, first..first + block, columns, part);
            (rest, first) = (tail, first + block);
        }
        Self { values, blocks, columns }
    }

    fn block(&self, kernel: Kernel, index: usize) -> &[f32] {
        let before = self.blocks[..index].iter().sum();
        let start = pack::packed_length(kernel, before, self.columns);
        &self.values[start..start + pack::packed_length(kernel, self.blocks[index], self.columns)]
    }
}

/// `c = a · b` or `c += a · b`, where `a` is `m × k`, `b` is `k × n` and `size` is `[m, n, k]`.
///
/// # Panics
/// If a slice is too short for its matrix.
pub(in crate::engine) fn product(size: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    product_with(*BEST, size, c, a, b);
}

fn product_with(kernel: Kernel, [m, n, k]: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    if k == 0 && !c.add {
        (0..m).for_each(|i| c.data[i * c.stride..i * c.stride + n].fill(0.0));
        return;
    }
    order::product(kernel, [m, n, k], c, a, b);
}

/// As [`product`] with a right factor that was packed before.
pub(in crate::engine) fn product_packed(m: usize, c: Target<'_>, a: Matrix<'_>, b: &Packed) {
    let mut first = 0;
    for (index, &depth) in b.blocks.iter().enumerate() {
        let target = Target { data: &mut *c.data, stride: c.stride, add: c.add || index > 0 };
        let segments = [first * a.column];
        multiply(*BEST, target, left(a, m, depth, &segments), b.block(*BEST, index), b.columns);
        first += depth;
    }
}

/// As [`product`] with a left factor made of pieces: block `i` of `b` belongs to `pieces(i)`.
pub(in crate::engine) fn product_pieces<'a>(c: Target<'_>, pieces: impl Fn(usize) -> Left<'a>, b: &Packed) {
    for index in 0..b.blocks.len() {
        let target = Target { data: &mut *c.data, stride: c.stride, add: c.add || index > 0 };
        multiply(*BEST, target, pieces(index), b.block(*BEST, index), b.columns);
    }
}

/// Columns of a panel of the kernel.
pub(in crate::engine) fn panel_width() -> usize {
    2 * BEST.lanes
}

/// As [`product`] with a right factor of [`panel_width`] columns that lies row after row.
pub(in crate::engine) fn product_panel(c: Target<'_>, left: Left<'_>, panel: &[f32]) {
    multiply(*BEST, c, left, panel, panel_width());
}

fn left<'a>(a: Matrix<'a>, count: usize, run: usize, segments: &'a [usize]) -> Left<'a> {
    Left { data: a.data, rows: Rows::Every { count, distance: a.row }, column: a.column, run, segments }
}

/// All tiles of one block of the depth.
#[allow(unsafe_code, reason = "the kernel takes pointers; every bound is checked here")]
fn multiply(kernel: Kernel, c: Target<'_>, left: Left<'_>, panels: &[f32], n: usize) {
    let (m, furthest) = match left.rows {
        Rows::Every { count, distance } => (count, count.saturating_sub(1) * distance),
        Rows::At(offsets) => (offsets.len(), offsets.iter().copied().max().unwrap_or(0)),
    };
    let depth = left.run * left.segments.len();
    if m == 0 || n == 0 || depth == 0 {
        return;
    }
    let reach = furthest + left.segments.iter().max().unwrap_or(&0) + (left.run - 1) * left.column;
    assert!(reach < left.data.len(), "left factor too short");
    assert!((m - 1) * c.stride + n <= c.data.len(), "destination too short");
    assert!(m == 1 || c.stride >= n, "rows of the destination overlap");
    assert!(panels.len() >= pack::packed_length(kernel, depth, n), "right factor too short");

    let tiles = m.div_ceil(kernel.rows);
    let mut at = 0;
    for (first, used, width) in pack::panels(kernel, n) {
        for i in 0..tiles {
            let start = m * i / tiles;
            let rows = m * (i + 1) / tiles - start;
            let mut offsets = [0; ROWS_MAX];
            for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                *offset = match left.rows {
                    Rows::Every { distance, .. } => (start + r) * distance,
                    Rows::At(offsets) => offsets[start + r],
                };
            }
            let tile = Tile {
                left: left.data.as_ptr(),
                offsets,
                rows,
                adjacent: matches!(left.rows, Rows::Every { distance: 1, .. }),
                column: left.column,
                run: left.run,
                segments: left.segments.as_ptr(),
                count: left.segments.len(),
                right: panels[at..].as_ptr(),
                apart: None,
                result: c.data[start * c.stride + first..].as_mut_ptr(),
                stride: c.stride,
                columns: used,
                add: c.add,
            };
            // SAFETY: the assertions above bound every index that the tile reaches; the destination is
            // borrowed exclusively and its rows do not overlap; the kernel suits this processor.
            unsafe { (kernel.run)(&tile) }
        }
        at += depth * width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{assert_close, numbers};

    #[test]
    fn every_kernel_matches_plain_loops() {
        for (case, (m, n, k)) in
            [(1, 1, 1), (3, 5, 7), (16, 16, 16), (7, 33, 129), (50, 6, 25), (97, 65, 600), (30, 33, 1100)]
                .into_iter()
                .enumerate()
        {
            let (a, b) = (numbers(m * k, case as u64), numbers(k * n, case as u64 + 100));
            for (ta, tb, add) in [(false, false, false), (true, false, true), (false, true, true)] {
                let start = numbers(m * (n + 2), 7);
                let at = |i: usize, p: usize| f64::from(if ta { a[p * m + i] } else { a[i * k + p] });
                let bt = |p: usize, j: usize| f64::from(if tb { b[j * k + p] } else { b[p * n + j] });
                let mut want: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 = (0..k).map(|p| at(i, p) * bt(p, j)).sum();
                        want[i * (n + 2) + j] = sum + if add { want[i * (n + 2) + j] } else { 0.0 };
                    }
                }
                for kernel in tile::available() {
                    let mut c = start.clone();
                    let target =
                        if add { Target::add(&mut c, n + 2) } else { Target::replace(&mut c, n + 2) };
                    let left = if ta { Matrix::columns(&a, m) } else { Matrix::rows(&a, k) };
                    let right = if tb { Matrix::columns(&b, k) } else { Matrix::rows(&b, n) };
                    product_with(kernel, [m, n, k], target, left, right);
                    assert_close(&c, &want, 1e-5);
                }
            }
        }
    }

    #[test]
    fn nothing_to_sum_gives_zero() {
        let mut c = [1.0; 4];
        product([2, 2, 0], Target::replace(&mut c, 2), Matrix::rows(&[], 0), Matrix::rows(&[], 2));
        assert_eq!(c, [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "left factor too short")]
    fn short_slice_is_refused() {
        let mut c = [0.0; 4];
        product(
            [2, 2, 2],
            Target::replace(&mut c, 2),
            Matrix::rows(&[0.0; 3], 2),
            Matrix::rows(&[0.0; 4], 2),
        );
    }
}
