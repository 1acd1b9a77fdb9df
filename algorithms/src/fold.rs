//! From k uploads to one vector, in integers.
//!
//! Each scalar is folded as `round(x · scale · weight · 2^fraction_bits)` into an `i64`. Integer
//! addition is associative and commutative, so the aggregate has the same bits for every arrival
//! order, every retry and every thread count; floating-point sums do not. The quantum is far below
//! `f32`'s own rounding of `x`.
//!
//! Budget of the 63 bits: an element may be at most 2^7 after `scale`, a weight at most 2^20, so a
//! contribution stays below 2^50 and 4,096 of them below 2^62.

use crate::Algorithm;

/// Largest magnitude of an element after its fold's scale. A larger one is refused at vetting.
pub const ELEMENT_MAX: f64 = 128.0;
/// Largest weight (examples) that one upload may claim.
pub const WEIGHT_MAX: u64 = 1 << 20;
/// Largest number of uploads in one round.
pub const UPLOADS_MAX: usize = 4_096;

const CONTRIBUTION_BITS: i32 = 50;
const ELEMENT_BITS: i32 = 7;
const WEIGHT_BITS: i32 = 20;
/// 1.5 · 2^52: adding it to a double below 2^51 rounds to an integer (ties to even) in the low bits.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// How an upload counts in a mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// By its number of training examples (McMahan et al. 2017).
    #[default]
    Examples,
    /// All alike.
    Uniform,
}

/// What multiplies an upload before it is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Nothing.
    One,
    /// `1 / K_i`: turns a local change into the mean change of a step.
    InverseSteps,
    /// `1 / (K_i η_t)`: turns a local change into a mean gradient.
    InverseStepsLr,
}

/// One accumulator of a round: the mean of `scale · from`, kept as `into`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// Name of the mean, as [`crate::Algorithm::apply`] sees it.
    pub into: &'static str,
    /// Name of the uploaded vector.
    pub from: &'static str,
    /// How uploads count.
    pub weighting: Weighting,
    /// What multiplies each upload.
    pub scale: Scale,
}

/// The scalars of an upload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UploadFacts {
    /// Training examples of the worker.
    pub examples: u64,
    /// Local steps taken.
    pub steps: u32,
    /// Learning rate used.
    pub lr: f32,
}

impl Fold {
    /// The fold's weight of one upload, at least 1.
    pub fn weight(&self, facts: &UploadFacts) -> u64 {
        match self.weighting {
            Weighting::Examples => facts.examples.clamp(1, WEIGHT_MAX),
            Weighting::Uniform => 1,
        }
    }

    /// The fold's factor on one upload.
    pub fn factor(&self, facts: &UploadFacts) -> f64 {
        match self.scale {
            Scale::One => 1.0,
            Scale::InverseSteps => 1.0 / f64::from(facts.steps.max(1)),
            Scale::InverseStepsLr => 1.0 / (f64::from(facts.steps.max(1)) * f64::from(facts.lr)),
        }
    }

    fn fraction_bits(&self) -> i32 {
        let weight_bits = match self.weighting {
            Weighting::Examples => WEIGHT_BITS,
            Weighting::Uniform => 0,
        };
        CONTRIBUTION_BITS - ELEMENT_BITS - weight_bits
    }
}

/// Empty accumulators for the uploads of a round, for a model of `d` scalars.
///
/// # Panics
/// If a fold reads a vector that the algorithm does not upload.
pub fn accumulators(algorithm: &dyn Algorithm, d: usize) -> Vec<Accumulator> {
    accumulators_of(algorithm.folds(), &algorithm.upload(d))
}

