//! Registers of f32 lanes: what the matrix kernel needs of AVX-512, of AVX2 with FMA, and of plain Rust.
//!
//! All of them multiply and add with one rounding where the processor can, lane by lane and in the
//! same order, so that their results are the same bytes.

#![allow(unsafe_code, reason = "loads and stores by pointer; the callers in `tile` have checked the bounds")]
#![allow(clippy::missing_safety_doc, reason = "one contract for all, on the trait")]

/// Safety of every method: the processor has the instructions of the type, and `n ≤ LANES` scalars (all
/// of them without `n`) may be read or written at the pointer.
pub(super) trait Vector: Copy {
    /// Scalars in a register.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_part(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    /// `self · factor + sum`
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
}

/// Eight lanes that the compiler maps to what there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's contract.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: the trait's contract.
        Self(std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        for (i, value) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: the trait's contract.
            unsafe { *to.add(i) = value }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        // Without the instruction a fused step would be a call per lane.
        const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        Self(std::array::from_fn(|i| {
            if FUSED { self.0[i].mul_add(factor.0[i], sum.0[i]) } else { self.0[i] * factor.0[i] + sum.0[i] }
        }))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_set1_ps, _mm512_storeu_ps,
    };

    #[inline(always)]
    fn mask(n: usize) -> u16 {
        ((1u32 << n) - 1) as u16
    }

    // SAFETY of every block below: the trait's contract.
    impl Vector for __m512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, n: usize) -> Self {
            unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, n: usize) {
            unsafe { _mm512_mask_storeu_ps(to, mask(n), self) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, factor, sum) }
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, n: usize) -> Self {
            let mut lanes = [0.0; 8];
            unsafe {
                std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
                _mm256_loadu_ps(lanes.as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, n: usize) {
            let mut lanes = [0.0; 8];
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), self);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, factor, sum) }
        }
    }
}
