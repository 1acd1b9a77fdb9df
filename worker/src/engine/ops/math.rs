//! Elementary functions as straight-line arithmetic.
//!
//! The C library's versions cost a call per element and differ between systems in the last bit; these
//! vectorise and give equal bytes wherever f32 arithmetic does. Each is good to a few units in the
//! last place of 1.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

use std::sync::LazyLock;

pub(in crate::engine) const LN_2_HIGH: f32 = 0.693_359_4;
pub(in crate::engine) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5 · 2²³ rounds to an integer and leaves it in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// eˣ by Cephes' polynomial after reduction by powers of two; saturates at |x| ≈ 87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, absolute error below 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// Gauss' error function, absolute error below 5e-7 (rational approximation of Eigen and XLA).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_3e-5;
    let p = p * s - 7.349_906e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    x * p / q
}

/// Sum of `f` over pairs of elements: sixteen lanes, then pairwise. The order is fixed, the loop
/// vectorises, and it rounds less than one running sum.
#[inline(always)]
pub(in crate::engine) fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
        *lane += f(a, b);
    }
    for width in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    lanes[0]
}

/// Sum of the elements, as [`sum_pairs`].
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    sum_pairs(values, values, |v, _| v)
}

/// Runs `f` compiled for the widest vectors that this processor has. Only what is inlined into `f`
/// gains. Rust never fuses or reorders f32 operations, so the bytes stay those of plain code.
#[inline]
pub(in crate::engine) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);
    ARCH.dispatch(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_match_the_libraries() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.005;
            let close = |name: &str, got: f32, want: f64, tolerance: f64| {
                assert!((f64::from(got) - want).abs() <= tolerance, "{name}({x}) = {got}, expected {want}");
            };
            let d = f64::from(x);
            close("exp", exp(x) / libm::exp(d) as f32, 1.0, 4e-7);
            close("sigmoid", sigmoid(x), 1.0 / (1.0 + libm::exp(-d)), 2e-7);
            close("tanh", tanh(x), libm::tanh(d), 3e-7);
            close("erf", erf(x), libm::erf(d), 5e-7);
        }
    }

    #[test]
    fn extremes_saturate() {
        assert!(exp(-1e30) < 1e-37 && exp(1e30) > 1e37);
        assert_eq!((sigmoid(-200.0) < 1e-30, sigmoid(200.0)), (true, 1.0));
        assert_eq!((tanh(-200.0), tanh(200.0)), (-1.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }
}
