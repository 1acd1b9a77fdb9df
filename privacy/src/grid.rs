//! Contributions as integers: the grid on which sums are exact and the bound on one contribution is an
//! integer, not a float that rounding may exceed.
//!
//! The grid's quantum is a power of two and a contribution has at most 2^23 quanta in each element, so
//! that a contribution on the grid is exact as `f32` too: it needs no format of its own on the wire, and
//! whoever receives it can check that it is on the grid and within the bound.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{ClipNorm, NoiseMultiplier, NotFinite, ParameterError, parameters::require, widest::widest};

/// Quanta in the norm of a contribution: at least 2^16.
const LEAST_BITS: i32 = 16;
/// An element has fewer quanta than the significand of `f32` holds.
const MOST_BITS: i32 = 23;

/// The grid of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawGrid")]
pub struct Grid {
    /// log2 of the quantum.
    exponent: i32,
    /// Largest L2 norm of a contribution, in quanta.
    sensitivity: NonZeroU64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrid {
    exponent: i32,
    sensitivity: NonZeroU64,
}

impl TryFrom<RawGrid> for Grid {
    type Error = ParameterError;

    fn try_from(raw: RawGrid) -> Result<Self, ParameterError> {
        let norm = raw.sensitivity.get() as f64 * exp2(raw.exponent);
        require((-90..=66).contains(&raw.exponent), "exponent", f64::from(raw.exponent), "from -90 to 66")?;
        require(
            raw.sensitivity.get() < 1 << MOST_BITS && ClipNorm::new(norm).is_ok(),
            "sensitivity",
            raw.sensitivity.get() as f64,
            "a number below 2^23 whose product with the quantum is a norm",
        )?;
        Ok(Self { exponent: raw.exponent, sensitivity: raw.sensitivity })
    }
}

/// Why a contribution is not one.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum OffGrid {
    /// It has no norm.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// An element is between two points of the grid, or far outside.
    #[error(
        "element {index} is {value}, expected a multiple of the grid's quantum 2^{exponent} within the norm"
    )]
    Between {
        /// Its position.
        index: usize,
        /// Its value.
        value: f32,
        /// log2 of the quantum.
        exponent: i32,
    },
    /// It is longer than the bound.
    #[error("the squared norm is {square} quanta, expected at most {most}")]
    TooLong {
        /// Sum of squared elements, in squared quanta.
        square: u128,
        /// The bound, squared.
        most: u128,
    },
}

