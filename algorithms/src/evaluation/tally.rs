//! What clients tell of their held-out predictions beyond hits and loss, and how a coordinator adds it up:
//! counts of (label, prediction), and sums over the parts of the confidence axis from which the calibration
//! error of the most likely class follows exactly as from the predictions themselves.
//!
//! All sums are integers, so that their order does not matter, and the memory for them is bounded whatever
//! clients say: [`CLASSES`]² counts and [`PARTS`] parts.

use super::{
    Assessment, Calibration, Confusion, bins_for,
    calibration::{Cube, part_of},
};
use std::collections::BTreeMap;

/// Parts into which clients cut the confidence axis. Many numbers divide it, so that it can be made coarser
/// for few predictions.
pub const PARTS: usize = 60;
/// Most classes whose confusion is told.
pub const CLASSES: u32 = 256;
/// Most predictions of one client.
const PREDICTIONS: u64 = 1 << 32;
/// One, in the unit of the sums.
const ONE: f64 = (1_u64 << 30) as f64;

/// So many examples of one label were taken for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What it was, below [`CLASSES`].
    pub label: u32,
    /// What it was taken for, below [`CLASSES`].
    pub prediction: u32,
    /// How often, at least 1.
    pub count: u64,
}

/// Sums over the predictions whose confidence `Z` lies in one part of the axis. With `U = Y − Z`, `Y` 1 if the
/// prediction is right and 0 if not, and `S = Z(1 − Z)`; in units of 2⁻³⁰, each prediction rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Which part, below [`PARTS`].
    pub part: u32,
    /// Predictions.
    pub count: u64,
    /// Σ U.
    pub residual: i64,
    /// Σ U².
    pub squares: i64,
    /// Σ S.
    pub spread: i64,
    /// Σ S².
    pub spread_squares: i64,
}

/// What one client tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Counts that are not 0; none for more than [`CLASSES`] classes.
    pub confusion: Vec<Cell>,
    /// Parts that are not empty.
    pub parts: Vec<Part>,
}

impl Details {
    /// Of what a client saw.
    pub fn of(seen: &Assessment) -> Self {
        let classes = seen.confusion.classes;
        let cell = |(at, count): (usize, &u64)| {
            let place = |n: usize| u32::try_from(n).ok().filter(|n| *n < CLASSES);
            let (label, prediction) = (place(at / classes)?, place(at % classes)?);
            (*count > 0).then_some(Cell { label, prediction, count: *count })
        };
        let told = classes <= CLASSES as usize;
        let cells = seen.confusion.counts.iter().enumerate().filter(|_| told).filter_map(cell);
        let mut parts = vec![Part::default(); PARTS];
        for (z, right) in seen.sample.first() {
            let at = part_of(z, PARTS);
            let z = f64::from(z);
            let (u, s) = (f64::from(u8::from(right)) - z, z * (1.0 - z));
            let unit = |value: f64| (value * ONE).round() as i64;
            let part = &mut parts[at];
            part.part = at as u32;
            part.count += 1;
            part.residual += unit(u);
            part.squares += unit(u * u);
            part.spread += unit(s);
            part.spread_squares += unit(s * s);
        }
        Self { confusion: cells.collect(), parts: parts.into_iter().filter(|part| part.count > 0).collect() }
    }

    /// Whether a client that made `predictions` predictions, `correct` of them right, can have seen this.
    pub fn is_possible(&self, predictions: u64, correct: u64) -> bool {
        let all = sum(self.confusion.iter().map(|cell| cell.count));
        let hits = self.confusion.iter().filter(|cell| cell.label == cell.prediction).map(|cell| cell.count);
        let cells = self.confusion.iter().all(|cell| cell.label < CLASSES && cell.prediction < CLASSES);
        let parts = self.parts.iter().all(Part::is_possible);
        let counted = sum(self.parts.iter().map(|part| part.count));
        let fits = |count: Option<u64>, most: u64| count.is_some_and(|count| count <= most);
        // A prediction that is no number is in neither.
        predictions <= PREDICTIONS
            && cells
            && parts
            && fits(all, predictions)
            && fits(sum(hits), correct)
            && fits(counted, predictions)
    }
}

/// `None` where it does not fit.
fn sum(mut counts: impl Iterator<Item = u64>) -> Option<u64> {
    counts.try_fold(0, u64::checked_add)
}

impl Part {
    fn is_possible(&self) -> bool {
        let most = self.count.min(PREDICTIONS) as i64 * ONE as i64;
        let within = |value: i64| (0..=most).contains(&value);
        self.part < PARTS as u32
            && self.count <= PREDICTIONS
            && self.residual.unsigned_abs() <= most.unsigned_abs()
            && within(self.squares)
            && within(self.spread)
            && within(self.spread_squares)
    }
}

/// The sum of what clients told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    cells: BTreeMap<(u32, u32), u64>,
    /// Count, then the four sums.
    parts: BTreeMap<u32, (u64, [i128; 4])>,
}

