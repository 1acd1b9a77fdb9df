//! Numbers in [0, 1) with 384 binary digits, and e^{−x} of a rational x with a known error.

const LIMBS: usize = 6;

/// Value: Σ limb_i · 2^{−64(i+1)}. All operations round down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fixed(pub(super) [u64; LIMBS]);

impl Fixed {
    pub(super) const ZERO: Self = Self([0; LIMBS]);
    const ALMOST_ONE: Self = Self([u64::MAX; LIMBS]);

    /// `numerator / denominator` for a numerator below the denominator; both below 2^127.
    pub(super) fn ratio(numerator: u128, denominator: u128) -> Self {
        debug_assert!(numerator < denominator && denominator < 1 << 127);
        let mut limbs = [0; LIMBS];
        let mut rest = numerator;
        for limb in &mut limbs {
            for _ in 0..64 {
                rest <<= 1;
                let bit = rest >= denominator;
                rest -= if bit { denominator } else { 0 };
                *limb = *limb << 1 | u64::from(bit);
            }
        }
        Self(limbs)
    }

    #[inline(never)]
    pub(super) fn add(self, other: Self) -> Self {
        let mut sum = Self::ZERO;
        let mut carry = 0_u128;
        for i in (0..LIMBS).rev() {
            let total = u128::from(self.0[i]) + u128::from(other.0[i]) + carry;
            sum.0[i] = total as u64;
            carry = total >> 64;
        }
        if carry > 0 { Self::ALMOST_ONE } else { sum }
    }

    /// `a − b` for `a ≥ b`.
    #[inline(never)]
    pub(super) fn sub(self, other: Self) -> Self {
        let mut difference = Self::ZERO;
        let mut borrow = false;
        for i in (0..LIMBS).rev() {
            let (value, first) = self.0[i].overflowing_sub(other.0[i]);
            let (value, second) = value.overflowing_sub(u64::from(borrow));
            difference.0[i] = value;
            borrow = first || second;
        }
        difference
    }

    /// The product with a whole number; it must be below 1.
    #[inline(never)]
    pub(super) fn times(self, factor: u64) -> Self {
        let mut product = Self::ZERO;
        let mut carry = 0_u128;
        for i in (0..LIMBS).rev() {
            let total = u128::from(self.0[i]) * u128::from(factor) + carry;
            product.0[i] = total as u64;
            carry = total >> 64;
        }
        debug_assert_eq!(carry, 0);
        product
    }

    #[inline(never)]
    pub(super) fn mul(self, other: Self) -> Self {
        let mut product = [0_u64; 2 * LIMBS];
        for i in (0..LIMBS).rev() {
            let mut carry = 0_u128;
            for j in (0..LIMBS).rev() {
                let total =
                    u128::from(self.0[i]) * u128::from(other.0[j]) + u128::from(product[i + j + 1]) + carry;
                product[i + j + 1] = total as u64;
                carry = total >> 64;
            }
            product[i] = carry as u64;
        }
        let mut high = [0; LIMBS];
        high.copy_from_slice(&product[..LIMBS]);
        Self(high)
    }

    #[inline(never)]
    pub(super) fn div(self, divisor: u64) -> Self {
        let mut rest = 0_u128;
        Self(self.0.map(|limb| {
            let value = rest << 64 | u128::from(limb);
            rest = value % u128::from(divisor);
            (value / u128::from(divisor)) as u64
        }))
    }

    #[inline(never)]
    pub(super) fn shift_right(self, bits: u32) -> Self {
        let mut shifted = Self::ZERO;
        let (limbs, bits) = ((bits / 64) as usize, bits % 64);
        for i in limbs..LIMBS {
            let from = i - limbs;
            let above = if from > 0 && bits > 0 { self.0[from - 1] << (64 - bits) } else { 0 };
            shifted.0[i] = self.0[from] >> bits | above;
        }
        shifted
    }

