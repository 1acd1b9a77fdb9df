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
/// Most that the grid may raise `ln δ`: it raises the mass outside the window about as much, which comes
/// back at the other end and counts for less than it is.
const MOST_RAISED: f64 = 8.0;
/// How far the rounding of the transform may move the sum of the tilted masses from 1.
const DRIFT: f64 = 1e-6;
/// Of the tilted masses, whose sum is 1: what a transform may lose for each event.
const ROUNDING: f64 = 1e-15;
/// Of the δ that is asked for, the share of the tails that are cut off: with fewer of the very unlikely,
/// very large losses the grid is finer, and ε grows by about a millionth.
const TAILS: f64 = 1e-6;
/// How far the grid may move ε, relative to it.
const FINE: f64 = 3e-4;
const FEWEST_BITS: u32 = 14;
const MOST_BITS: u32 = 21;

/// The least ε ≥ 0 with `δ(ε) ≤ delta`, for groups of `group` units.
///
/// # Errors
/// If an event has no dominating pair, or `delta` is 0.
pub fn epsilon(ledger: &Ledger, delta: f64, group: u32) -> Result<f64, Refusal> {
    if delta <= 0.0 {
        return Err(Refusal::DeltaZero);
    }
    if ledger.events().is_empty() {
        return Ok(0.0);
    }
    let composition = Composition::of(ledger, group, TAILS * delta).ok_or(Refusal::NoDominatingPair)?;
    let rest = composition.rest(delta)?;
    let (mut worst, mut guess) = (0.0_f64, 1.0);
    for direction in composition.directions() {
        if worst > 0.0 && Saddle::rules_out(&composition, *direction, (worst, rest), guess) {
            continue;
        }
        let saddle = Saddle::for_delta(&composition, *direction, delta);
        guess = saddle.s;
        worst = worst.max({
            let allowed = FINE * saddle.s * saddle.epsilon.max(1e-3);
            Grid::of(&composition, *direction, saddle, allowed)?.epsilon(rest)?
        });
    }
    Ok(worst)
}

/// `δ(ε)` for groups of `group` units.
///
/// # Errors
/// If an event has no dominating pair.
pub fn delta(ledger: &Ledger, epsilon: f64, group: u32) -> Result<f64, Refusal> {
    if ledger.events().is_empty() {
        return Ok(0.0);
    }
    let bound = super::rdp::delta(ledger, epsilon, group)?;
    let composition =
        Composition::of(ledger, group, 1e-6 * TAILS * bound).ok_or(Refusal::NoDominatingPair)?;
    composition.directions().iter().try_fold(0.0, |worst: f64, direction| {
        let saddle = Saddle::for_epsilon(&composition, *direction, epsilon);
        let grid = Grid::of(&composition, *direction, saddle, 10.0 * FINE)?;
        Ok(worst.max(grid.delta(epsilon) + composition.lost))
    })
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
    /// Tilted mass that the masses may lack: what lies outside the window, and what the transform rounds.
    missing: f64,
}

