//! Which elements of a vector have a magnitude within a range, at the speed of reading.
//!
//! A run is compared first, a line at a time and without a branch; what is within, a hundredth or less, is
//! taken out of the masks that this gives.

use super::select::{HIGHEST, order};
use std::ops::RangeInclusive;

/// Elements of a line of memory.
pub(super) const LINE: usize = 16;
/// Elements that are compared before those within are taken out.
const RUN: usize = 64 * LINE;

/// A block's magnitudes above a range, and those within.
#[derive(Debug)]
pub(super) struct Sifted {
    pub(super) above: usize,
    pub(super) within: Vec<u32>,
}

/// Of each line of a run the elements that are within, a bit for each.
type Masks = [u16; RUN / LINE];

/// Fills in the masks of a run and gives how many elements are above the range.
type Compare = fn(&[f32; RUN], &RangeInclusive<u32>, &mut Masks) -> usize;

/// Sifts a block.
pub(super) fn sift(x: &[f32], range: &RangeInclusive<u32>) -> Sifted {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("popcnt") {
            return sift_by(x86::compare_16, x, range);
        }
        if has!("avx2") && has!("popcnt") {
            return sift_by(x86::compare_8, x, range);
        }
    }
    sift_by(compare, x, range)
}

fn sift_by(compare: Compare, x: &[f32], range: &RangeInclusive<u32>) -> Sifted {
    let mut sifted = Sifted { above: 0, within: Vec::new() };
    let mut masks = [0; RUN / LINE];
    let (runs, rest) = x.as_chunks::<RUN>();
    for run in runs {
        sifted.above += compare(run, range, &mut masks);
        for (lines, masks) in run.as_chunks::<{ 4 * LINE }>().0.iter().zip(masks.as_chunks::<4>().0) {
            let [a, b, c, d] = masks.map(u64::from);
            let mut mask = a | b << 16 | c << 32 | d << 48;
            while mask != 0 {
                sifted.within.push(order(lines[mask.trailing_zeros() as usize]));
                mask &= mask - 1;
            }
        }
    }
    for o in rest.iter().map(|v| order(*v)) {
        sifted.above += usize::from(o > *range.end());
        sifted.within.extend(range.contains(&o).then_some(o));
    }
    sifted
}

fn compare(x: &[f32; RUN], range: &RangeInclusive<u32>, masks: &mut Masks) -> usize {
    let mut above = 0;
    for (line, mask) in x.as_chunks::<LINE>().0.iter().zip(masks) {
        let orders = line.map(order);
        above += orders.iter().map(|o| u32::from(o > range.end())).sum::<u32>();
        let bits = orders.iter().enumerate().map(|(i, o)| u16::from(range.contains(o)) << i);
        *mask = bits.fold(0, |mask, bit| mask | bit);
    }
    above as usize
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "loads are intrinsics that take pointers, and code for some machines")]
mod x86 {
    use super::{HIGHEST, LINE, Masks, RUN};
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cmpgt_epi32,
        _mm256_loadu_si256, _mm256_movemask_ps, _mm256_set1_epi32, _mm512_and_si512, _mm512_cmpgt_epi32_mask,
        _mm512_cmplt_epi32_mask, _mm512_loadu_si512, _mm512_set1_epi32,
    };
    use std::ops::RangeInclusive;

    /// Asks memory for the line that is needed two pages later: a processor by itself looks no further than
    /// to the end of a page.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "an instruction")]
    fn ask(line: &[f32; LINE]) {
        let later = line.as_ptr().wrapping_add(2 * 4_096 / size_of::<f32>());
        // SAFETY: a hint, which may name any place.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(later.cast()) }
    }

    pub(super) fn compare_16(x: &[f32; RUN], range: &RangeInclusive<u32>, masks: &mut Masks) -> usize {
        #[target_feature(enable = "avx512f,popcnt")]
        fn compare(x: &[f32; RUN], range: &RangeInclusive<u32>, masks: &mut Masks) -> usize {
            let [magnitude, low, high] =
                [HIGHEST, *range.start(), *range.end()].map(|bits| _mm512_set1_epi32(bits as i32));
            let mut above = 0;
            for (line, mask) in x.as_chunks::<LINE>().0.iter().zip(masks) {
                ask(line);
                // SAFETY: sixteen scalars lie there.
                let orders = _mm512_and_si512(unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }, magnitude);
                let more = _mm512_cmpgt_epi32_mask(orders, high);
                *mask = !(more | _mm512_cmplt_epi32_mask(orders, low));
                above += more.count_ones();
            }
            above as usize
        }
        // SAFETY: `sift` has asked whether the processor has it.
        unsafe { compare(x, range, masks) }
    }

    pub(super) fn compare_8(x: &[f32; RUN], range: &RangeInclusive<u32>, masks: &mut Masks) -> usize {
        #[target_feature(enable = "avx2,popcnt")]
        fn compare(x: &[f32; RUN], range: &RangeInclusive<u32>, masks: &mut Masks) -> usize {
            let [magnitude, low, high] =
                [HIGHEST, *range.start(), *range.end()].map(|bits| _mm256_set1_epi32(bits as i32));
            let mut above = 0;
            for (line, mask) in x.as_chunks::<LINE>().0.iter().zip(masks) {
                ask(line);
                let (mut more, mut outside) = (0, 0);
                for half in [LINE / 2, 0] {
                    // SAFETY: eight scalars lie there.
                    let bits = unsafe { _mm256_loadu_si256(line.as_ptr().add(half).cast()) };
                    let orders = _mm256_and_si256(bits, magnitude);
                    let over = _mm256_castsi256_ps(_mm256_cmpgt_epi32(orders, high));
                    let under = _mm256_castsi256_ps(_mm256_cmpgt_epi32(low, orders));
                    let over = _mm256_movemask_ps(over) as u32;
                    more = more << 8 | over;
                    outside = outside << 8 | over | _mm256_movemask_ps(under) as u32;
                }
                *mask = !outside as u16;
                above += more.count_ones();
            }
            above as usize
        }
        // SAFETY: `sift` has asked whether the processor has it.
        unsafe { compare(x, range, masks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_sifts_the_same() {
        let mut ways: Vec<Compare> = vec![compare];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            ways.extend(has!("avx512f").then_some(x86::compare_16 as Compare));
            ways.extend(has!("avx2").then_some(x86::compare_8 as Compare));
        }
        for n in [0, 1, 15, 16, 17, 1_019, 5_003] {
            let number = |i: usize| (algorithms::seed::mix(i as u64) >> 40) as f32 / 8_388_608.0 - 1.0;
            let mut x: Vec<f32> = (0..n).map(number).collect();
            x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0].iter().take(n));
            x.rotate_left(n / 2);
            for (low, high) in [(0.0, 0.0), (0.4, 0.6), (0.9, f32::INFINITY), (2.0, 3.0)] {
                for range in [order(low)..=order(high), 0..=HIGHEST, HIGHEST..=HIGHEST] {
                    let orders = || x.iter().map(|v| order(*v));
                    let within: Vec<u32> = orders().filter(|o| range.contains(o)).collect();
                    let above = orders().filter(|o| o > range.end()).count();
                    let here = sift(&x, &range);
                    assert_eq!((here.above, &here.within), (above, &within));
                    for way in &ways {
                        let found = sift_by(*way, &x, &range);
                        assert_eq!((found.above, &found.within), (above, &within));
                    }
                }
            }
        }
    }
}
