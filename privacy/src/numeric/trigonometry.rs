//! Sine and cosine of several numbers at once, without a branch, so that the compiler can use vectors.
//!
//! The contour accountant spends its time in them. Reduction by Cody and Waite (1980) with π/2 in three
//! parts, polynomials of fdlibm.

/// Beyond it the reduction is not exact.
pub(crate) const LARGEST: f64 = 1e6;

/// Adding it to a number of at most 2^51 leaves the nearest integer in the lowest bits.
const TO_INTEGER: f64 = 6_755_399_441_055_744.0;
const HALF_PI: [f64; 3] = [1.570_796_326_734_125_6, 6.077_100_506_303_966e-11, 2.022_266_248_795_950_6e-21];
const SINE: [f64; 6] = [
    -1.666_666_666_666_663_2e-1,
    8.333_333_333_322_49e-3,
    -1.984_126_982_985_795e-4,
    2.755_731_370_707_006_8e-6,
    -2.505_076_025_340_686_3e-8,
    1.589_690_995_211_55e-10,
];
const COSINE: [f64; 6] = [
    4.166_666_666_666_66e-2,
    -1.388_888_888_887_411e-3,
    2.480_158_728_947_673e-5,
    -2.755_731_435_139_066_3e-7,
    2.087_572_321_298_175e-9,
    -1.135_964_755_778_819_5e-11,
];

/// `sin x` and `cos x` for `|x|` up to [`LARGEST`], off by less than 1e-15.
#[inline]
pub(crate) fn sin_cos<const N: usize>(x: [f64; N]) -> ([f64; N], [f64; N]) {
    let (mut sines, mut cosines) = ([0.0; N], [0.0; N]);
    for i in 0..N {
        let shifted = x[i] * std::f64::consts::FRAC_2_PI + TO_INTEGER;
        let (quadrant, turns) = (shifted.to_bits(), shifted - TO_INTEGER);
        let r = x[i] - turns * HALF_PI[0] - turns * HALF_PI[1] - turns * HALF_PI[2];
        let z = r * r;
        let [a, b, c, d, e, f] = SINE;
        let sine = r + r * z * (a + z * (b + z * (c + z * (d + z * (e + z * f)))));
        let [a, b, c, d, e, f] = COSINE;
        let cosine = 1.0 - 0.5 * z + z * z * (a + z * (b + z * (c + z * (d + z * (e + z * f)))));
        let swap = (quadrant & 1).wrapping_neg();
        let (s, c) = (sine.to_bits(), cosine.to_bits());
        sines[i] = f64::from_bits((s & !swap | c & swap) ^ (quadrant & 2) << 62);
        cosines[i] = f64::from_bits((c & !swap | s & swap) ^ (quadrant.wrapping_add(1) & 2) << 62);
    }
    (sines, cosines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_agree_with_libm_up_to_the_largest() {
        let mut x = 1e-9;
        while x < LARGEST {
            let (sines, cosines) = sin_cos([x, -x]);
            let (sine, cosine) = libm::sincos(x);
            for (got, want) in
                [(sines[0], sine), (sines[1], -sine), (cosines[0], cosine), (cosines[1], cosine)]
            {
                assert!((got - want).abs() < 1e-15, "{x}: {got} {want}");
            }
            x *= 1.000_3;
        }
        assert_eq!(sin_cos([0.0]), ([0.0], [1.0]));
    }
}
