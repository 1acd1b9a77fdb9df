//! Which elements of a vector are the largest of all: a guess from a sample, one pass that keeps what the
//! guess leaves open, and one that zeroes the rest.
//!
//! Of a sample follows a range that very likely holds the k-th magnitude. The first pass counts what is above
//! it and keeps the magnitudes within, a hundredth of all; among these the k-th is found exactly. If the guess
//! was wrong, it is known on which side the k-th lies, and one more pass finds it.

use super::select::order;
use crate::engine::ops::math;
use std::ops::RangeInclusive;

/// As [`order`] gives them.
const HIGHEST: u32 = 0x7FFF_FFFF;
/// Elements of a sample that lie together: those of a line of memory.
const LINE: usize = 16;
/// Lines of a sample, at least and at most; of an eighth of the vector.
const LINES: RangeInclusive<usize> = 64..=4_096;
/// Standard deviations of the guess on either side.
const SPREAD: f64 = 4.5;

/// A block's magnitudes above a range, and those within.
#[derive(Debug)]
pub(super) struct Sifted {
    above: usize,
    within: Vec<u32>,
}

/// What of a block stays: what is above the threshold, and of those equal to it so many of so many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    threshold: u32,
    equal: usize,
    of: usize,
}

/// The range that should hold the `k`-th magnitude from the top, all if the vector is short.
pub(super) fn guess(x: &[f32], k: usize) -> RangeInclusive<u32> {
    let lines = (x.len() / (8 * LINE)).min(*LINES.end());
    if lines < *LINES.start() {
        return 0..=HIGHEST;
    }
    let stride = x.len() / lines;
    let mut sample = Vec::with_capacity(lines * LINE);
    for i in 0..lines {
        // Somewhere in its part, lest the line meets a pattern of the vector.
        let at = i * stride + algorithms::seed::mix(i as u64) as usize % (stride - LINE + 1);
        sample.extend(x[at..at + LINE].iter().map(|v| order(*v)));
    }
    let rank = sample.len() as f64 * k as f64 / x.len() as f64;
    let mut sorted = sample.clone();
    let middle = from_top(&mut sorted, (rank as usize).clamp(1, sample.len()));
    // Elements of a line are alike, perhaps: what varies is counted by lines.
    let of_line = |line: &[u32]| line.iter().filter(|o| **o >= middle).count() as f64;
    let mean = sample.chunks_exact(LINE).map(of_line).sum::<f64>() / lines as f64;
    let variance = sample.chunks_exact(LINE).map(|line| (of_line(line) - mean).powi(2)).sum::<f64>();
    let reach = SPREAD * variance.sqrt() + LINE as f64;
    let (low, high) = ((rank + reach) as usize, rank - reach);
    let low = if low < sorted.len() { from_top(&mut sorted, low) } else { 0 };
    low..=if high >= 1.0 { from_top(&mut sorted, high as usize) } else { HIGHEST }
}

/// The `k`-th, at least the first, from the top.
fn from_top(orders: &mut [u32], k: usize) -> u32 {
    let at = orders.len() - k;
    *orders.select_nth_unstable(at).1
}

/// Sifts a block.
pub(super) fn sift(x: &[f32], range: &RangeInclusive<u32>) -> Sifted {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("popcnt") {
        #[allow(unsafe_code, reason = "a safe function, compiled for a machine that is checked for here")]
        // SAFETY: the machine has what it needs.
        return unsafe { x86::sift(x, range) };
    }
    sift_anywhere(x, range)
}

fn sift_anywhere(x: &[f32], range: &RangeInclusive<u32>) -> Sifted {
    let (low, high) = (*range.start(), *range.end());
    let mut sifted = Sifted { above: 0, within: Vec::new() };
    for run in x.chunks(LINE) {
        let (mut above, mut not_below) = (0, 0);
        for v in run {
            above += u32::from(order(*v) > high);
            not_below += u32::from(order(*v) >= low);
        }
        sifted.above += above as usize;
        if above != not_below {
            sifted.within.extend(run.iter().map(|v| order(*v)).filter(|o| range.contains(o)));
        }
    }
    sifted
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{HIGHEST, LINE, Sifted, sift_anywhere};
    use std::arch::x86_64::{
        _mm512_and_si512, _mm512_cmpgt_epi32_mask, _mm512_cmplt_epi32_mask, _mm512_loadu_si512,
        _mm512_maskz_compress_epi32, _mm512_set1_epi32, _mm512_storeu_si512,
    };
    use std::ops::RangeInclusive;

    /// Scalars whose magnitudes are kept near.
    const RUN: usize = 1_024;

    #[allow(unsafe_code, reason = "loads and stores are intrinsics that take pointers")]
    #[target_feature(enable = "avx512f,popcnt")]
    pub(super) fn sift(x: &[f32], range: &RangeInclusive<u32>) -> Sifted {
        let [magnitude, low, high] =
            [HIGHEST, *range.start(), *range.end()].map(|bits| _mm512_set1_epi32(bits as i32));
        let mut sifted = Sifted { above: 0, within: Vec::new() };
        // Each line is stored whole; what is not within is written over.
        let mut near = [0; RUN + LINE];
        for run in x.chunks(RUN) {
            let (lines, rest) = run.as_chunks::<LINE>();
            let mut count = 0;
            for line in lines {
                // SAFETY: sixteen scalars lie there.
                let orders = _mm512_and_si512(unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }, magnitude);
                let more = _mm512_cmpgt_epi32_mask(orders, high);
                let inside = !(more | _mm512_cmplt_epi32_mask(orders, low));
                sifted.above += more.count_ones() as usize;
                let to: &mut [u32] = &mut near[count..count + LINE];
                // SAFETY: there is room for sixteen.
                unsafe {
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(inside, orders));
                }
                count += inside.count_ones() as usize;
            }
            sifted.within.extend_from_slice(&near[..count]);
            let rest = sift_anywhere(rest, range);
            sifted.above += rest.above;
            sifted.within.extend(rest.within);
        }
        sifted
    }
}

