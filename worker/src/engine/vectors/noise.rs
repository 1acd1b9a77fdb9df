//! Gaussian noise that key and place of an element name, for simulations.
//!
//! Box and Muller's pairs (1958) from 64 bits of SplitMix64 a pair, in `f32` and in single operations that
//! every processor rounds alike, so that the numbers are those of a GPU (`cuda/vectors.cu` goes step by step
//! as this file does). Half of the bits are a radius of at most 6.56, half an angle. Polynomials are those of
//! Cephes; squares of radii are good to 1e-7 of themselves, sine and cosine to 1e-7.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

use crate::engine::ops::math;

/// Pairs at a time.
const RUN: usize = 64;
/// 1/√2, the least mantissa of a logarithm, as bits.
const LEAST: u32 = 0x3f35_04f3;
const ONE: u32 = 0x3f80_0000;
/// π/2 over 2³⁰.
const STEP: f32 = 1.462_918_1e-9;

/// Adds noise to the elements `first ..`, an even number on.
pub(super) fn add(x: &mut [f32], deviation: f32, key: u64, first: u64) {
    // Products of 64 bits need these for vectors.
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
    {
        #[allow(unsafe_code, reason = "a safe function, compiled for a machine that is checked for here")]
        // SAFETY: the machine has what it needs.
        return unsafe { add_avx512(x, deviation, key, first) };
    }
    math::vectorised(
        #[inline(always)]
        || add_anywhere(x, deviation, key, first),
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
fn add_avx512(x: &mut [f32], deviation: f32, key: u64, first: u64) {
    add_anywhere(x, deviation, key, first);
}

#[inline(always)]
fn add_anywhere(x: &mut [f32], deviation: f32, key: u64, first: u64) {
    let mut place = first / 2;
    let (runs, rest) = x.as_chunks_mut::<{ 2 * RUN }>();
    for run in runs {
        add_run(run, deviation, key, place);
        place = place.wrapping_add(RUN as u64);
    }
    for pair in rest.chunks_mut(2) {
        let word = bits(key, place);
        for (v, noise) in pair.iter_mut().zip(numbers((word >> 32) as u32, word as u32, deviation)) {
            *v += noise;
        }
        place = place.wrapping_add(1);
    }
}

/// Step by step for all pairs, so that each step is a loop over vectors.
#[inline(always)]
fn add_run(run: &mut [f32; 2 * RUN], deviation: f32, key: u64, place: u64) {
    let (mut high, mut low) = ([0; RUN], [0; RUN]);
    for i in 0..RUN {
        let word = bits(key, place.wrapping_add(i as u64));
        (high[i], low[i]) = ((word >> 32) as u32, word as u32);
    }
    let (mut first, mut second) = ([0.0; RUN], [0.0; RUN]);
    for i in 0..RUN {
        [first[i], second[i]] = numbers(high[i], low[i], deviation);
    }
    for (i, pair) in run.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        pair[0] += first[i];
        pair[1] += second[i];
    }
}

/// `algorithms::seed::mix` of both, here, since a call would keep the loop from being vectorised.
#[inline(always)]
fn bits(key: u64, place: u64) -> u64 {
    let z = (key ^ place).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A pair of this deviation.
#[inline(always)]
fn numbers(radius: u32, angle: u32, deviation: f32) -> [f32; 2] {
    let length = deviation * square(radius).sqrt();
    let [cosine, sine] = turn(angle);
    [length * cosine, length * sine]
}

/// `−2 ln u` of the odd multiple `u` of 2⁻³¹ that the bits name.
#[inline(always)]
fn square(word: u32) -> f32 {
    let odd = (word >> 1 | 1) as i32 as f32;
    let shifted = odd.to_bits().wrapping_add(ONE - LEAST);
    // 2ᵏ · (1 + f), with 1 + f from 1/√2 to √2.
    let k = ((shifted >> 23) as i32).wrapping_sub(127 + 31) as f32;
    let f = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(LEAST)) - 1.0;
    let p = 7.037_683_6e-2 * f - 1.151_461e-1;
    let p = p * f + 1.167_699_9e-1;
    let p = p * f - 1.242_014_1e-1;
    let p = p * f + 1.424_932_3e-1;
    let p = p * f - 1.666_805_8e-1;
    let p = p * f + 2.000_071_5e-1;
    let p = p * f - 2.499_999_4e-1;
    let p = p * f + 3.333_333e-1;
    let z = f * f;
    -2.0 * (f * z * p + k * math::LN_2_LOW - 0.5 * z + f + k * math::LN_2_HIGH)
}

/// Cosine and sine of 2π times the 32 bits' part of a turn.
#[inline(always)]
fn turn(bits: u32) -> [f32; 2] {
    // The nearest quarter, and up to half a quarter from there.
    let quarter = bits.wrapping_add(1 << 29) >> 30;
    let x = bits.wrapping_sub(quarter << 30) as i32 as f32 * STEP;
    let z = x * x;
    let sine = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cosine = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let (sine, cosine, odd) = (sine.to_bits(), cosine.to_bits(), (quarter & 1).wrapping_neg());
    let turned = (cosine & !odd | sine & odd) ^ (quarter.wrapping_add(1) & 2) << 30;
    let other = (sine & !odd | cosine & odd) ^ (quarter & 2) << 30;
    [f32::from_bits(turned), f32::from_bits(other)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    #[test]
    fn radii_and_angles_are_those_of_f64() {
        let ends = [0, 1, 2, 3, u32::MAX, u32::MAX - 1];
        let near = (0..2_000).map(|i| u32::MAX - 997 * i);
        for bits in ends.into_iter().chain(near).chain((0..400_000).map(|i: u32| i * 10_007)) {
            let exact = -2.0 * libm::log(f64::from((bits >> 1 | 1) as f32) / 2.0_f64.powi(31));
            let got = f64::from(square(bits));
            assert!(got >= 0.0 && (got - exact).abs() <= 1.2e-7 * exact, "{bits}: {got}, expected {exact}");
            let angle = TAU * f64::from(bits) / 2.0_f64.powi(32);
            let [cosine, sine] = turn(bits).map(f64::from);
            assert!((cosine - libm::cos(angle)).abs() < 1.5e-7, "{bits}: {cosine}");
            assert!((sine - libm::sin(angle)).abs() < 1.5e-7, "{bits}: {sine}");
        }
        assert!((6.55..6.57).contains(&square(0).sqrt()));
    }

    #[test]
    fn numbers_depend_neither_on_how_the_vector_is_cut_nor_on_the_machine() {
        assert_eq!(bits(5, 9), algorithms::seed::mix(5 ^ 9));
        let mut whole = vec![1.0; 1_003];
        add(&mut whole, 0.7, 11, 4);
        for cut in [2, 128, 130, 700] {
            let mut parts = vec![1.0; 1_003];
            let (left, right) = parts.split_at_mut(cut);
            add(left, 0.7, 11, 4);
            add_anywhere(right, 0.7, 11, 4 + cut as u64);
            assert_eq!(parts, whole);
        }
    }

    /// Kolmogorov and Smirnov's distance from the normal law, moments, correlation in a pair and beside it,
    /// and how many are in the tails, up to six deviations.
    #[test]
    fn four_million_numbers_are_normal() {
        const N: usize = 1 << 22;
        let mut x = vec![0.0; N];
        add(&mut x, 1.0, 5, 0);
        let n = N as f64;
        let mean = |f: &dyn Fn(usize) -> f64| (0..N).map(f).sum::<f64>() / n;
        for (power, moment) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (5, 0.0), (6, 15.0), (8, 105.0)] {
            let got = mean(&|i| f64::from(x[i]).powi(power));
            // The variance of xᵖ is (2p − 1)!! − moment².
            let variance = (1..=2 * power).step_by(2).map(f64::from).product::<f64>() - moment * moment;
            assert!((got - moment).abs() < 4.5 * (variance / n).sqrt(), "moment {power}: {got}");
        }
        for lag in [1, 2, 3] {
            let together = mean(&|i| f64::from(x[i]) * f64::from(x[(i + lag) % N]));
            let squares = mean(&|i| f64::from(x[i]).powi(2) * f64::from(x[(i + lag) % N]).powi(2));
            assert!(together.abs() < 4.5 / n.sqrt(), "{lag}: {together}");
            assert!((squares - 1.0).abs() < 4.5 * (8.0 / n).sqrt(), "{lag}: {squares}");
        }
        for deviations in [2.0, 3.0, 4.0, 5.0, 6.0] {
            let expected = n * libm::erfc(deviations / 2.0_f64.sqrt());
            let found = x.iter().filter(|v| f64::from(v.abs()) > deviations).count() as f64;
            assert!((found - expected).abs() < 4.5 * expected.sqrt() + 2.0, "{deviations}: {found}");
        }
        x.sort_by(f32::total_cmp);
        let below = |v: f32| 0.5 * libm::erfc(-f64::from(v) / 2.0_f64.sqrt());
        let distance = (0..N).map(|i| (below(x[i]) - (i as f64 + 0.5) / n).abs()).fold(0.0, f64::max);
        // Exceeded by chance once in 10,000.
        assert!(distance * n.sqrt() < 2.23, "{distance}");
    }
}
