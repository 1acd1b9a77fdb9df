//! Top-1-to-k ℓ2 calibration error, debiased, with a confidence interval: Sun, Chaudhari, Barnett and
//! Dobriban, "A Confidence Interval for the ℓ2 Expected Calibration Error", 2024 (arXiv:2408.08998).
//!
//! For a prediction let `Z ∈ [0,1]^k` be the k largest probabilities and `Y ∈ {0,1}^k` say which of those
//! classes came true. A model is top-1-to-k calibrated if `E[Y | Z] = Z`; `ECE² = E‖E[Y − Z | Z]‖²`.
//!
//! What is computed, with `U = Y − Z`, `[0,1]^k` cut into cubes of side `1/b`, and `n_B` predictions in
//! cube `B`:
//!
//! * the debiased estimator `T = (1/n) Σ_B (1/(n_B − 1)) Σ_{i≠j ∈ B} U_i·U_j` (0 for a cube with one
//!   prediction). It may be negative; `ece = √max(T, 0)`.
//! * for a model that is not calibrated `√n (T − ECE²)` tends to a normal law, whose variance is estimated by
//!   `σ₁² = Σ_B (n_B/n)(4 Ū_B'M_B Ū_B − 3‖Ū_B‖⁴) − (Σ_B (n_B/n)‖Ū_B‖²)²`, `M_B` the mean of `UU'` in `B`.
//! * with `T⁺ = max(T, 0)`, `s = σ₁/√n` and normal quantiles `z`, at level `1 − α` the interval for `ECE²` ends
//!   at `T⁺ + z_{α/2} s` and begins at `T⁺ − z_{α/2} s` if `T⁺ ≥ 2 z_{α/2} s`, at `T⁺/2` if `T⁺ ≥ 2 z_α s`, and at
//!   `max(0, T⁺ − z_α s)` otherwise: what accounts for `ECE² ≥ 0`.
//! * a calibrated model has `T` of order `1/(n √volume)` instead. 0 belongs to the interval if
//!   `T ≤ z_α s₀`. The paper gives the limit of `s₀`; here it is the exact variance of `T` for a calibrated
//!   model, given the `Z`: `s₀² = (1/n²) Σ_B 2/(n_B − 1)² Σ_{i≠j ∈ B} tr(S_i S_j)`, `S_i = diag(Z_i) − Z_i Z_i'`.
//!
//! These are estimators and interval of the authors' code. The number of cubes is ours: `b = ⌈n^{2/(4+k)}⌉`,
//! the optimal rate for a Lipschitz calibration curve.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// α/2 and α quantiles of the normal law for α = 0.05.
const TWO_SIDED: f64 = 1.959_963_984_540_054;
const ONE_SIDED: f64 = 1.644_853_626_951_472_2;

/// Probabilities of the k most likely classes of each prediction, and which of them came true.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    top: usize,
    /// `n × k`, largest first.
    z: Vec<f32>,
    /// Rank of the label among the k; `None`: another class came true.
    rank: Vec<Option<u32>>,
}

/// The calibration error and its 95 % confidence interval, as roots: in the unit of a probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Classes looked at, k.
    pub top: usize,
    /// Parts into which each axis is cut.
    pub bins: usize,
    /// Predictions.
    pub predictions: usize,
    /// `√max(T, 0)`.
    pub ece: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    /// Whether 0 belongs to it: no evidence that the model is not calibrated.
    pub calibrated: bool,
    /// `T`, an estimate of `ECE²` without bias but for the width of the bins.
    pub squared: f64,
}

/// Parts of each axis for so many predictions.
pub fn bins_for(predictions: usize, top: usize) -> usize {
    rounded_power(predictions as f64, 2.0 / (4.0 + top as f64)).ceil().max(1.0) as usize
}

fn rounded_power(base: f64, exponent: f64) -> f64 {
    // Rounded, so that a last bit that differs between machines cannot change a number of bins.
    (base.powf(exponent) * 1e9).round() / 1e9
}

impl Sample {
    /// Of the `top` most likely classes.
    pub fn new(top: usize) -> Self {
        Self { top, z: Vec::new(), rank: Vec::new() }
    }

    /// Adds a prediction: probabilities, largest first, and the rank of the class that came true.
    pub fn push(&mut self, probabilities: impl Iterator<Item = f64>, rank: Option<usize>) {
        self.z.extend(probabilities.take(self.top).map(|p| p as f32));
        self.rank.push(rank.filter(|rank| *rank < self.top).map(|rank| rank as u32));
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.z.extend_from_slice(&other.z);
        self.rank.extend_from_slice(&other.rank);
    }

    /// Predictions.
    pub fn len(&self) -> usize {
        self.rank.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rank.is_empty()
    }