/// From the sifted blocks of a vector what stays of each, if `k` are to; otherwise where the `k`-th magnitude
/// must be looked for.
pub(super) fn keep(
    blocks: &[Sifted],
    range: &RangeInclusive<u32>,
    k: usize,
) -> Result<Vec<Kept>, RangeInclusive<u32>> {
    let above: usize = blocks.iter().map(|block| block.above).sum();
    if above >= k {
        return Err(range.end() + 1..=HIGHEST);
    }
    let mut within: Vec<u32> = blocks.iter().flat_map(|block| &block.within).copied().collect();
    if above + within.len() < k {
        return Err(0..=range.start() - 1);
    }
    let threshold = from_top(&mut within, k - above);
    let more = above + within.iter().filter(|o| **o > threshold).count();
    let mut left = k - more;
    let kept = blocks.iter().map(|block| {
        let of = block.within.iter().filter(|o| **o == threshold).count();
        let equal = left.min(of);
        left -= equal;
        Kept { threshold, equal, of }
    });
    Ok(kept.collect())
}

/// Zeroes what does not stay, and of what is equal to the threshold the last.
pub(super) fn cut(x: &mut [f32], kept: Kept) {
    let Kept { threshold, mut equal, of } = kept;
    if equal == 0 || equal == of {
        let least = threshold + u32::from(equal < of);
        math::vectorised(
            #[inline(always)]
            || {
                for v in &mut *x {
                    let bits = v.to_bits() & u32::from(order(*v) >= least).wrapping_neg();
                    *v = f32::from_bits(bits);
                }
            },
        );
        return;
    }
    for v in x {
        let is_equal = order(*v) == threshold;
        let stays = order(*v) > threshold || (is_equal && equal > 0);
        equal -= usize::from(is_equal && equal > 0);
        *v = if stays { *v } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, scale: impl Fn(usize) -> f32) -> Vec<f32> {
        let uniform = |i: usize| (algorithms::seed::mix(i as u64) >> 40) as f32 / 8_388_608.0 - 1.0;
        (0..n).map(|i| scale(i) * uniform(i)).collect()
    }

    fn sifted(x: &[f32], range: &RangeInclusive<u32>) -> Vec<Sifted> {
        x.chunks(1_000).map(|x| sift(x, range)).collect()
    }

    #[test]
    fn every_machine_sifts_the_same() {
        for n in [0, 1, 15, 16, 17, 5_003] {
            let mut x = numbers(n, |_| 1.0);
            x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0].iter().take(n));
            for (low, high) in [(0.0, 0.0), (0.4, 0.6), (0.9, f32::INFINITY), (2.0, 3.0)] {
                for range in [order(low)..=order(high), 0..=HIGHEST, HIGHEST..=HIGHEST] {
                    let (here, anywhere) = (sift(&x, &range), sift_anywhere(&x, &range));
                    assert_eq!((here.above, here.within), (anywhere.above, anywhere.within));
                }
            }
        }
    }

    #[test]
    fn a_guess_holds_the_magnitude_and_little_else() {
        let scales: [&dyn Fn(usize) -> f32; 3] =
            [&|_| 1.0, &|i| (1 + i / 40_000) as f32, &|i| 1.0 / (1 + i / LINE % 97) as f32];
        for scale in scales {
            let x = numbers(400_000, scale);
            for k in [1, 40, 4_000, 40_000, 200_000, 399_999] {
                let range = guess(&x, k);
                let blocks = sifted(&x, &range);
                assert!(keep(&blocks, &range, k).is_ok(), "{k}");
                let within: usize = blocks.iter().map(|block| block.within.len()).sum();
                assert!(within < 60_000, "{k}: {within}");
            }
        }
    }

    #[test]
    fn a_wrong_guess_says_where_to_look() {
        let x = numbers(5_000, |_| 1.0);
        let mut orders: Vec<u32> = x.iter().map(|v| order(*v)).collect();
        orders.sort_unstable_by(|a, b| b.cmp(a));
        for k in [1, 1_000, 4_999] {
            for wrong in [orders[k - 1] + 1..=HIGHEST, 0..=orders[k - 1] - 1] {
                let where_to = keep(&sifted(&x, &wrong), &wrong, k).unwrap_err();
                assert!(where_to.contains(&orders[k - 1]) && !where_to.contains(wrong.start()));
                let kept = keep(&sifted(&x, &where_to), &where_to, k).unwrap();
                assert!(kept.iter().all(|kept| kept.threshold == orders[k - 1]));
            }
        }
    }
}
