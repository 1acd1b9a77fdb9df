//! The privacy profile by integration in the complex plane: exact up to a quadrature error that is
//! estimated and must be below 1e-7.
//!
//! Its cost does not depend on the number of rounds, and nothing is put on a grid. It needs that the
//! loss's transform decays along the line, which it does not for a loss that takes isolated values
//! only, nor for few rounds with few participations; then it says so.

use super::{report::Refusal, saddle::Saddle};
use crate::{
    Ledger,
    moments::{Composition, Direction, Vertical},
    numeric::complex::Complex,
};

/// By which ε is enlarged, as a bound on the quadrature error.
const MARGIN: f64 = 1e-6;

/// A way to integrate.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// Of the δ that is asked for, the share of the tails that are cut off. A cut shows as a slow decay
    /// along the line when few rounds are composed; without one, an unlikely loss governs the saddle
    /// when many are.
    lost: f64,
    /// Whether nodes spread like a hyperbolic sine, for an integrand that decays slowly. Even ones suit
    /// one that oscillates before it decays: their error is `δ` at multiples of `2π/step` from ε, tilted
    /// by the saddle.
    spread: bool,
    /// Distance of nodes near the saddle, in units of the peak's width.
    step: f64,
}

const ATTEMPTS: [Attempt; 7] = [
    Attempt { lost: 1e-10, spread: true, step: 0.1 },
    Attempt { lost: 1e-10, spread: false, step: 0.2 },
    Attempt { lost: 1e-10, spread: false, step: 0.1 },
    Attempt { lost: 0.0, spread: true, step: 0.1 },
    Attempt { lost: 1e-22, spread: true, step: 0.05 },
    Attempt { lost: 0.0, spread: true, step: 0.05 },
    Attempt { lost: 0.0, spread: true, step: 0.025 },
];

/// Number of sines after which an attempt is given up.
const MOST_WORK: usize = 1_500_000;
/// So many widths of the peak away the integrand must be below this share of the peak (a logarithm):
/// one that is not decays like `1/s²` only, and never far enough.
const EARLY: (f64, f64) = (40.0, -9.0);
/// Widths of the peak after which an attempt is given up in any case.
const FARTHEST: f64 = 500.0;

/// The least ε ≥ 0 with `δ(ε) ≤ delta`, for groups of `group` units.
///
/// # Errors
/// If an event has no dominating pair, `delta` is 0, or the integral does not converge.
pub fn epsilon(ledger: &Ledger, delta: f64, group: u32) -> Result<f64, Refusal> {
    if delta <= 0.0 {
        return Err(Refusal::DeltaZero);
    }
    first(|attempt| {
        let composition = composition(ledger, group, attempt.lost * delta)?;
        let rest = composition.rest(delta)?;
        let (mut worst, mut guess) = (0.0_f64, 1.0);
        for direction in composition.directions() {
            if worst > 0.0 && Saddle::rules_out(&composition, *direction, (worst, rest), guess) {
                continue;
            }
            let saddle = Saddle::for_delta(&composition, *direction, delta);
            guess = saddle.s;
            let line = Line::through(&composition, *direction, saddle, attempt)?;
            worst = worst.max(line.epsilon(rest, saddle.epsilon)?);
        }
        Ok(worst * (1.0 + MARGIN))
    })
}

/// `δ(ε)` for groups of `group` units.
///
/// # Errors
/// As [`epsilon`].
pub fn delta(ledger: &Ledger, epsilon: f64, group: u32) -> Result<f64, Refusal> {
    let bound = super::rdp::delta(ledger, epsilon, group)?;
    first(|attempt| {
        let composition = composition(ledger, group, 1e-6 * attempt.lost * bound)?;
        let mut worst = 0.0_f64;
        for direction in composition.directions() {
            let saddle = Saddle::for_epsilon(&composition, *direction, epsilon);
            worst = worst.max(Line::through(&composition, *direction, saddle, attempt)?.delta(epsilon)?.0);
        }
        Ok(worst * (1.0 + MARGIN) + composition.lost)
    })
}

/// The first attempt that converges.
fn first(ask: impl Fn(Attempt) -> Result<f64, Refusal>) -> Result<f64, Refusal> {
    for attempt in ATTEMPTS {
        let answer = ask(attempt);
        if answer != Err(Refusal::NotConverged) {
            return answer;
        }
    }
    Err(Refusal::NotConverged)
}

fn composition(ledger: &Ledger, group: u32, lost: f64) -> Result<Composition, Refusal> {
    let composition = Composition::of(ledger, group, lost).ok_or(Refusal::NoDominatingPair)?;
    if composition.parts.iter().all(|(loss, _)| loss.has_atoms()) {
        return Err(Refusal::DiscreteLoss);
    }
    Ok(composition)
}

