//! Complex numbers: only what the contour accountant and the Fourier transform need.

use std::ops::{Add, Mul, Sub};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Complex {
    pub(crate) re: f64,
    pub(crate) im: f64,
}

impl Complex {
    pub(crate) const ZERO: Self = Self { re: 0.0, im: 0.0 };

    pub(crate) const fn new(re: f64, im: f64) -> Self {
        Self { re, im }
    }

    pub(crate) const fn real(re: f64) -> Self {
        Self { re, im: 0.0 }
    }

    pub(crate) fn polar(radius: f64, angle: f64) -> Self {
        let (sin, cos) = libm::sincos(angle);
        Self::new(radius * cos, radius * sin)
    }

    pub(crate) fn exp(self) -> Self {
        Self::polar(self.re.exp(), self.im)
    }

    pub(crate) fn scale(self, factor: f64) -> Self {
        Self::new(self.re * factor, self.im * factor)
    }

    pub(crate) fn norm(self) -> f64 {
        libm::hypot(self.re, self.im)
    }

    pub(crate) fn ln(self) -> Self {
        Self::new(self.norm().ln(), libm::atan2(self.im, self.re))
    }

    /// `ln(1 + self)` with its relative precision near 0.
    pub(crate) fn ln_1p(self) -> Self {
        let excess = self.re.mul_add(2.0 + self.re, self.im * self.im);
        Self::new(0.5 * excess.ln_1p(), libm::atan2(self.im, 1.0 + self.re))
    }
}

impl Add for Complex {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.re + other.re, self.im + other.im)
    }
}

impl Sub for Complex {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::new(self.re - other.re, self.im - other.im)
    }
}

impl Mul for Complex {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self::new(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_keeps_small_numbers() {
        let x = Complex::new(1e-20, 3e-19);
        let ln = x.ln_1p();
        assert!((ln.re / 1e-20 - 1.0).abs() < 1e-12 && (ln.im / 3e-19 - 1.0).abs() < 1e-12);
        let back = (Complex::new(1.0, 2.0).ln()).exp();
        assert!((back - Complex::new(1.0, 2.0)).norm() < 1e-14);
    }
}
