//! The privacy loss distribution on a grid: an upper bound by construction.
//!
//! Each cell's mass under both distributions is moved to the two grid points around it such that
//! both masses are kept ("connect the dots", Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022),
//! in a form that sums positive terms only. Before the Fourier transform the masses are tilted by
//! `e^{θl}` with θ at the saddle, so that the rounding of the transform is small against δ however
//! small δ is; an untilted transform returned a δ below the truth, and negative ones.

use super::{report::Refusal, saddle::Saddle};
use crate::{
    Ledger,
    loss::Points,
    moments::{Composition, Direction},
    numeric::{complex::Complex, fft::Fft},
};

/// Bound of everything that is rounded or cut, relative to δ.
const MARGIN: f64 = 1e-8;
/// −ln of the tilted mass that may lie outside the window.
const OUTSIDE: f64 = 34.0;
const FEWEST_POINTS: usize = 1 << 16;
const MOST_POINTS: usize = 1 << 20;

/// The least ε ≥ 0 with `δ(ε) ≤ delta`, for groups of `group` units.
///
/// # Errors
/// If an event has no dominating pair, or `delta` is 0.
pub fn epsilon(ledger: &Ledger, delta: f64, group: u32) -> Result<f64, Refusal> {
    if delta <= 0.0 {
        return Err(Refusal::DeltaZero);
    }
    let composition = Composition::of(ledger, group, delta).ok_or(Refusal::NoDominatingPair)?;
    let one = |direction: &Direction| {
        let saddle = Saddle::for_delta(&composition, *direction, delta);
        Grid::of(&composition, *direction, saddle).epsilon(delta - composition.lost)
    };
    Ok(composition.directions().iter().map(one).fold(0.0, f64::max))
}

/// `δ(ε)` for groups of `group` units.
///
/// # Errors
/// If an event has no dominating pair.
pub fn delta(ledger: &Ledger, epsilon: f64, group: u32) -> Result<f64, Refusal> {
    let bound = super::rdp::delta(ledger, epsilon, group)?;
    let composition = Composition::of(ledger, group, 1e-3 * bound).ok_or(Refusal::NoDominatingPair)?;
    let one = |direction: &Direction| {
        let saddle = Saddle::for_epsilon(&composition, *direction, epsilon);
        Grid::of(&composition, *direction, saddle).delta(epsilon) + composition.lost
    };
    Ok(composition.directions().iter().map(one).fold(0.0, f64::max))
}

/// The tilted distribution of the loss of the whole ledger.
struct Grid {
    /// Multiple of the spacing at which `masses` starts.
    start: i64,
    spacing: f64,
    /// The mass at `l` is `exp(scale − tilt·l)` times this.
    masses: Vec<f64>,
    tilt: f64,
    scale: f64,
}

impl Grid {
    fn of(composition: &Composition, direction: Direction, saddle: Saddle) -> Self {
        let (low, high) = window(composition, direction, &saddle);
        let tilt = saddle.s;
        let t = direction.exponent(tilt);
        let points = composition.points(t, 0.0);
        let one_step = points.iter().map(|points| points.derivatives(t)[2]);
        let narrowest = one_step.fold(f64::INFINITY, f64::min).sqrt();
        let wanted = ((high - low) / (0.1 * narrowest)).min(MOST_POINTS as f64) as usize;
        let length = wanted.max(FEWEST_POINTS).next_power_of_two();
        let widest = points.iter().map(Points::range).fold(0.0, f64::max);
        let spacing = ((high - low) / length as f64).max(widest / MOST_POINTS as f64);
        let fft = Fft::new(length);
        let mut product = vec![Complex::real(1.0); length];
        let mut scale = 0.0;
        for (loss, count) in &composition.parts {
            let points = loss.cells(composition.tail, spacing);
            let [value, ..] = points.derivatives(t);
            let mut masses = vec![Complex::ZERO; length];
            let shape = Shape { spacing, tilt, value, direction };
            points.ln_q.iter().zip(&points.loss).for_each(|(q, loss)| shape.split(*q, *loss, &mut masses));
            let total: f64 = masses.iter().map(|mass| mass.re).sum();
            for mass in &mut masses {
                *mass = mass.scale(1.0 / total);
            }
            scale += count * (value + total.ln());
            fft.forward(&mut masses);
            for (product, mass) in product.iter_mut().zip(&masses) {
                let ln = mass.ln();
                *product = *product * Complex::new(count * ln.re, count * ln.im).exp();
            }
        }
        fft.inverse(&mut product);
        let start = (low / spacing).floor() as i64;
        let at = |i: usize| product[(start + i as i64).rem_euclid(length as i64) as usize].re.max(0.0);
        Self { start, spacing, masses: (0..length).map(at).collect(), tilt, scale }
    }

