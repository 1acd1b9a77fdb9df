//! Single-threaded matrix product behind one safe function.
//!
//! Two libraries, chosen by what the processor has: `private-gemm-x86` is the faster one on the thin
//! shapes of training, `gemm` works everywhere. Neither may use threads here: a product's bytes must
//! not depend on how many cores happen to be free.

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

/// `c = a · b` or `c += a · b`, where `a` is `m × k`, `b` is `k × n` and `size` is `[m, n, k]`.
///
/// # Panics
/// If a slice is too short for its matrix.
pub(in crate::engine) fn product(size: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    let [m, n, k] = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * c.stride + n <= c.data.len() && n <= c.stride.max(n), "destination too short");
    if k == 0 {
        if !c.add {
            (0..m).for_each(|i| c.data[i * c.stride..i * c.stride + n].fill(0.0));
        }
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.data.len(), "left factor too short");
    assert!((k - 1) * b.row + (n - 1) * b.column < b.data.len(), "right factor too short");
    assert!(m == 1 || c.stride >= n, "rows of the destination overlap");
    run(size, c, a, b);
}

#[cfg(target_arch = "x86_64")]
fn run(size: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    use private_gemm_x86::InstrSet;
    use std::sync::LazyLock;

    static INSTRUCTIONS: LazyLock<Option<InstrSet>> = LazyLock::new(|| {
        if is_x86_feature_detected!("avx512f") {
            Some(InstrSet::Avx512)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Some(InstrSet::Avx256)
        } else {
            None
        }
    });
    match *INSTRUCTIONS {
        Some(set) => x86(set, size, c, a, b),
        None => portable(size, c, a, b),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run(size: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    portable(size, c, a, b);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the library takes raw pointers; `product` has checked every bound")]
#[allow(clippy::needless_pass_by_value, reason = "the destination is consumed: it is written")]
fn x86(set: private_gemm_x86::InstrSet, [m, n, k]: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    use private_gemm_x86::{Accum, DType, DstKind, IType, gemm};
    use std::ptr::{from_ref, null};

    let one = 1f32;
    let beta = if c.add { Accum::Add } else { Accum::Replace };
    // SAFETY: `product` checked that every index that the strides reach lies inside its slice, that
    // rows of the destination do not overlap, and the destination is borrowed exclusively; `set` was
    // detected on this processor.
    unsafe {
        gemm(
            DType::F32,
            IType::U64,
            set,
            m,
            n,
            k,
            c.data.as_mut_ptr().cast(),
            c.stride as isize,
            1,
            null(),
            null(),
            DstKind::Full,
            beta,
            a.data.as_ptr().cast(),
            a.row as isize,
            a.column as isize,
            false,
            null(),
            0,
            b.data.as_ptr().cast(),
            b.row as isize,
            b.column as isize,
            false,
            from_ref(&one).cast(),
            1,
        );
    }
}

#[allow(unsafe_code, reason = "the library takes raw pointers; `product` has checked every bound")]
#[allow(clippy::needless_pass_by_value, reason = "the destination is consumed: it is written")]
fn portable([m, n, k]: [usize; 3], c: Target<'_>, a: Matrix<'_>, b: Matrix<'_>) {
    // SAFETY: as in `x86`; strides are (column, row) in this library's order.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            1,
            c.stride as isize,
            c.add,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::{assert_close, numbers};

    #[test]
    fn both_libraries_match_plain_loops() {
        for (case, (m, n, k)) in
            [(1, 1, 1), (3, 5, 7), (16, 16, 16), (7, 33, 129), (50, 6, 25), (97, 65, 600)]
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
                for f in [run, portable] {
                    let mut c = start.clone();
                    let target =
                        if add { Target::add(&mut c, n + 2) } else { Target::replace(&mut c, n + 2) };
                    let left = if ta { Matrix::columns(&a, m) } else { Matrix::rows(&a, k) };
                    let right = if tb { Matrix::columns(&b, k) } else { Matrix::rows(&b, n) };
                    f([m, n, k], target, left, right);
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