impl Grid {
    /// A grid that raises `ln δ` by at most `allowed`, or as fine as it may be.
    ///
    /// # Errors
    /// If even the finest is so coarse that the losses may not stay in its window.
    fn of(
        composition: &Composition,
        direction: Direction,
        saddle: Saddle,
        allowed: f64,
    ) -> Result<Self, Refusal> {
        let window = window(composition, direction, &saddle);
        let mut bits = FEWEST_BITS;
        loop {
            let cells = Cells::of(composition, (direction, saddle), window, 1 << bits);
            if cells.raised <= allowed || bits >= MOST_BITS {
                return cells.compose(composition, saddle.s);
            }
            // The error falls with the spacing or with its square.
            bits = if cells.raised <= 3.0 * allowed { bits + 1 } else { bits + 2 }.min(MOST_BITS);
        }
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

    /// The most that the missing mass may add to `δ(ε)`; little if the tilt is that of the saddle of ε.
    fn beyond(&self, epsilon: f64) -> f64 {
        self.missing * (self.scale - self.tilt * epsilon).exp()
    }

    fn epsilon(&self, delta: f64) -> Result<f64, Refusal> {
        if self.beyond(self.loss(self.masses.len())) > delta {
            return Err(Refusal::TooCoarse);
        }
        let found = self.scan(|index, mass, weighted| {
            let loss = self.loss(index);
            let at_zero = loss <= 0.0;
            let (next, rest) = (loss + self.spacing, delta - self.beyond(loss.max(0.0)));
            // δ(ε) = mass − e^{ε − next}·weighted for ε from `loss` to `next`.
            let here = mass - (loss.max(0.0) - next).exp() * weighted;
            if here > rest {
                let epsilon = next + ((mass - rest) / weighted).ln();
                // Without mass above it is the rest that decides, and it did not at `next`.
                return Some(if epsilon.is_finite() { epsilon.clamp(loss.max(0.0), next) } else { next });
            }
            at_zero.then_some(0.0)
        });
        Ok(found.unwrap_or(0.0))
    }

    fn delta(&self, epsilon: f64) -> f64 {
        let found = self.scan(|index, mass, weighted| {
            let loss = self.loss(index);
            (loss <= epsilon).then(|| mass - (epsilon - loss - self.spacing).exp() * weighted)
        });
        (found.unwrap_or(1.0) + self.beyond(epsilon)).clamp(0.0, 1.0)
    }
}

/// The tilted masses of each part on the grid.
struct Cells {
    spacing: f64,
    /// Multiple of the spacing at which the grid starts.
    start: i64,
    parts: Vec<Vec<Complex>>,
    /// ln of the moment of the whole ledger at the tilt.
    scale: f64,
    /// By how much the grid raised it.
    raised: f64,
}

impl Cells {
    fn of(
        composition: &Composition,
        (direction, saddle): (Direction, Saddle),
        (low, high): (f64, f64),
        length: usize,
    ) -> Self {
        let t = direction.exponent(saddle.s);
        let one = |points: &Points| points.range().1 - points.range().0;
        let widest = composition.points(t, 0.0).iter().map(one).fold(0.0, f64::max);
        // Room for the losses at the ends: an event moves them outwards by up to a cell. Where there are
        // many events, the window does not reach that far.
        let events: f64 = composition.parts.iter().map(|(_, count)| count + 1.0).sum();
        let room = if events < length as f64 / 8.0 { events } else { 2.0 };
        let spacing = (high - low).max(widest) / (length as f64 - 2.0 * room - 1.0);
        let start = (low / spacing - room).floor() as i64;
        let mut cells = Self { spacing, start, parts: Vec::new(), scale: 0.0, raised: 0.0 };
        for (loss, count) in &composition.parts {
            let points = loss.cells(composition.tail, spacing);
            let value = points.ln_moment(t);
            let mut masses = vec![Complex::ZERO; length];
            let shape = Shape { spacing, tilt: saddle.s, value, direction };
            points.ln_q.iter().zip(&points.loss).for_each(|(q, loss)| shape.split(*q, *loss, &mut masses));
            let total: f64 = masses.iter().map(|mass| mass.re).sum();
            for mass in &mut masses {
                *mass = mass.scale(1.0 / total);
            }
            cells.scale += count * (value + total.ln());
            cells.raised += count * total.ln();
            cells.parts.push(masses);
        }
        cells
    }

    fn compose(self, composition: &Composition, tilt: f64) -> Result<Grid, Refusal> {
        // A raise that is no number is none that is small.
        if self.raised.is_nan() || self.raised > MOST_RAISED {
            return Err(Refusal::TooCoarse);
        }
        let length = self.parts.first().map_or(1, Vec::len);
        let fft = Fft::new(length);
        let mut product = vec![Complex::real(1.0); length];
        for (mut masses, (_, count)) in self.parts.into_iter().zip(&composition.parts) {
            fft.forward(&mut masses);
            for (product, mass) in product.iter_mut().zip(&masses) {
                let ln = mass.ln();
                *product = *product * Complex::new(count * ln.re, count * ln.im).exp();
            }
        }
        fft.inverse(&mut product);
        let start = self.start;
        let at = |i: usize| product[(start + i as i64).rem_euclid(length as i64) as usize].re.max(0.0);
        let masses: Vec<f64> = (0..length).map(at).collect();
        let total: f64 = masses.iter().sum();
        if total.is_nan() || (total - 1.0).abs() > DRIFT {
            return Err(Refusal::TooCoarse);
        }
        let events: f64 = composition.parts.iter().map(|(_, count)| count).sum();
        let missing = 2.0 * (self.raised - OUTSIDE).exp() + ROUNDING * (events + 100.0);
        Ok(Grid { start, spacing: self.spacing, masses, tilt, scale: self.scale, missing })
    }
}

/// Losses outside which the tilted law of the ledger has a mass below `e^{-OUTSIDE}`, by Chernoff
/// bounds.
fn window(composition: &Composition, direction: Direction, saddle: &Saddle) -> (f64, f64) {
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    let (least, most) = composition.range(direction);
    let largest = (16.0 / saddle.variance.sqrt()).min(100.0 * (saddle.s + 1.0));
    for power in -8..=0 {
        let shift = 2.0_f64.powi(power) * largest;
        let moved = |shift: f64| composition.derivatives(direction, saddle.s + shift)[0] - saddle.value;
        high = high.min((moved(shift) + OUTSIDE) / shift);
        low = low.max((moved(-shift) + OUTSIDE) / -shift);
    }
    // At least a little room, should the loss take one value only.
    let room = 1e-6 * (most - least);
    (low.max(least) - room, high.min(most) + room)
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