/// The lines of all parts through a real `t`, fine enough for this oscillation.
fn verticals(composition: &Composition, t: f64, oscillation: f64) -> Vec<Vertical> {
    composition.points(t, oscillation).iter().map(|points| points.vertical(t)).collect()
}

/// The integrand without `e^{-sε}` along a vertical line.
struct Line {
    nodes: Vec<(Complex, Complex)>,
    weights: Vec<f64>,
}

impl Line {
    /// Nodes at `s = saddle + i·scale·y`, until the integrand is e^-24 of its peak: below that, the
    /// tails that were cut off show.
    fn through(
        composition: &Composition,
        direction: Direction,
        saddle: Saddle,
        Attempt { spread, step, .. }: Attempt,
    ) -> Result<Self, Refusal> {
        let scale = saddle.curvature().powf(-0.5);
        let mut line = Self { nodes: Vec::new(), weights: Vec::new() };
        let (mut resolved, mut points, mut work) = (0.0, Vec::new(), 0);
        let mut peak = f64::NEG_INFINITY;
        for index in 0.. {
            let u = f64::from(index) * step;
            let (y, stretch) = if spread { (u.sinh(), u.cosh()) } else { (u, 1.0) };
            if index == 0 || y > resolved {
                resolved = 2.0 * y.max(4.0);
                points = verticals(composition, direction.exponent(saddle.s), resolved * scale);
            }
            let s = Complex::new(saddle.s, y * scale);
            let im = if direction == Direction::Remove { s.im } else { -s.im };
            let mut value = Complex::ZERO - s.ln() - (s + Complex::real(1.0)).ln();
            // The size of a transform that does not decay may dip and come back: it counts with the bound
            // that it has on the real axis.
            let mut size = value.re + stretch.ln();
            for (points, (loss, count)) in points.iter().zip(&composition.parts) {
                let part = points.ln_moment(im).scale(*count);
                size += if loss.has_atoms() { count * points.ln_moment(0.0).re } else { part.re };
                value = value + part;
                work += points.len();
            }
            line.nodes.push((s, value));
            line.weights
                .push(stretch * scale * step / std::f64::consts::PI * if index == 0 { 0.5 } else { 1.0 });
            peak = peak.max(size);
            if size < peak - 24.0 {
                let (value, error) = line.sum(saddle.epsilon);
                return if error <= 1e-7 * value { Ok(line) } else { Err(Refusal::NotConverged) };
            }
            let slow = y > EARLY.0 && size > peak + EARLY.1;
            if slow || work > MOST_WORK || y > FARTHEST {
                break;
            }
        }
        Err(Refusal::NotConverged)
    }

    /// `δ(ε)`, and its difference to the sum over every other node with what may be rounded: off the saddle
    /// of ε large terms cancel.
    fn sum(&self, epsilon: f64) -> (f64, f64) {
        let (mut all, mut even, mut size) = (0.0, 0.0, 0.0);
        for (index, term) in self.terms(epsilon).enumerate() {
            all += term.re;
            size += term.re.abs();
            if index % 2 == 0 {
                even += 2.0 * term.re;
            }
        }
        (all, (all - even).abs() + 1e-14 * size)
    }

    fn terms(&self, epsilon: f64) -> impl Iterator<Item = Complex> {
        let weighted = self.nodes.iter().zip(&self.weights);
        weighted.map(move |((s, value), weight)| (*value - s.scale(epsilon)).exp().scale(*weight))
    }

    /// `δ(ε)` and its derivative.
    fn delta(&self, epsilon: f64) -> Result<(f64, f64), Refusal> {
        let value: f64 = self.terms(epsilon).map(|term| term.re).sum();
        let slope = self.terms(epsilon).zip(&self.nodes).map(|(term, (s, _))| -(term * *s).re).sum();
        if value > 0.0 { Ok((value, slope)) } else { Err(Refusal::NotConverged) }
    }

    /// The ε ≥ 0 with `δ(ε) = delta`, by Newton's method on ln δ, which is nearly linear.
    fn epsilon(&self, delta: f64, guess: f64) -> Result<f64, Refusal> {
        let mut epsilon = guess.max(0.0);
        for _ in 0..60 {
            let (value, slope) = self.delta(epsilon)?;
            if epsilon == 0.0 && value <= delta {
                return Ok(0.0);
            }
            let step = (value / delta).ln() * value / slope;
            let next = (epsilon - step).max(0.0);
            if (next - epsilon).abs() <= 1e-12 * epsilon {
                let (value, error) = self.sum(next);
                return if error <= 1e-6 * value { Ok(next) } else { Err(Refusal::NotConverged) };
            }
            epsilon = next;
        }
        Err(Refusal::NotConverged)
    }
}
