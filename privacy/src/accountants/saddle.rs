//! Where the integrand of a privacy profile peaks.
//!
//! `δ(ε) = 1/2πi ∫ exp(F(s) − sε) / (s(s+1)) ds` along any vertical line right of 0, since the Laplace
//! transform of `(1 − e^{ε−x})₊` is `1/(s(s+1))`. On the real axis the integrand has one least point,
//! through which the contour accountant draws its line and with which the grid accountant tilts.

use crate::{
    moments::{Composition, Direction},
    numeric::search::bisect,
};

/// A point on the real axis and the ε whose integrand is least there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saddle {
    pub(crate) s: f64,
    pub(crate) epsilon: f64,
    /// `F(s)`.
    pub(crate) value: f64,
    /// `F''(s)`: the variance of the tilted loss.
    pub(crate) variance: f64,
}

impl Saddle {
    fn at(composition: &Composition, direction: Direction, s: f64) -> Self {
        let [value, first, variance] = composition.derivatives(direction, s);
        Self { s, epsilon: first - 1.0 / s - 1.0 / (s + 1.0), value, variance }
    }

    /// Second derivative of the logarithm of the integrand.
    pub(crate) fn curvature(&self) -> f64 {
        self.variance + self.s.powi(-2) + (self.s + 1.0).powi(-2)
    }

    /// `ln δ(ε)` by the saddle-point approximation.
    fn ln_delta(&self) -> f64 {
        let peak = self.value - self.s * self.epsilon - self.s.ln() - self.s.ln_1p();
        peak - 0.5 * (std::f64::consts::TAU * self.curvature()).ln()
    }

    /// Whether `δ(epsilon) ≤ delta` follows from one moment alone: `(1 − e^{ε−l})₊` is at most
    /// `s^s/(s+1)^{s+1}·e^{s(l−ε)}` for every s. Cheap, and enough to rule out one of the two directions;
    /// `guess` is the saddle of the other one, which is nearly always good enough.
    pub(crate) fn rules_out(
        composition: &Composition,
        direction: Direction,
        (epsilon, delta): (f64, f64),
        guess: f64,
    ) -> bool {
        let small = |Self { s, value, .. }: Self| {
            value - s * epsilon + s * s.ln() - (s + 1.0) * s.ln_1p() <= delta.ln()
        };
        composition.range(direction).1 <= epsilon
            || small(Self::at(composition, direction, guess))
            || small(Self::for_epsilon(composition, direction, epsilon))
    }

    /// For the ε at which δ is about `delta`, or for 0 if that is negative.
    pub(crate) fn for_delta(composition: &Composition, direction: Direction, delta: f64) -> Self {
        let ln_delta = delta.ln();
        Self::search(composition, direction, |saddle| saddle.ln_delta() > ln_delta || saddle.epsilon < 0.0)
    }

    pub(crate) fn for_epsilon(composition: &Composition, direction: Direction, epsilon: f64) -> Self {
        Self::search(composition, direction, |saddle| saddle.epsilon < epsilon)
    }

    fn search(composition: &Composition, direction: Direction, below: impl Fn(&Self) -> bool) -> Self {
        let at = |ln_s: f64| Self::at(composition, direction, ln_s.exp());
        // From 1 in doublings: a large exponent costs many points, unless it meets small losses.
        let (mut low, mut high) = (0.0, 0.0);
        if below(&at(0.0)) {
            let mut before = 0.0;
            let most = if composition.widest() < 1e-3 { 26.0 } else { 12.0 };
            while high < most {
                (low, high) = (high, high + std::f64::consts::LN_2);
                let here = at(high);
                // When all that is tilted is at the largest loss, more tilt changes nothing.
                let spread = here.variance * here.s * here.s;
                if !below(&here) || (spread < 1e-2 && spread < before) {
                    break;
                }
                before = spread;
            }
        } else {
            while low > -12.0 {
                (low, high) = (low - std::f64::consts::LN_2, low);
                if below(&at(low)) {
                    break;
                }
            }
        }
        at(bisect(low, high, 9, |ln_s| below(&at(ln_s))).1)
    }
}