    /// The calibration error with `bins` parts of each axis; `None` for fewer than two predictions.
    pub fn calibration(&self, bins: usize) -> Option<Calibration> {
        if self.len() < 2 || bins == 0 {
            return None;
        }
        let mut cubes: BTreeMap<Vec<u32>, Cube> = BTreeMap::new();
        for (z, rank) in self.z.chunks_exact(self.top).zip(&self.rank) {
            let cube = z.iter().map(|z| part_of(*z, bins) as u32).collect();
            cubes.entry(cube).or_insert_with(|| Cube::new(self.top)).add(z, *rank);
        }
        Calibration::of(cubes.values(), (self.top, bins))
    }

    /// Probability of the most likely class of each prediction, and whether that class came true.
    pub(super) fn first(&self) -> impl Iterator<Item = (f32, bool)> {
        self.z.chunks_exact(self.top.max(1)).zip(&self.rank).map(|(z, rank)| (z[0], *rank == Some(0)))
    }
}

/// The part of an axis, cut into `bins`, in which a probability lies.
pub(super) fn part_of(z: f32, bins: usize) -> usize {
    ((f64::from(z) * bins as f64) as usize).min(bins.saturating_sub(1))
}

impl Calibration {
    /// From the sums of all cubes that are not empty; `None` for fewer than two predictions.
    pub(super) fn of<'a>(
        cubes: impl Iterator<Item = &'a Cube> + Clone,
        (top, bins): (usize, usize),
    ) -> Option<Self> {
        let n: f64 = cubes.clone().map(|cube| cube.count).sum();
        if n < 2.0 {
            return None;
        }
        let (mut squared, mut null, mut first, mut second) = (0.0, 0.0, 0.0, 0.0);
        for cube in cubes {
            let Parts { pairs, variance, moment, mean } = cube.parts();
            squared += pairs / n;
            null += variance / (n * n);
            first += cube.count / n * moment;
            second += cube.count / n * mean;
        }
        let s = ((first - second * second).max(0.0) / n).sqrt();
        let (low, high) = interval(squared.max(0.0), s);
        let calibrated = squared <= ONE_SIDED * null.sqrt();
        Some(Self {
            top,
            bins,
            predictions: n as usize,
            ece: squared.max(0.0).sqrt(),
            low: if calibrated { 0.0 } else { low.sqrt() },
            high: high.sqrt(),
            calibrated,
            squared,
        })
    }
}

/// The interval for `ECE²` of a model that is not calibrated.
fn interval(t: f64, s: f64) -> (f64, f64) {
    let low = if t >= 2.0 * TWO_SIDED * s {
        t - TWO_SIDED * s
    } else if t >= 2.0 * ONE_SIDED * s {
        t / 2.0
    } else {
        (t - ONE_SIDED * s).max(0.0)
    };
    (low, t + TWO_SIDED * s)
}

/// Sums over the predictions of a cube.
pub(super) struct Cube {
    pub(super) count: f64,
    /// Σ U, k.
    pub(super) sum: Vec<f64>,
    /// Σ UU', k × k.
    pub(super) products: Vec<f64>,
    /// Σ S, k × k, and Σ ‖S‖².
    pub(super) spread: Vec<f64>,
    pub(super) spread_squares: f64,
}

/// What a cube adds.
struct Parts {
    /// Σ_{i≠j} U_i·U_j / (n_B − 1).
    pairs: f64,
    /// Its variance for a calibrated model.
    variance: f64,
    /// 4 Ū'MŪ − 3‖Ū‖⁴.
    moment: f64,
    /// ‖Ū‖².
    mean: f64,
}

impl Cube {
    pub(super) fn new(top: usize) -> Self {
        Self {
            count: 0.0,
            sum: vec![0.0; top],
            products: vec![0.0; top * top],
            spread: vec![0.0; top * top],
            spread_squares: 0.0,
        }
    }

    fn add(&mut self, z: &[f32], rank: Option<u32>) {
        let top = z.len();
        let z: Vec<f64> = z.iter().map(|z| f64::from(*z)).collect();
        let u = |i: usize| f64::from(u8::from(rank == Some(i as u32))) - z[i];
        self.count += 1.0;
        for i in 0..top {
            self.sum[i] += u(i);
            for j in 0..top {
                let s = if i == j { z[i] } else { 0.0 } - z[i] * z[j];
                self.products[i * top + j] += u(i) * u(j);
                self.spread[i * top + j] += s;
                self.spread_squares += s * s;
            }
        }
    }

    fn parts(&self) -> Parts {
        let (n, top) = (self.count, self.sum.len());
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / n).collect();
        let norm: f64 = mean.iter().map(|m| m * m).sum();
        let form: f64 =
            (0..top * top).map(|at| mean[at / top] * self.products[at] * mean[at % top] / n).sum();
        let moment = 4.0 * form - 3.0 * norm * norm;
        if n < 2.0 {
            return Parts { pairs: 0.0, variance: 0.0, moment, mean: norm };
        }
        let squares: f64 = (0..top).map(|i| self.products[i * top + i]).sum();
        let pairs = (n * n * norm - squares) / (n - 1.0);
        let traces = self.spread.iter().map(|s| s * s).sum::<f64>() - self.spread_squares;
        Parts { pairs, variance: 2.0 * traces / (n - 1.0).powi(2), moment, mean: norm }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{mix, unit};