impl Tally {
    /// Takes in what a client told, which must be possible.
    pub fn add(&mut self, told: &Details) {
        for Cell { label, prediction, count } in &told.confusion {
            let sum = self.cells.entry((*label, *prediction)).or_default();
            *sum = sum.saturating_add(*count);
        }
        for part in &told.parts {
            let (count, sums) = self.parts.entry(part.part).or_default();
            *count = count.saturating_add(part.count);
            let more = [part.residual, part.squares, part.spread, part.spread_squares];
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += i128::from(more));
        }
    }

    /// Who was taken for whom; `None` if nobody told.
    pub fn confusion(&self) -> Option<Confusion> {
        let classes = self.cells.keys().map(|(label, prediction)| label.max(prediction) + 1).max()? as usize;
        let mut confusion = Confusion::new(classes);
        for ((label, prediction), count) in &self.cells {
            confusion.counts[*label as usize * classes + *prediction as usize] = *count;
        }
        Some(confusion)
    }

    /// The calibration error of the most likely class, with as many parts of the axis as there are predictions
    /// for (at most [`PARTS`]); `None` for fewer than two predictions.
    pub fn calibration(&self) -> Option<Calibration> {
        let predictions = self.parts.values().fold(0_u64, |sum, (count, _)| sum.saturating_add(*count));
        let wanted = bins_for(predictions as usize, 1);
        let bins = (1..PARTS).find(|bins| PARTS.is_multiple_of(*bins) && *bins >= wanted).unwrap_or(PARTS);
        self.calibration_with(bins)
    }

    fn calibration_with(&self, bins: usize) -> Option<Calibration> {
        let mut cubes: BTreeMap<usize, Cube> = BTreeMap::new();
        for (part, (count, sums)) in &self.parts {
            let cube = cubes.entry(*part as usize * bins / PARTS).or_insert_with(|| Cube::new(1));
            let [residual, squares, spread, spread_squares] = sums.map(|sum| sum as f64 / ONE);
            cube.count += *count as f64;
            cube.sum[0] += residual;
            cube.products[0] += squares;
            cube.spread[0] += spread;
            cube.spread_squares += spread_squares;
        }
        Calibration::of(cubes.values(), (1, bins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluation::read,
        seed::{mix, unit},
    };

    fn seen(seed: u64, n: u64) -> Assessment {
        let draw = |at: u64| unit(mix(mix(seed) ^ at));
        let logits: Vec<f32> = (0..n * 3).map(|at| (draw(at) * 4.0) as f32).collect();
        let labels: Vec<u32> = (0..n).map(|at| (draw(at + (1 << 40)) * 3.0) as u32).collect();
        read(&logits, &labels, (3, 1))
    }

    #[test]
    fn sums_of_clients_tell_what_their_predictions_tell() {
        let (mut whole, mut tally) = (Assessment::new(3, 1), Tally::default());
        let clients: Vec<Assessment> = (0..5).map(|client| seen(client, 100 + client)).collect();
        for client in &clients {
            whole.add(client);
            let told = Details::of(client);
            assert!(told.is_possible(client.predictions, client.correct));
            tally.add(&told);
        }
        assert_eq!(tally.confusion().unwrap(), whole.confusion);
        for bins in [1, 4, 12, 60] {
            let (want, got) =
                (whole.sample.calibration(bins).unwrap(), tally.calibration_with(bins).unwrap());
            for (want, got) in [(want.squared, got.squared), (want.low, got.low), (want.high, got.high)] {
                assert!((want - got).abs() < 1e-7, "{bins}: {want} {got}");
            }
            assert_eq!((want.calibrated, want.predictions), (got.calibrated, got.predictions));
        }
        let mut backwards = Tally::default();
        clients.iter().rev().for_each(|client| backwards.add(&Details::of(client)));
        assert_eq!(backwards, tally, "in any order");
        // 510 predictions: 13 parts would do, 15 divides 60.
        assert_eq!(tally.calibration().unwrap().bins, 15);
        assert_eq!((Tally::default().calibration(), Tally::default().confusion()), (None, None));
    }

    #[test]
    fn what_cannot_be_is_found() {
        let good = Details::of(&seen(1, 50));
        let (all, right) = (50, seen(1, 50).correct);
        assert!(good.is_possible(all, right));
        assert!(!good.is_possible(all - 1, right) && !good.is_possible(all, right - 1));
        let changed = |change: &dyn Fn(&mut Details)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.is_possible(all, right)
        };
        assert!(!changed(&|bad| bad.confusion[0].label = CLASSES));
        assert!(!changed(&|bad| bad.confusion[0].count = u64::MAX));
        assert!(!changed(&|bad| bad.parts[0].part = PARTS as u32));
        assert!(!changed(&|bad| bad.parts[0].count = u64::MAX));
        assert!(!changed(&|bad| bad.parts[0].residual = i64::MIN));
        assert!(!changed(&|bad| bad.parts[0].squares = -1));
        assert!(!changed(&|bad| bad.parts[0].spread = i64::MAX));
        assert!(!Details::default().is_possible(u64::MAX, 0));
    }
}