    /// e^{−x} for `x = whole + part` and `whole < 1024`, off by less than 2⁻³⁵⁰.
    ///
    /// The alternating series at x/2¹⁶ has an error below 2⁻³⁸⁰, which sixteen squarings multiply by at
    /// most 2¹⁷; products by powers of e^{−1} add a few units of the last place.
    pub(super) fn exp_negative(whole: u32, part: Self) -> Self {
        let fraction = series(part);
        if whole == 0 {
            return fraction;
        }
        let one = series(Self::ALMOST_ONE);
        let mut power = Self::ALMOST_ONE;
        for bit in (0..10).rev() {
            power = power.mul(power);
            if whole >> bit & 1 == 1 {
                power = power.mul(one);
            }
        }
        power.mul(fraction)
    }

    /// `self / other` to 192 bits, for `self < other < 1/2`.
    pub(super) fn divided_by(self, other: Self) -> [u64; 3] {
        let mut rest = self;
        [(); 3].map(|()| {
            (0..64).fold(0, |limb, _| {
                rest = rest.add(rest);
                let bit = rest >= other;
                if bit {
                    rest = rest.sub(other);
                }
                limb << 1 | u64::from(bit)
            })
        })
    }
}

fn series(x: Fixed) -> Fixed {
    const HALVINGS: u32 = 16;
    let x = x.shift_right(HALVINGS);
    // 1 − e^{−y} = y − y²/2 + y³/6 − …, positive and negative terms apart.
    let (mut plus, mut minus, mut term) = (x, Fixed::ZERO, x);
    for k in 2..=24 {
        term = term.mul(x).div(k);
        if k % 2 == 0 {
            minus = minus.add(term);
        } else {
            plus = plus.add(term);
        }
    }
    let mut power = Fixed::ALMOST_ONE.sub(plus.sub(minus));
    for _ in 0..HALVINGS {
        power = power.mul(power);
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(x: Fixed) -> f64 {
        x.0.iter().rev().fold(0.0, |sum, limb| (sum + *limb as f64) * 2.0_f64.powi(-64))
    }

    #[test]
    fn the_exponential_has_its_known_digits() {
        // 1/e in hexadecimal, from an arbitrary-precision library.
        let e = Fixed::exp_negative(0, Fixed([u64::MAX; LIMBS]));
        assert_eq!(
            e.0[..4],
            [0x5e2d_58d8_b3bc_df1a, 0xbade_c782_9054_f90d, 0xda98_05aa_b56c_7733, 0x3024_b9d0_a507_daed]
        );
        for (whole, numerator, denominator) in [(0, 1, 3), (0, 0, 1), (1, 1, 2), (7, 5, 8), (90, 1, 7)] {
            let x = f64::from(whole) + numerator as f64 / denominator as f64;
            let got = float(Fixed::exp_negative(whole, Fixed::ratio(numerator, denominator)));
            assert!((got / (-x).exp() - 1.0).abs() < 1e-13, "{x} {got}");
        }
    }

    #[test]
    fn e_to_the_minus_one_third_cubed_is_one_over_e_to_350_bits() {
        let third = Fixed::exp_negative(0, Fixed::ratio(1, 3));
        let cube = third.mul(third).mul(third);
        let e = Fixed::exp_negative(1, Fixed::ZERO);
        let gap = if cube > e { cube.sub(e) } else { e.sub(cube) };
        assert!(gap < Fixed([0, 0, 0, 0, 0, 1 << 34]), "{gap:?}");
    }

    #[test]
    fn quotients_products_and_shifts() {
        let third = Fixed::ratio(1, 3);
        assert_eq!(Fixed::ratio(1, 9).divided_by(third), [0x5555_5555_5555_5555; 3]);
        assert!((float(third.times(2)) - 2.0 / 3.0).abs() < 1e-15);
        assert!((float(third.shift_right(70)) / 2.0_f64.powi(-70) - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(third.div(1), third);
    }
}
