//! Which elements of a vector are the largest of all: a guess from a sample, one pass that keeps what the
//! guess leaves open, and one that zeroes the rest.
//!
//! Of a sample follows a range that very likely holds the k-th magnitude. The first pass counts what is above
//! it and keeps the magnitudes within (`sift`), a hundredth of all; among these the k-th is found exactly. If
//! the guess was wrong, it is known on which side the k-th lies, and one more pass finds it.

use super::select::{HIGHEST, order};
use super::sift::{LINE, Sifted};
use crate::engine::ops::math;
use std::ops::RangeInclusive;

/// Lines of a sample, at least and at most; of an eighth of the vector.
const LINES: RangeInclusive<usize> = 64..=4_096;
/// Lines that tell how much the sample varies.
const PILOT: usize = 256;
/// Standard deviations of the guess on either side: one of some thousands is wrong, which costs a pass.
const SPREAD: f64 = 3.5;
/// Parts of a range in which what is within is counted.
const BUCKETS: usize = 4_096;

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
    let share = k as f64 / x.len() as f64;
    // Elements of a line are alike, perhaps: what varies is counted by lines.
    let pilot = sample.chunks_exact(LINE).step_by(lines.div_ceil(PILOT));
    let mut pilot: Vec<u32> = pilot.flatten().copied().collect();
    let rank = ((pilot.len() as f64 * share) as usize).clamp(1, pilot.len());
    let middle = from_top(&mut pilot, rank).0;
    let of_line = |line: &[u32]| f64::from(line.iter().map(|o| u32::from(*o >= middle)).sum::<u32>());
    let mean = sample.chunks_exact(LINE).map(of_line).sum::<f64>() / lines as f64;
    let variance = sample.chunks_exact(LINE).map(|line| (of_line(line) - mean).powi(2)).sum::<f64>();
    let reach = SPREAD * variance.sqrt() + LINE as f64;
    let rank = sample.len() as f64 * share;
    let (low, high) = ((rank + reach) as usize, rank - reach);
    let (low, top) = if low < sample.len() { from_top(&mut sample, low) } else { (0, &mut sample[..]) };
    low..=if high >= 1.0 { from_top(top, high as usize).0 } else { HIGHEST }
}

/// The `k`-th, at least the first, from the top, and the first `k`.
fn from_top(orders: &mut [u32], k: usize) -> (u32, &mut [u32]) {
    let at = orders.len() - k;
    let found = *orders.select_nth_unstable(at).1;
    (found, &mut orders[at..])
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
    if above + blocks.iter().map(|block| block.within.len()).sum::<usize>() < k {
        return Err(0..=range.start() - 1);
    }
    // First the part of the range that holds it, by counting.
    let width = u32::BITS - (range.end() - range.start()).leading_zeros();
    let bucket = |o: u32| ((o - range.start()) >> width.saturating_sub(BUCKETS.ilog2())) as usize;
    let mut counts = vec![0; BUCKETS];
    blocks.iter().flat_map(|block| &block.within).for_each(|o| counts[bucket(*o)] += 1);
    let (mut more, mut part) = (above, BUCKETS - 1);
    while more + counts[part] < k {
        more += counts[part];
        part -= 1;
    }
    let mut open = Vec::with_capacity(counts[part]);
    let ends = blocks.iter().map(|block| {
        open.extend(block.within.iter().filter(|o| bucket(**o) == part));
        open.len()
    });
    let ends: Vec<usize> = ends.collect();
    let threshold = from_top(&mut open.clone(), k - more).0;
    let mut left = k - more - open.iter().filter(|o| **o > threshold).count();
    let mut start = 0;
    let kept = ends.into_iter().map(|end| {
        let of = open[start..end].iter().filter(|o| **o == threshold).count();
        let equal = left.min(of);
        (start, left) = (end, left - equal);
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
    use super::super::sift::sift;
    use super::*;

    fn numbers(n: usize, scale: impl Fn(usize) -> f32) -> Vec<f32> {
        let uniform = |i: usize| (algorithms::seed::mix(i as u64) >> 40) as f32 / 8_388_608.0 - 1.0;
        (0..n).map(|i| scale(i) * uniform(i)).collect()
    }

    fn sifted(x: &[f32], range: &RangeInclusive<u32>) -> Vec<Sifted> {
        x.chunks(1_000).map(|x| sift(x, range)).collect()
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