    fn loss(&self, index: usize) -> f64 {
        (self.start + index as i64) as f64 * self.spacing
    }

    fn mass(&self, index: usize) -> f64 {
        self.masses[index] * (self.scale - self.tilt * self.loss(index)).exp() * (1.0 + MARGIN)
    }

    /// From the largest loss down: `visit` gets an index, the mass above it, and `Σ p e^{l_{index+1} − l}`
    /// over that mass, until it returns something.
    fn scan<T>(&self, mut visit: impl FnMut(usize, f64, f64) -> Option<T>) -> Option<T> {
        let decay = (-self.spacing).exp();
        let (mut mass, mut weighted) = (0.0, 0.0);
        for index in (0..self.masses.len()).rev() {
            if let Some(found) = visit(index, mass, weighted) {
                return Some(found);
            }
            let here = self.mass(index);
            mass += here;
            weighted = weighted * decay + here;
        }
        None
    }

    fn epsilon(&self, delta: f64) -> f64 {
        let found = self.scan(|index, mass, weighted| {
            let loss = self.loss(index);
            let at_zero = loss <= 0.0;
            let next = loss + self.spacing;
            // δ(ε) = mass − e^{ε − next}·weighted for ε from `loss` to `next`.
            let here = mass - (loss.max(0.0) - next).exp() * weighted;
            if here > delta {
                return Some((next + ((mass - delta) / weighted).ln()).clamp(loss.max(0.0), next));
            }
            at_zero.then_some(0.0)
        });
        found.unwrap_or(0.0)
    }

    fn delta(&self, epsilon: f64) -> f64 {
        let found = self.scan(|index, mass, weighted| {
            let loss = self.loss(index);
            (loss <= epsilon).then(|| mass - (epsilon - loss - self.spacing).exp() * weighted)
        });
        found.unwrap_or(1.0).clamp(0.0, 1.0)
    }
}

/// Losses outside which the tilted law of the ledger has a mass below `e^{-OUTSIDE}`, by Chernoff
/// bounds.
fn window(composition: &Composition, direction: Direction, saddle: &Saddle) -> (f64, f64) {
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    let largest = 16.0 / saddle.variance.sqrt();
    for power in -8..=0 {
        let shift = 2.0_f64.powi(power) * largest;
        let moved = |shift: f64| composition.derivatives(direction, saddle.s + shift)[0] - saddle.value;
        high = high.min((moved(shift) + OUTSIDE) / shift);
        low = low.max((moved(-shift) + OUTSIDE) / -shift);
    }
    (low, high)
}

struct Shape {
    spacing: f64,
    tilt: f64,
    /// ln of the tilted mass of all cells.
    value: f64,
    direction: Direction,
}

impl Shape {
    /// Adds the point with `ln q` and the loss `ln p/q` to the grid points below and above its loss.
    fn split(&self, ln_q: f64, loss: f64, masses: &mut [Complex]) {
        let (ln_p, loss) = match self.direction {
            Direction::Remove => (ln_q + loss, loss),
            Direction::Add => (ln_q, -loss),
        };
        let below = (loss / self.spacing).floor();
        let above_share = -(below * self.spacing - loss).exp_m1() / -(-self.spacing).exp_m1();
        let above_share = above_share.clamp(0.0, 1.0);
        let tilted = |steps: f64| (ln_p + self.tilt * steps * self.spacing - self.value).exp();
        let length = masses.len() as i64;
        let mut add = |steps: f64, share: f64| {
            masses[(steps as i64).rem_euclid(length) as usize].re += share * tilted(steps);
        };
        add(below, 1.0 - above_share);
        add(below + 1.0, above_share);
    }
}
