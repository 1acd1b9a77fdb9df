//! Writing past the caches: a destination that is larger than they are is not read first, as an ordinary
//! store would read each line of it.

/// Scalars from which a destination is written past the caches: 32 MiB, the last cache of most machines.
pub(super) const FROM: usize = 8 * 1024 * 1024;
/// Scalars that a kernel makes before they are written; they stay in the nearest cache.
pub(super) const RUN: usize = 512;

/// Calls `make` for each [`RUN`] of `to` with its place and memory for what shall lie there: `to` itself, or,
/// if `past` the caches, a piece of the nearest one.
#[inline(always)]
#[allow(clippy::inline_always, reason = "code gains wide vectors only where it is inlined into `vectorised`")]
pub(super) fn fill(to: &mut [f32], past: bool, mut make: impl FnMut(usize, &mut [f32])) {
    if !past {
        for (i, to) in to.chunks_mut(RUN).enumerate() {
            make(i * RUN, to);
        }
        return;
    }
    let mut near = [0.0; RUN];
    for (i, to) in to.chunks_mut(RUN).enumerate() {
        let near = &mut near[..to.len()];
        make(i * RUN, near);
        write(to, near);
    }
    settle();
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "non-temporal stores are intrinsics that take pointers")]
mod stores {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_sfence, _mm_stream_ps, _mm256_loadu_ps, _mm256_stream_ps};

    /// Scalars of a cache line.
    const LINE: usize = 16;

    /// Copies `from`, of the same length, to `to` past the caches; what is no whole line in the ordinary way.
    #[inline]
    pub(in super::super) fn write(to: &mut [f32], from: &[f32]) {
        let head = to.as_ptr().align_offset(LINE * size_of::<f32>()).min(to.len());
        let (first, to) = to.split_at_mut(head);
        let (before, from) = from.split_at(head);
        first.copy_from_slice(before);
        let (lines, rest) = to.as_chunks_mut::<LINE>();
        let (whole, after) = from.as_chunks::<LINE>();
        if std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: the processor has AVX.
            unsafe { wide(lines, whole) }
        } else {
            narrow(lines, whole);
        }
        rest.copy_from_slice(after);
    }

    #[target_feature(enable = "avx")]
    fn wide(to: &mut [[f32; LINE]], from: &[[f32; LINE]]) {
        for (to, from) in to.iter_mut().zip(from) {
            for half in [0, LINE / 2] {
                // SAFETY: eight scalars lie there in both, and those of `to`, a line, are aligned to 32 bytes.
                unsafe {
                    _mm256_stream_ps(to.as_mut_ptr().add(half), _mm256_loadu_ps(from.as_ptr().add(half)));
                }
            }
        }
    }

    fn narrow(to: &mut [[f32; LINE]], from: &[[f32; LINE]]) {
        for (to, from) in to.iter_mut().zip(from) {
            for quarter in [0, 4, 8, 12] {
                // SAFETY: four scalars lie there in both, and those of `to`, a line, are aligned to 16 bytes.
                unsafe {
                    _mm_stream_ps(to.as_mut_ptr().add(quarter), _mm_loadu_ps(from.as_ptr().add(quarter)));
                }
            }
        }
    }

    /// Such stores are ordered with no others until this.
    pub(in super::super) fn settle() {
        // SAFETY: every x86-64 processor has it.
        unsafe { _mm_sfence() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod stores {
    #[inline]
    pub(in super::super) fn write(to: &mut [f32], from: &[f32]) {
        to.copy_from_slice(from);
    }

    pub(in super::super) fn settle() {}
}

use stores::{settle, write};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_caches_arrives() {
        let from: Vec<f32> = (0..4_000).map(|i| i as f32).collect();
        for start in 0..20 {
            for length in [0, 1, 15, 16, 17, 100, RUN, RUN + 1, 3 * RUN + 7] {
                let mut to = vec![-1.0; 4_000];
                fill(&mut to[start..start + length], true, |at, part| {
                    part.copy_from_slice(&from[at..at + part.len()]);
                });
                assert!(to[..start].iter().chain(&to[start + length..]).all(|v| *v == -1.0));
                assert_eq!(to[start..start + length], from[..length]);
            }
        }
    }
}
