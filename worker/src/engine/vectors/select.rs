//! Which elements of a vector are large.

use crate::engine::ops::math;

/// A magnitude as an integer of the same order; NaN is larger than all.
fn order(v: f32) -> u32 {
    v.to_bits() & 0x7FFF_FFFF
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

/// A run of bits of [`order`]: (lowest bit, number of bits).
pub(super) type Digit = (u32, u32);

/// All bits, from the top.
pub(super) const DIGITS: [Digit; 3] = [(20, 11), (9, 11), (0, 9)];

/// How many magnitudes have which digit, among those whose bits above it are `prefix`.
pub(super) fn count(x: &[f32], prefix: u32, (low, bits): Digit) -> Vec<u32> {
    let mut counts = vec![0; 1 << bits];
    for &v in x {
        let o = order(v);
        if o >> (low + bits) == prefix {
            counts[(o >> low) as usize & ((1 << bits) - 1)] += 1;
        }
    }
    counts
}

/// The prefix with the digit of the magnitude that is `left` from the top among those that were
/// counted, and how far from the top it is among those that share the digit.
pub(super) fn next(counts: &[Vec<u32>], prefix: u32, (_, bits): Digit, mut left: u64) -> (u32, u64) {
    for digit in (0..1usize << bits).rev() {
        let here: u64 = counts.iter().map(|counts| u64::from(counts[digit])).sum();
        if here >= left {
            return (prefix << bits | digit as u32, left);
        }
        left -= here;
    }
    (prefix << bits, left)
}

/// Elements at least as large as the threshold, and those equal to it.
pub(super) fn compare(x: &[f32], threshold: u32) -> (usize, usize) {
    x.iter().fold((0, 0), |(more, equal), &v| {
        (more + usize::from(order(v) > threshold), equal + usize::from(order(v) == threshold))
    })
}

/// Zeroes what is below the threshold, and what is equal to it after the first `equal`.
pub(super) fn cut(x: &mut [f32], threshold: u32, mut equal: usize) {
    for v in x {
        let o = order(*v);
        let keep = o > threshold || (o == threshold && equal > 0);
        equal -= usize::from(o == threshold && equal > 0);
        *v = if keep { *v } else { 0.0 };
    }
}