/// Empty accumulators for these folds of uploads of these vectors.
///
/// # Panics
/// If a fold reads a vector that is not among them.
pub fn accumulators_of(folds: Vec<Fold>, shapes: &[(&'static str, usize)]) -> Vec<Accumulator> {
    let length = |fold: &Fold| shapes.iter().find(|(name, _)| *name == fold.from).map(|(_, length)| *length);
    let empty = |fold: Fold| {
        let length = length(&fold).expect("a fold reads what its rule uploads");
        Accumulator::new(fold, length)
    };
    folds.into_iter().map(empty).collect()
}

/// A streaming fixed-point mean: memory does not grow with the number of uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accumulator {
    fold: Fold,
    sum: Vec<i64>,
    weight: u64,
    count: usize,
}

impl Accumulator {
    /// An empty accumulator for vectors of that length.
    pub fn new(fold: Fold, length: usize) -> Self {
        Self { fold, sum: vec![0; length], weight: 0, count: 0 }
    }

    /// The fold that it serves.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Scalars in each vector that it takes.
    pub fn length(&self) -> usize {
        self.sum.len()
    }

    /// Uploads counted so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Counts one upload that was already vetted: every element finite and at most [`ELEMENT_MAX`]
    /// after the fold's factor.
    pub fn accumulate(&mut self, x: &[f32], facts: &UploadFacts) {
        let scale = self.begin(facts);
        fold_into(&mut self.sum, x, scale);
    }

    /// As [`Self::accumulate`], for drivers that fold slices in parallel: registers the upload, and
    /// gives the sum and the scale for [`fold_into`], which must then cover every element once.
    pub fn parts(&mut self, facts: &UploadFacts) -> (&mut [i64], f64) {
        let scale = self.begin(facts);
        (&mut self.sum, scale)
    }

    fn begin(&mut self, facts: &UploadFacts) -> f64 {
        assert!(self.count < UPLOADS_MAX, "a cohort is at most {UPLOADS_MAX}");
        let weight = self.fold.weight(facts);
        self.weight += weight;
        self.count += 1;
        self.fold.factor(facts) * weight as f64 * 2.0_f64.powi(self.fold.fraction_bits())
    }

    /// The mean, or `None` when nothing was counted.
    pub fn mean(mut self) -> Option<Vec<f32>> {
        let mut mean = vec![0.0; self.sum.len()];
        let (sum, unit) = self.drain()?;
        drain_into(&mut mean, sum, unit);
        Some(mean)
    }

    /// As [`Self::mean`], for drivers that divide in parallel: the sum and the unit for [`drain_into`],
    /// which must then cover every element once. The accumulator is empty after that.
    pub fn drain(&mut self) -> Option<(&mut [i64], f64)> {
        let unit = 1.0 / (self.weight as f64 * 2.0_f64.powi(self.fold.fraction_bits()));
        let counted = self.weight > 0;
        (self.weight, self.count) = (0, 0);
        counted.then_some((&mut self.sum, unit))
    }
}

/// `mean[i] = sum[i] · unit; sum[i] = 0`: in one pass, so that the sum's memory serves the next round.
///
/// # Panics
/// If the lengths differ.
pub fn drain_into(mean: &mut [f32], sum: &mut [i64], unit: f64) {
    assert_eq!(mean.len(), sum.len(), "drain: lengths differ");
    for (mean, sum) in mean.iter_mut().zip(sum) {
        *mean = (std::mem::take(sum) as f64 * unit) as f32;
    }
}

/// `sum[i] += round(x[i] · scale)`, ties to even, exact for products below 2^51.
///
/// # Panics
/// If the lengths differ.
pub fn fold_into(sum: &mut [i64], x: &[f32], scale: f64) {
    assert_eq!(sum.len(), x.len(), "fold: lengths differ");
    for (sum, x) in sum.iter_mut().zip(x) {
        let shifted = f64::from(*x) * scale + MAGIC;
        *sum = sum.wrapping_add((shifted.to_bits() as i64).wrapping_sub(MAGIC.to_bits() as i64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: UploadFacts = UploadFacts { examples: 10, steps: 3, lr: 0.1 };

    fn fold(weighting: Weighting, scale: Scale) -> Fold {
        Fold { into: "delta", from: "delta", weighting, scale }
    }

    #[test]
    fn rounding_equals_the_definition() {
        let x: Vec<f32> = vec![0.0, -0.0, 1.5, -2.5, 127.99, -127.99, 1e-20, -3.3e-5, 128.0];
        let scale = 2.0_f64.powi(43);
        let mut sum = vec![5_i64; x.len()];
        fold_into(&mut sum, &x, scale);
        for (sum, x) in sum.iter().zip(&x) {
            assert_eq!(*sum, 5 + (f64::from(*x) * scale).round_ties_even() as i64);
        }
    }

    #[test]
    fn inverse_steps_makes_a_gradient() {
        let mut acc = Accumulator::new(fold(Weighting::Uniform, Scale::InverseStepsLr), 1);
        acc.accumulate(&[0.6], &FACTS);
        let mean = acc.mean().unwrap();
        assert!((mean[0] - 2.0).abs() < 1e-6, "{mean:?}");
    }

    #[test]
    fn nothing_counted_has_no_mean() {
        assert!(Accumulator::new(fold(Weighting::Uniform, Scale::One), 2).mean().is_none());
    }

    #[test]
    fn a_drained_accumulator_is_a_new_one() {
        let fold = fold(Weighting::Examples, Scale::One);
        let mut used = Accumulator::new(fold, 3);
        used.accumulate(&[1.0, -2.0, 0.5], &FACTS);
        let mut mean = [0.0; 3];
        let (sum, unit) = used.drain().unwrap();
        drain_into(&mut mean, sum, unit);
        assert_eq!(mean, [1.0, -2.0, 0.5]);
        assert_eq!(used, Accumulator::new(fold, 3));
        assert!(used.drain().is_none());
    }

    #[test]
    fn the_largest_round_does_not_overflow() {
        let mut acc = Accumulator::new(fold(Weighting::Examples, Scale::One), 1);
        let facts = UploadFacts { examples: WEIGHT_MAX, ..FACTS };
        for _ in 0..UPLOADS_MAX {
            acc.accumulate(&[-128.0], &facts);
        }
        assert_eq!(acc.mean().unwrap(), [-128.0]);
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bits(
            uploads in prop::collection::vec((prop::collection::vec(-100.0_f32..100.0, 7), 1_u64..5_000), 1..9),
            rotate in 0_usize..9,
        ) {
            let run = |uploads: &[(Vec<f32>, u64)]| {
                let mut acc = Accumulator::new(fold(Weighting::Examples, Scale::One), 7);
                for (x, examples) in uploads {
                    acc.accumulate(x, &UploadFacts { examples: *examples, ..FACTS });
                }
                acc
            };
            let straight = run(&uploads);
            let mut turned = uploads.clone();
            turned.rotate_left(rotate % uploads.len());
            turned.reverse();
            prop_assert_eq!(&straight, &run(&turned));

            let total: f64 = uploads.iter().map(|(_, n)| *n as f64).sum();
            let mean = straight.mean().unwrap();
            for (i, mean) in mean.iter().enumerate() {
                let exact: f64 = uploads.iter().map(|(x, n)| f64::from(x[i]) * *n as f64).sum::<f64>() / total;
                prop_assert!((f64::from(*mean) - exact).abs() <= exact.abs() * 6e-8 + 1e-7);
            }
        }
    }
}
