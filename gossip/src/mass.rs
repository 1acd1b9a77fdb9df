//! Push-sum mass as a whole number of 2⁻⁴⁸: it is split, sent, refunded and added without rounding, so
//! that the sum over nodes and links is a constant to the last bit, and two counts of it can be
//! compared for equality.

use crate::mixing::GRID;
use serde::{Deserialize, Serialize};
use std::{
    iter::Sum,
    ops::{Add, AddAssign, Sub, SubAssign},
};

/// Mass in units of 2⁻⁴⁸; 1 for a node at the start. Negative in accounts only.
///
/// What a node holds or sends fits into 63 bits for runs of up to 32,767 nodes; accounts over very many
/// rounds need more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mass(i128);

impl Mass {
    /// None.
    pub const ZERO: Self = Self(0);
    /// What a node starts with.
    pub const ONE: Self = Self(1 << 48);

    /// Whole units.
    pub fn units(self) -> i128 {
        self.0
    }

    /// From whole units.
    pub fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// As a number; exact below 32.
    pub fn value(self) -> f64 {
        self.0 as f64 * GRID
    }

    /// The part `weight` of it, rounded down. `weight` is a multiple of [`GRID`] from 0 to 1.
    #[must_use]
    pub fn portion(self, weight: f64) -> Self {
        Self((self.0 * (weight / GRID) as i128) >> 48)
    }
}

impl Add for Mass {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Mass {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Mass {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Mass {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Mass {
    fn sum<I: Iterator<Item = Self>>(masses: I) -> Self {
        masses.fold(Self::ZERO, Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_loses_nothing() {
        let third = Mass::ONE.portion((1.0 / 3.0_f64 / GRID).floor() * GRID);
        assert!((third.value() - 1.0 / 3.0).abs() < 4e-15);
        let rest = Mass::ONE - third - third;
        assert_eq!([third, third, rest].into_iter().sum::<Mass>(), Mass::ONE);
        assert_eq!((Mass::ONE.portion(1.0), Mass::ONE.value()), (Mass::ONE, 1.0));
    }
}
