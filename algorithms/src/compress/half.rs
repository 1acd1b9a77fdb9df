//! Sixteen bits for a number, rounded to the nearest, ties to even.

/// The largest finite half.
const HALF_MAX: f32 = 65_504.0;

/// IEEE 754 binary16 of a finite number; saturates.
pub(super) fn to_f16(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let x = x.abs().min(HALF_MAX);
    // Below the smallest normal half the quantum is fixed: adding 2^-1 rounds to multiples of 2^-24.
    if x < 6.103_515_6e-5 {
        return sign | ((x + 0.5).to_bits() - 0.5_f32.to_bits()) as u16;
    }
    let bits = x.to_bits();
    let rounded = bits + 0x0FFF + ((bits >> 13) & 1);
    sign | ((rounded >> 13) as u16).wrapping_sub(112 << 10).min(0x7BFF)
}

/// The number that a half stands for.
pub(super) fn from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7FFF);
    let value = match magnitude >> 10 {
        0 => (magnitude as f32 * 5.960_464_5e-8).to_bits(),
        31 => 0x7F80_0000 | (magnitude & 0x3FF) << 13,
        _ => (magnitude << 13) + (112 << 23),
    };
    f32::from_bits(sign | value)
}

/// bfloat16 of a finite number.
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16;
    // Rounding must not make a finite number infinite.
    if rounded & 0x7FFF == 0x7F80 { rounded - 1 } else { rounded }
}

/// The number that a bfloat16 stands for.
pub(super) fn from_bf16(upper: u16) -> f32 {
    f32::from_bits(u32::from(upper) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_survives() {
        for half in (0..=u16::MAX).filter(|half| half & 0x7C00 != 0x7C00) {
            assert_eq!(to_f16(from_f16(half)), half, "{half:x}");
        }
        for upper in (0..=u16::MAX).filter(|upper| upper & 0x7F80 != 0x7F80) {
            assert_eq!(to_bf16(from_bf16(upper)), upper, "{upper:x}");
        }
    }

    #[test]
    fn known_halves() {
        for (x, half) in [
            (1.0, 0x3C00),
            (-2.0, 0xC000),
            (65_504.0, 0x7BFF),
            (1e9, 0x7BFF),
            (5.960_464_5e-8, 1),
            (0.1, 0x2E66),
        ] {
            assert_eq!(to_f16(x), half, "{x}");
        }
        assert_eq!(to_bf16(1.0), 0x3F80);
        assert_eq!(to_bf16(f32::MAX), 0x7F7F);
        // Ties go to even: 1 + 2^-11 lies between 1 and 1 + 2^-10.
        assert_eq!(to_f16(1.0 + 2.0_f32.powi(-11)), 0x3C00);
        assert_eq!(to_f16(1.0 + 3.0 * 2.0_f32.powi(-11)), 0x3C02);
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for i in 0..20_000_u64 {
            let x = (crate::seed::unit(crate::seed::mix(i)) as f32 - 0.5) * 300.0;
            let (half, upper) = (from_f16(to_f16(x)), from_bf16(to_bf16(x)));
            assert!((half - x).abs() <= x.abs() * 2.0_f32.powi(-11) + 3e-8, "{x} {half}");
            assert!((upper - x).abs() <= x.abs() * 2.0_f32.powi(-8), "{x} {upper}");
        }
    }
}