fn exp2(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

impl Grid {
    /// A grid for contributions of at most `norm` with `dimensions` elements: fine enough that rounding
    /// moves an element by a small part of what it is when all elements are alike (a norm of at least
    /// `16·√dimensions` quanta, as far as `f32` allows).
    ///
    /// # Errors
    /// If no quantum fits the norm, which the bounds of [`ClipNorm`] exclude.
    pub fn new(norm: ClipNorm, dimensions: NonZeroU64) -> Result<Self, ParameterError> {
        let spread = 16.0 * (dimensions.get() as f64).sqrt();
        let bits = (spread.log2().ceil() as i32).clamp(LEAST_BITS, MOST_BITS - 1);
        let exponent = norm.get().log2().floor() as i32 - bits;
        let quanta = (norm.get() / exp2(exponent)).floor() as u64;
        let most = (1 << MOST_BITS) - 1;
        let sensitivity = NonZeroU64::new(quanta.min(most)).ok_or(ParameterError {
            parameter: "clip_norm",
            value: norm.get(),
            expected: "a norm of at least one quantum",
        })?;
        Ok(Self { exponent, sensitivity })
    }

    /// The value of one quantum: a power of two.
    pub fn quantum(self) -> f64 {
        exp2(self.exponent)
    }

    /// log2 of the quantum.
    pub fn exponent(self) -> i32 {
        self.exponent
    }

    /// The largest L2 norm of a contribution in quanta: the exact sensitivity of an integer sum when one
    /// contribution is added, removed or replaced by zero.
    pub fn sensitivity(self) -> NonZeroU64 {
        self.sensitivity
    }

    /// The norm that contributions are clipped to: not above what the grid was made for.
    pub fn norm(self) -> f64 {
        self.sensitivity.get() as f64 * self.quantum()
    }

    /// The least whole variance, in squared quanta, of noise with at least this multiplier.
    ///
    /// # Errors
    /// If it is above 2^60, the sampler's bound.
    pub fn variance(self, noise: NoiseMultiplier) -> Result<NonZeroU64, ParameterError> {
        whole_variance(noise.get() * self.sensitivity.get() as f64, noise)
    }

    /// The same for a sum that was added up in floating point and rounded to the grid afterwards:
    /// rounding `dimensions` elements moves two neighbouring sums apart by up to `√dimensions` quanta,
    /// and `slack` is the further distance, relative to the norm, that the float sum itself may be off
    /// (see [`float_slack`]).
    ///
    /// # Errors
    /// As [`Self::variance`].
    pub fn loose_variance(
        self,
        noise: NoiseMultiplier,
        dimensions: NonZeroU64,
        slack: f64,
    ) -> Result<NonZeroU64, ParameterError> {
        let exact = self.sensitivity.get() as f64 * (1.0 + slack.max(0.0));
        whole_variance(noise.get() * (exact + (dimensions.get() as f64).sqrt()), noise)
    }

    /// Shortens the vector whose parts these are to the bound, snaps it to the grid in place and returns
    /// the factor in (0, 1] that it was multiplied by before it was rounded. All that one client uploads
    /// belongs into one call: what is clipped apart must be paid for apart.
    ///
    /// The norm of the result is compared in integers: no rounding can let it exceed the bound.
    ///
    /// # Errors
    /// If an element is not finite; then nothing was changed.
    pub fn clip(self, parts: &mut [&mut [f32]]) -> Result<f64, NotFinite> {
        self.clip_to(self.sensitivity, parts)
    }

    /// The bound, in quanta, on each of so many groups of elements that are clipped apart, such that all
    /// together keep to the norm: `norm / √groups`.
    pub fn share(self, groups: NonZeroU64) -> NonZeroU64 {
        let square = u128::from(self.sensitivity.get()).pow(2);
        let mut share = (self.sensitivity.get() as f64 / (groups.get() as f64).sqrt()) as u64;
        while share > 1 && u128::from(share).pow(2) * u128::from(groups.get()) > square {
            share -= 1;
        }
        NonZeroU64::new(share).unwrap_or(NonZeroU64::MIN)
    }

    /// As [`Self::clip`], to a norm of so many quanta.
    ///
    /// # Errors
    /// If an element is not finite; then nothing was changed.
    pub fn clip_to(self, quanta: NonZeroU64, parts: &mut [&mut [f32]]) -> Result<f64, NotFinite> {
        let bound = quanta.get() as f64 * self.quantum();
        let mut before = 0;
        for part in parts.iter() {
            if let Some(index) = part.iter().position(|x| !x.is_finite()) {
                return Err(NotFinite { index: before + index });
            }
            before += part.len();
        }
        let norm = parts.iter().map(|part| crate::clip::l2_norm(part).powi(2)).sum::<f64>().sqrt();
        // A float's error must not make the first try too long for sure.
        let mut factor = (bound * (1.0 - 1.0 / 1_048_576.0) / norm).min(1.0);
        let most = u128::from(quanta.get()).pow(2);
        let mut step = 1.0 / 65_536.0;
        while parts.iter().map(|part| self.square(part, factor)).sum::<u128>() > most {
            factor *= 1.0 - step;
            step = (2.0 * step).min(0.5);
        }
        for x in parts.iter_mut().flat_map(|part| part.iter_mut()) {
            *x = (self.round(*x, factor) as f64 * self.quantum()) as f32;
        }
        Ok(factor)
    }

    /// Adds a clipped vector to a sum of quanta.
    ///
    /// # Errors
    /// If it is not on the grid or too long; then nothing was added.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(self, sum: &mut [i64], x: &[f32]) -> Result<(), OffGrid> {
        assert_eq!(sum.len(), x.len(), "grid: lengths differ");
        self.check(&[x])?;
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += self.round(*x, 1.0);
        }
        Ok(())
    }

    /// Whether a vector, given in parts, is on the grid and within the bound.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(self, parts: &[&[f32]]) -> Result<(), OffGrid> {
        let (inverse, exponent) = (exp2(-self.exponent), self.exponent);
        let mut square = 0_u128;
        let mut before = 0;
        for part in parts {
            for (index, value) in part.iter().copied().enumerate() {
                let index = before + index;
                let quanta = f64::from(value) * inverse;
                if !quanta.is_finite() {
                    return Err(NotFinite { index }.into());
                }
                if quanta.fract() != 0.0 || quanta.abs() > self.sensitivity.get() as f64 {
                    return Err(OffGrid::Between { index, value, exponent });
                }
                square += u128::from((quanta.abs() as u64).pow(2));
            }
            before += part.len();
        }
        let most = u128::from(self.sensitivity.get()).pow(2);
        if square > most { Err(OffGrid::TooLong { square, most }) } else { Ok(()) }
    }

    /// A float sum, rounded to quanta.
    ///
    /// # Errors
    /// If an element is not finite or above 2^60 quanta.
    pub fn round_sum(self, sum: &[f32]) -> Result<Vec<i64>, NotFinite> {
        let inverse = exp2(-self.exponent);
        let one = |(index, x): (usize, &f32)| {
            let quanta = (f64::from(*x) * inverse).round_ties_even();
            if quanta.abs() <= exp2(60) { Ok(quanta as i64) } else { Err(NotFinite { index }) }
        };
        sum.iter().enumerate().map(one).collect()
    }

    /// Rounds a sum in floating point to quanta: what is in `before`, if there is any, and `last`. Above
    /// 2^50 quanta it stays there.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn round_sums(self, before: Option<&[f64]>, last: &[f32], quanta: &mut [i64]) {
        let inverse = exp2(-self.exponent);
        assert_eq!(last.len(), quanta.len(), "grid: lengths differ");
        match before {
            None => quanta.iter_mut().zip(last).for_each(|(q, x)| *q = nearest(f64::from(*x) * inverse)),
            Some(before) => {
                assert_eq!(before.len(), quanta.len(), "grid: lengths differ");
                let sums = before.iter().zip(last).map(|(sum, x)| sum + f64::from(*x));
                quanta.iter_mut().zip(sums).for_each(|(q, x)| *q = nearest(x * inverse));
            }
        }
    }

    /// As [`Self::round_sums`], and then adds noise and gives the [`Self::values`].
    ///
    /// # Panics
    /// If the lengths differ; there may be more noise.
    pub fn noised_sums(
        self,
        (before, last): (Option<&[f64]>, &[f32]),
        noise: &[i32],
        unit: f64,
        values: &mut [f32],
    ) {
        let (inverse, noise) = (exp2(-self.exponent), &noise[..values.len()]);
        assert_eq!(last.len(), values.len(), "grid: lengths differ");
        let scales = [inverse, unit];
        match before {
            None => widest(
                #[inline(always)]
                move || noised(values, last.iter().map(|x| f64::from(*x)), noise, scales),
            ),
            Some(before) => {
                assert_eq!(before.len(), values.len(), "grid: lengths differ");
                widest(
                    #[inline(always)]
                    move || {
                        noised(
                            values,
                            before.iter().zip(last).map(|(sum, x)| sum + f64::from(*x)),
                            noise,
                            scales,
                        )
                    },
                );
            }
        }
    }

    /// Quanta below 2^51, in units of `unit`.
    pub fn values(quanta: &[i64], unit: f64, values: &mut [f32]) {
        let value = |q: i64| f64::from_bits(MAGIC.to_bits().wrapping_add(q as u64)) - MAGIC;
        values.iter_mut().zip(quanta).for_each(|(x, q)| *x = (value(*q) * unit) as f32);
    }

    fn round(self, x: f32, factor: f64) -> i64 {
        (f64::from(x) * factor * exp2(-self.exponent)).round_ties_even() as i64
    }

    fn square(self, part: &[f32], factor: f64) -> u128 {
        // Blocks of 2^16 squares below 2^46 fit into 64 bits.
        let block = |block: &[f32]| {
            block
                .iter()
                .map(|x| self.round(*x, factor).unsigned_abs().min(1 << MOST_BITS).pow(2))
                .sum::<u64>()
        };
        part.chunks(1 << 16).map(|x| u128::from(block(x))).sum()
    }
}

