//! The inner kernel: a tile of the result stays in registers while the whole depth passes by.
//!
//! Rows of the left factor are read where they lie, each from its own offset, so that a convolution
//! needs no matrix of patches: its rows are places of the window in the image. The right factor comes
//! in panels (see `pack`), one contiguous run.

#![allow(unsafe_code, reason = "a matrix kernel; `multiply` in `mod.rs` checks every bound")]

use super::vector::{Plain, Vector};
use std::sync::LazyLock;

/// Rows of the largest tile.
pub(super) const ROWS_MAX: usize = 12;

/// One call of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// First element of the left factor, before any offset.
    pub(super) left: *const f32,
    /// Offset of each row.
    pub(super) offsets: [usize; ROWS_MAX],
    /// Rows in use, at least 1.
    pub(super) rows: usize,
    /// Rows are neighbours: offset `i` is `offset 0 + i`.
    pub(super) adjacent: bool,
    /// Distance of one step along the depth.
    pub(super) column: usize,
    /// Steps in a segment.
    pub(super) run: usize,
    /// Offsets of the segments.
    pub(super) segments: *const usize,
    pub(super) count: usize,
    /// The panel of the right factor.
    pub(super) right: *const f32,
    /// Distance of its rows, if it is not packed.
    pub(super) apart: Option<usize>,
    /// The result, rows of `stride`.
    pub(super) result: *mut f32,
    pub(super) stride: usize,
    /// Columns in use, at least 1 and at most two registers.
    pub(super) columns: usize,
    /// Add to the result instead of replacing it.
    pub(super) add: bool,
}

/// A kernel for one kind of processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// The instructions that it needs.
    pub(super) name: &'static str,
    /// Columns of a narrow panel; a full one has twice as many.
    pub(super) lanes: usize,
    /// Rows of a full tile.
    pub(super) rows: usize,
    /// Computes a tile.
    ///
    /// Safety: every element that the tile names lies in borrowed memory, the result in exclusively
    /// borrowed memory, and the processor has the kernel's instructions.
    pub(super) run: unsafe fn(&Tile),
}

/// The fastest kernel that this processor can run.
pub(super) static BEST: LazyLock<Kernel> = LazyLock::new(|| *available().last().expect("one is plain Rust"));

/// All kernels that this processor can run, slowest first.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut, reason = "only x86-64 has a wide path"))]
pub(super) fn available() -> Vec<Kernel> {
    let mut kernels = vec![Kernel { name: "plain Rust", lanes: 8, rows: 6, run: plain::run }];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            kernels.push(Kernel { name: "AVX2", lanes: 8, rows: 6, run: avx2::run });
        }
        if is_x86_feature_detected!("avx512f") {
            kernels.push(Kernel { name: "AVX-512", lanes: 16, rows: 12, run: avx512::run });
        }
    }
    kernels
}

/// SAFETY: as `Kernel::run`, with at least `R` rows and more than `(N - 1) · LANES` columns.
#[inline(always)]
unsafe fn compute<V: Vector, const R: usize, const N: usize, const ADJACENT: bool, const PACKED: bool>(
    t: &Tile,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        let offsets: [usize; R] = std::array::from_fn(|r| t.offsets[r]);
        let mut right = t.right;
        let apart = t.apart.unwrap_or_default();
        for s in 0..t.count {
            let mut left = t.left.add(*t.segments.add(s) + if ADJACENT { offsets[0] } else { 0 });
            for _ in 0..t.run {
                let b: [V; N] = std::array::from_fn(|v| V::load(right.add(v * V::LANES)));
                for r in 0..R {
                    let a = V::splat(*left.add(if ADJACENT { r } else { offsets[r] }));
                    for v in 0..N {
                        sums[r][v] = a.multiply_add(b[v], sums[r][v]);
                    }
                }
                right = right.wrapping_add(if PACKED { N * V::LANES } else { apart });
                left = left.wrapping_add(t.column);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let to = t.result.add(r * t.stride + v * V::LANES);
                let left = t.columns - v * V::LANES;
                if left >= V::LANES {
                    let sum = if t.add { V::load(to).add(sum) } else { sum };
                    sum.store(to);
                } else {
                    let sum = if t.add { V::load_part(to, left).add(sum) } else { sum };
                    sum.store_part(to, left);
                }
            }
        }
    }
}

macro_rules! kernel {
    ($(#[$attribute:meta])* $name:ident, $vector:ty, $largest:literal, [$($rows:literal)*]) => {
        mod $name {
            use super::{Tile, Vector, compute};

            $(#[$attribute])*
            unsafe fn tile<const R: usize, const N: usize, const A: bool, const P: bool>(t: &Tile) {
                // SAFETY: the caller's contract.
                unsafe { compute::<$vector, R, N, A, P>(t) }
            }

            unsafe fn rows<const N: usize, const A: bool, const P: bool>(t: &Tile) {
                // SAFETY: the caller's contract.
                unsafe {
                    match t.rows {
                        $($rows => tile::<$rows, N, A, P>(t),)*
                        _ => tile::<$largest, N, A, P>(t),
                    }
                }
            }

            pub(super) unsafe fn run(t: &Tile) {
                // SAFETY: the caller's contract.
                unsafe {
                    match (t.columns > <$vector as Vector>::LANES, t.apart, t.adjacent) {
                        (true, Some(_), _) => rows::<2, false, false>(t),
                        (true, None, true) => rows::<2, true, true>(t),
                        (true, None, false) => rows::<2, false, true>(t),
                        (false, Some(_), _) => rows::<1, false, false>(t),
                        (false, None, true) => rows::<1, true, true>(t),
                        (false, None, false) => rows::<1, false, true>(t),
                    }
                }
            }
        }
    };
}

kernel!(plain, super::Plain, 6, [1 2 3 4 5]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx2,fma")] avx2, std::arch::x86_64::__m256, 6, [1 2 3 4 5]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx512f")] avx512, std::arch::x86_64::__m512, 12, [1 2 3 4 5 6 7 8 9 10 11]);