    /// Draws in [0, 1).
    fn draws(seed: u64) -> impl FnMut() -> f64 {
        let mut at = mix(seed);
        move || {
            at = mix(at);
            unit(at)
        }
    }

    /// Top-1 predictions with confidence uniform in [1/2, 1], right with probability `truth(confidence)`.
    fn confidences(seed: u64, n: usize, truth: impl Fn(f64) -> f64) -> Sample {
        let (mut draw, mut sample) = (draws(seed), Sample::new(1));
        for _ in 0..n {
            let z = 0.5 + draw() / 2.0;
            sample.push([z].into_iter(), (draw() < truth(z)).then_some(0));
        }
        sample
    }

    #[test]
    fn the_estimator_is_its_definition() {
        let (mut draw, mut sample, bins) = (draws(3), Sample::new(2), 3);
        for _ in 0..40 {
            let (a, b) = (0.5 + draw() * 0.3, draw() * 0.2);
            let rank = Some((draw() * 3.0) as usize).filter(|rank| *rank < 2);
            sample.push([a, b].into_iter(), rank);
        }
        let place =
            |i: usize| sample.z[2 * i..2 * i + 2].iter().map(|z| (z * 3.0) as i32).collect::<Vec<_>>();
        let u = |i: usize, k: usize| {
            f64::from(u8::from(sample.rank[i] == Some(k as u32))) - f64::from(sample.z[2 * i + k])
        };
        let mut t = 0.0;
        for i in 0..40 {
            let count = (0..40).filter(|j| place(*j) == place(i)).count();
            for j in (0..40).filter(|j| *j != i && place(*j) == place(i)) {
                t += (0..2).map(|k| u(i, k) * u(j, k)).sum::<f64>() / (count as f64 - 1.0) / 40.0;
            }
        }
        let got = sample.calibration(bins).unwrap();
        assert!((got.squared - t).abs() < 1e-12, "{} {t}", got.squared);
    }

    #[test]
    fn intervals_hold_what_they_promise() {
        const RUNS: u64 = 400;
        let n = 2_000;
        let cover = |truth: &dyn Fn(f64) -> f64, ece: f64| {
            let holds = |seed: u64| {
                let c = confidences(seed, n, truth).calibration(bins_for(n, 1)).unwrap();
                if ece == 0.0 { c.calibrated } else { c.low <= ece && ece <= c.high }
            };
            (0..RUNS).filter(|seed| holds(*seed)).count() as f64 / RUNS as f64
        };
        // Binomial(400, 0.95): sd 1.1 %; the law holds in the limit only.
        assert!(cover(&|z| z, 0.0) > 0.91, "calibrated: {}", cover(&|z| z, 0.0));
        // Overconfident by a fifth: ECE² = E[(0.2 z)²] = 0.04 · (1/3)(1 − 1/8)/(1/2).
        let ece = (0.04_f64 * 7.0 / 12.0).sqrt();
        let share = cover(&|z| 0.8 * z, ece);
        assert!((0.91..=0.99).contains(&share), "not calibrated: {share}");
        assert!(cover(&|z| 0.8 * z, 0.0) == 0.0, "it is told from a calibrated one");
    }

    #[test]
    fn the_estimator_has_no_bias() {
        let mean = |truth: &dyn Fn(f64) -> f64| {
            (0..400).map(|seed| confidences(seed, 500, truth).calibration(20).unwrap().squared).sum::<f64>()
                / 400.0
        };
        assert!(mean(&|z| z).abs() < 4e-4, "{}", mean(&|z| z));
        let off = mean(&|z| 0.8 * z) - 0.04 * 7.0 / 12.0;
        assert!(off.abs() < 1e-3, "{off}");
    }

    #[test]
    fn degenerate_samples() {
        assert_eq!(Sample::new(1).calibration(10), None);
        let mut sure = Sample::new(1);
        (0..10).for_each(|_| sure.push([1.0].into_iter(), Some(0)));
        let c = sure.calibration(4).unwrap();
        assert_eq!((c.ece, c.low, c.high), (0.0, 0.0, 0.0));
        let mut wrong = Sample::new(1);
        (0..10).for_each(|_| wrong.push([1.0].into_iter(), None));
        assert_eq!(wrong.calibration(4).unwrap().ece, 1.0);
    }

    #[test]
    fn the_number_of_bins_grows_slowly() {
        assert_eq!((bins_for(10_000, 1), bins_for(1, 1)), (40, 1));
        assert!(bins_for(10_000, 2) < 40);
    }
}