/// From here on the last bit of an `f64` is worth 1, so that adding it rounds, to even on a tie. There are
/// vectors for that on every machine, and for conversions on few.
const MAGIC: f64 = 1.5 * 4_503_599_627_370_496.0;

fn nearest(x: f64) -> i64 {
    let bounded = x.clamp(-exp2(50), exp2(50));
    (bounded + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64
}

/// Sums, rounded to quanta, with noise, in units of `unit`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "a loop is compiled for a machine only with all that it calls")]
fn noised(values: &mut [f32], sums: impl Iterator<Item = f64>, noise: &[i32], scales: [f64; 2]) {
    // Out of their memory, which a store might change.
    let [inverse, unit] = scales;
    const MOST: f64 = (1_u64 << 50) as f64;
    for ((value, sum), noise) in values.iter_mut().zip(sums).zip(noise) {
        // Whole numbers both, and their sum is below 2^51.
        let quanta = (sum * inverse).max(-MOST).min(MOST) + MAGIC - MAGIC;
        *value = ((quanta + f64::from(*noise)) * unit) as f32;
    }
}

fn whole_variance(deviation: f64, noise: NoiseMultiplier) -> Result<NonZeroU64, ParameterError> {
    // Enlarged by more than the rounding of the product.
    let variance = (deviation * deviation * (1.0 + 1e-15)).ceil().max(1.0);
    require(
        variance <= exp2(60),
        "noise_multiplier",
        noise.get(),
        "a multiplier whose noise has at most 2^30 quanta of the grid",
    )?;
    Ok(NonZeroU64::new(variance as u64).unwrap_or(NonZeroU64::MIN))
}

/// By how much, relative to the norm of one term, a sum of `terms` vectors of at most that norm may be
/// off in `f32`, doubled for the difference of two such sums: `2·n·γ_n` with `γ_n = nu/(1 − nu)` and
/// `u = 2⁻²⁴`, whatever the order of summation (Higham 2002, section 4.2).
///
/// Terms that are scaled by a rounded factor first are covered with two units of `terms` more.
pub fn float_slack(terms: u64) -> f64 {
    let n = terms as f64 + 2.0;
    let gamma = n * exp2(-24) / (1.0 - (n * exp2(-24)).min(0.5));
    2.0 * n * gamma
}

/// As [`float_slack`], for sums of at most `group` terms in `f32` that are added up in `f64`: `2·n·γ_group`.
pub fn grouped_float_slack(terms: u64, group: u64) -> f64 {
    let unit = group as f64 + 2.0;
    let gamma = unit * exp2(-24) / (1.0 - (unit * exp2(-24)).min(0.5));
    2.0 * (terms as f64 + 2.0) * gamma
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(norm: f64, dimensions: u64) -> Grid {
        Grid::new(ClipNorm::new(norm).unwrap(), NonZeroU64::new(dimensions).unwrap()).unwrap()
    }

    #[test]
    fn the_grid_is_finer_for_more_dimensions() {
        let small = grid(1.0, 10);
        assert_eq!((small.exponent(), small.sensitivity().get()), (-16, 1 << 16));
        let large = grid(1.0, 100_000_000);
        assert_eq!((large.exponent(), large.sensitivity().get()), (-18, 1 << 18));
        let odd = grid(0.7, 10);
        assert!(odd.norm() <= 0.7 && odd.norm() > 0.7 * (1.0 - 2.0_f64.powi(-16)), "{odd:?}");
        for norm in [1e-20, 3.3, 1e20] {
            assert!(grid(norm, 5).norm() <= norm && grid(norm, u64::MAX).norm() > 0.9 * norm);
        }
    }

    #[test]
    fn noise_is_never_less_than_asked_for() {
        for (norm, z) in [(1.0, 1.0), (0.7, 1.1), (3.0, 0.001), (2.5, 73.0)] {
            let grid = grid(norm, 1000);
            let variance = grid.variance(NoiseMultiplier::new(z).unwrap()).unwrap().get() as f64;
            let deviation = variance.sqrt() / grid.sensitivity().get() as f64;
            assert!(deviation >= z * (1.0 - 1e-15) && deviation < z * 1.001, "{z} {deviation}");
        }
        let message = grid(1.0, 1).variance(NoiseMultiplier::new(1e8).unwrap()).unwrap_err().to_string();
        assert!(message.contains("at most 2^30 quanta"), "{message}");
        let loose = grid(1.0, 10_000).loose_variance(
            NoiseMultiplier::new(1.0).unwrap(),
            NonZeroU64::new(10_000).unwrap(),
            float_slack(100),
        );
        let least = f64::from((1 << 16) + 100).powi(2);
        assert!(loose.unwrap().get() as f64 > least, "{loose:?}");
    }

    #[test]
    fn what_is_off_the_grid_is_refused() {
        let grid = grid(1.0, 3);
        let mut sum = [7; 3];
        let between = grid.add(&mut sum, &[0.0, 1e-6, 0.0]).unwrap_err();
        assert!(matches!(between, OffGrid::Between { index: 1, .. }), "{between}");
        let long = grid.add(&mut sum, &[0.75, 0.75, 0.0]).unwrap_err();
        assert!(matches!(long, OffGrid::TooLong { .. }), "{long}");
        let endless = grid.add(&mut sum, &[0.0, 0.0, f32::NAN]).unwrap_err();
        assert_eq!(endless, OffGrid::NotFinite(NotFinite { index: 2 }));
        assert!(grid.check(&[&[1.0], &[0.0, f32::INFINITY]]).is_err());
        assert_eq!(sum, [7; 3]);
        grid.add(&mut sum, &[0.5, 0.0, -0.75]).unwrap();
        assert_eq!(sum, [7 + (1 << 15), 7, 7 - 3 * (1 << 14)]);
        assert_eq!(grid.round_sum(&[2.5, -0.25]).unwrap(), [5 << 15, -(1 << 14)]);
        assert!(grid.round_sum(&[f32::MAX]).is_err());
        let mut bad = [0.5, f32::NAN];
        assert_eq!(grid.clip(&mut [&mut [1.0], &mut bad]), Err(NotFinite { index: 2 }));
    }

    #[test]
    fn sums_round_and_come_back_as_by_the_plain_conversions() {
        let grid = grid(1.0, 3);
        let (q, unit) = (grid.quantum(), 0.37);
        let last = [0.0, -0.0, 0.5, 1.5, -2.5, 3.499_9, -7.0e9, 1.0e20, -1.0e20].map(|x: f32| x * q as f32);
        let before = [0.25, 1e6, 0.5, -1.0, 0.0, 1e-9, 7.1e9, 0.0, 0.0].map(|x: f64| x * q);
        let mut quanta = [0; 9];
        let mut values = [0.0; 9];
        for before in [None, Some(&before[..])] {
            grid.round_sums(before, &last, &mut quanta);
            for i in 0..9 {
                let x = (before.map_or(0.0, |before| before[i]) + f64::from(last[i])) / q;
                let want = x.clamp(-exp2(50), exp2(50)).round_ties_even() as i64;
                assert_eq!(quanta[i], want, "{x}");
            }
            Grid::values(&quanta, unit, &mut values);
            for (q, x) in quanta.iter().zip(values) {
                assert_eq!(x, (*q as f64 * unit) as f32);
            }
            let noise = [0, 1, -1, i32::MAX, i32::MIN, -70_000, 3, 5, 7, 11];
            grid.noised_sums((before, &last), &noise, unit, &mut values);
            for ((q, noise), x) in quanta.iter().zip(noise).zip(values) {
                assert_eq!(x, ((*q + i64::from(noise)) as f64 * unit) as f32);
            }
        }
    }

    #[test]
    fn a_grid_survives_a_round_trip_and_is_checked() {
        let grid = grid(0.3, 1000);
        let text = serde_json::to_string(&grid).unwrap();
        assert_eq!(serde_json::from_str::<Grid>(&text).unwrap(), grid);
        for bad in [
            r#"{"exponent":-16,"sensitivity":0}"#,
            r#"{"exponent":-160,"sensitivity":9}"#,
            r#"{"exponent":0,"sensitivity":8388608}"#,
            r#"{"exponent":66,"sensitivity":8388607}"#,
        ] {
            assert!(serde_json::from_str::<Grid>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_clipped_vector_is_on_the_grid_and_within_the_bound_in_integers(
            x in prop::collection::vec(prop_oneof![-1e3_f32..1e3, -1.0_f32..1.0, Just(f32::MAX), Just(1e-30)], 1..50),
            norm in 1e-3..1e3_f64,
            cut in 0..50_usize,
        ) {
            let grid = grid(norm, x.len() as u64);
            let mut clipped = x.clone();
            let cut = cut.min(x.len());
            let (left, right) = clipped.split_at_mut(cut);
            let factor = grid.clip(&mut [left, right]).unwrap();
            prop_assert!(grid.check(&[&clipped]).is_ok());
            let mut sum = vec![0; x.len()];
            grid.add(&mut sum, &clipped).unwrap();
            let square: u128 = sum.iter().map(|q| u128::from(q.unsigned_abs()).pow(2)).sum();
            prop_assert!(square <= u128::from(grid.sensitivity().get()).pow(2));
            prop_assert!(factor > 0.0 && factor <= 1.0);
            // Near the original, times the factor.
            for (x, y) in x.iter().zip(&clipped) {
                prop_assert!((f64::from(*x) * factor - f64::from(*y)).abs() <= 0.5001 * grid.quantum());
            }
            // And no shorter than need be.
            let share = grid.share(NonZeroU64::new(7).unwrap()).get();
            let square = u128::from(grid.sensitivity().get()).pow(2);
            prop_assert!(7 * u128::from(share).pow(2) <= square && 7 * u128::from(share + 1).pow(2) > square);
            let size = clipped.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let whole = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            prop_assert!(size >= 0.99 * norm.min(whole) - grid.quantum() * 8.0);
        }
    }
}
