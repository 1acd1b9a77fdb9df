//! Which of neighbours are the largest.

use crate::engine::ops::math;

/// The largest of all that [`order`] gives.
pub(super) const HIGHEST: u32 = 0x7FFF_FFFF;

/// A magnitude as an integer of the same order; NaN is larger than all.
pub(super) fn order(v: f32) -> u32 {
    v.to_bits() & HIGHEST
}

/// Of every `m` neighbours (at most 64) keeps the `n` largest (the first of equals).
pub(super) fn keep_of(x: &mut [f32], n: usize, m: usize) {
    let rest = math::vectorised(
        #[inline(always)]
        || match m {
            2 => ranked::<2>(x, n as u32),
            4 => ranked::<4>(x, n as u32),
            8 => ranked::<8>(x, n as u32),
            _ => x,
        },
    );
    for group in rest.chunks_mut(m) {
        let mut kept = 0u64;
        for _ in 0..n.min(group.len()) {
            let (mut best, mut most) = (0, None);
            for (i, v) in group.iter().enumerate() {
                let order = Some(order(*v)).filter(|_| kept >> i & 1 == 0);
                if order > most {
                    (best, most) = (i, order);
                }
            }
            kept |= 1 << best;
        }
        for (i, v) in group.iter_mut().enumerate() {
            *v = if kept >> i & 1 == 1 { *v } else { 0.0 };
        }
    }
}

/// The same of whole groups, without a branch: each is compared with each, and kept if fewer than `n` are before
/// it. Gives what is no whole group.
#[inline(always)]
#[allow(clippy::inline_always, reason = "code gains wide vectors only where it is inlined into `vectorised`")]
fn ranked<const M: usize>(x: &mut [f32], n: u32) -> &mut [f32] {
    let (groups, rest) = x.as_chunks_mut::<M>();
    for group in groups {
        let orders = group.map(order);
        let mut before = [0; M];
        for i in 0..M {
            for j in i + 1..M {
                let first = u32::from(orders[i] >= orders[j]);
                before[j] += first;
                before[i] += 1 - first;
            }
        }
        for (v, before) in group.iter_mut().zip(before) {
            let kept = u32::from(before < n).wrapping_neg();
            *v = f32::from_bits(v.to_bits() & kept);
        }
    }
    rest
}
