//! Brings the right factor into the order in which the kernel reads it.
//!
//! A panel holds as many columns as two registers (one for the last, if it suffices), row after row, so
//! that the kernel reads one contiguous run. Columns that do not exist are zeros and never stored.

#![allow(unsafe_code, reason = "a transposition in registers")]

use super::Matrix;
use super::tile::Kernel;

/// Scalars of all panels of a `depth × n` matrix.
pub(super) fn packed_length(kernel: Kernel, depth: usize, n: usize) -> usize {
    depth * n.next_multiple_of(kernel.lanes)
}

/// The panels of `n` columns: (first column, columns in use, width).
pub(super) fn panels(kernel: Kernel, n: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..n).step_by(2 * kernel.lanes).map(move |first| {
        let used = (n - first).min(2 * kernel.lanes);
        (first, used, used.next_multiple_of(kernel.lanes))
    })
}

/// Packs rows `rows` and all `n` columns of `matrix`.
pub(super) fn pack(
    kernel: Kernel,
    matrix: Matrix<'_>,
    rows: std::ops::Range<usize>,
    n: usize,
    to: &mut [f32],
) {
    let depth = rows.len();
    let mut rest = to;
    for (first, used, width) in panels(kernel, n) {
        let (panel, tail) = rest.split_at_mut(depth * width);
        rest = tail;
        if used < width {
            panel.fill(0.0);
        }
        let from = &matrix.data[rows.start * matrix.row + first * matrix.column..];
        if matrix.column == 1 {
            for (p, to) in panel.chunks_exact_mut(width).enumerate() {
                to[..used].copy_from_slice(&from[p * matrix.row..p * matrix.row + used]);
            }
        } else {
            transposed(from, matrix, used, panel, width);
        }
    }
}

/// One panel of a matrix whose columns are contiguous (or not, which is slow).
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_mut, unused_variables, reason = "only x86-64 has a wide path")
)]
fn transposed(from: &[f32], matrix: Matrix<'_>, used: usize, panel: &mut [f32], width: usize) {
    let depth = panel.len() / width;
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if matrix.row == 1 && width.is_multiple_of(16) && is_x86_feature_detected!("avx512f") {
        for first in (0..used).step_by(16) {
            let columns = (used - first).min(16);
            for p in (0..depth / 16).map(|block| block * 16) {
                let source = &from[first * matrix.column + p..];
                let target = &mut panel[p * width + first..];
                assert!(
                    source.len() >= (columns - 1) * matrix.column + 16 && target.len() >= 15 * width + 16
                );
                // SAFETY: `columns` runs of sixteen scalars lie in `source` and sixteen rows of sixteen in
                // `target`, and the processor has the instructions.
                unsafe { block16(source.as_ptr(), matrix.column, columns, target.as_mut_ptr(), width) }
            }
        }
        done = depth / 16 * 16;
    }
    for (p, to) in panel.chunks_exact_mut(width).enumerate().skip(done) {
        for (j, to) in to[..used].iter_mut().enumerate() {
            *to = from[p * matrix.row + j * matrix.column];
        }
    }
}

/// Writes the transpose of `columns` runs of 16 scalars, `stride` apart, as 16 rows, `width` apart.
///
/// SAFETY: the runs can be read and the rows, of 16 scalars each, be written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn block16(from: *const f32, stride: usize, columns: usize, to: *mut f32, width: usize) {
    use std::arch::x86_64::{
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
        _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    /// `$value` for each index `$i`: array literals, which stay in registers.
    macro_rules! sixteen {
        ($i:ident, $value:expr) => { sixteen!($i, $value, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
        ($i:ident, $value:expr, $($index:literal)*) => { [$({ const $i: usize = $index; $value }),*] };
    }
    let run = |i: usize| i.min(columns - 1).wrapping_mul(stride);
    // SAFETY: the caller's contract; what a run that does not exist gives is never looked at.
    let r = sixteen!(I, unsafe { _mm512_loadu_ps(from.wrapping_add(run(I))) });
    let t = sixteen!(I, {
        let (a, b) = (r[I & !1], r[I | 1]);
        if I & 1 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    let r = sixteen!(I, {
        const FIRST: usize = (I & !3) + (I >> 1 & 1);
        let (a, b) = (_mm512_castps_pd(t[FIRST]), _mm512_castps_pd(t[FIRST + 2]));
        _mm512_castpd_ps(if I & 1 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) })
    });
    let t = sixteen!(I, {
        let (a, b) = (r[I & !4], r[I | 4]);
        if I & 4 == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xdd>(a, b) }
    });
    let r = sixteen!(I, {
        let (a, b) = (t[I & !8], t[I | 8]);
        if I & 8 == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xdd>(a, b) }
    });
    for (i, r) in r.into_iter().enumerate() {
        // SAFETY: the caller's contract.
        unsafe { _mm512_storeu_ps(to.add(i * width), r) }
    }
}
