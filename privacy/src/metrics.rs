//! Small numbers that a round releases beside its model: how many took part, and their mean training loss.
//!
//! Each is a sum with noise of its own on integers, from the same cohort and paid for by the same event: of
//! the round's `z⁻²` they have a share, half of it each, and the update has the rest.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{NoiseMultiplier, ParameterError, Positive, parameters::require, sampler::Sampler};
use rand_chacha::rand_core::Rng;

/// Quanta in the largest contribution to either sum.
const SCALE: i64 = 1 << 16;

/// What is released, and for which part of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawMetrics")]
pub struct MetricsSpec {
    /// Part of each round's `z⁻²`: above 0 and below 1.
    budget_share: f64,
    /// A client's training loss counts as at most this.
    loss_bound: Positive,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetrics {
    budget_share: f64,
    loss_bound: Positive,
}

impl TryFrom<RawMetrics> for MetricsSpec {
    type Error = ParameterError;

    fn try_from(raw: RawMetrics) -> Result<Self, ParameterError> {
        let (share, inside) = (raw.budget_share, raw.budget_share > 0.0 && raw.budget_share < 1.0);
        require(inside, "budget_share", share, "a number above 0 and below 1")?;
        Ok(Self { budget_share: share, loss_bound: raw.loss_bound })
    }
}

/// What those who took part said, summed up in quanta.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    participants: i64,
    loss: i64,
}

/// What may be told of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Told {
    /// How many took part, with noise, rounded.
    pub participants: u64,
    /// Their mean training loss, with noise; none if hardly anybody took part.
    pub train_loss: Option<f64>,
}

impl MetricsSpec {
    /// The multiplier that is left for the update of a round with `total`.
    ///
    /// # Errors
    /// If it is out of bounds.
    pub fn update_noise(self, total: NoiseMultiplier) -> Result<NoiseMultiplier, ParameterError> {
        NoiseMultiplier::new(total.get() / (1.0 - self.budget_share).sqrt())
    }

    /// The variance of the noise on each sum, in squared quanta.
    ///
    /// # Errors
    /// If it is above the sampler's bound.
    pub fn variance(self, total: NoiseMultiplier) -> Result<NonZeroU64, ParameterError> {
        let deviation = total.get() / (0.5 * self.budget_share).sqrt() * SCALE as f64;
        let variance = (deviation * deviation * (1.0 + 1e-14)).ceil();
        let most = 2.0_f64.powi(60);
        require(
            variance <= most,
            "budget_share",
            self.budget_share,
            "a larger share: its noise is too wide",
        )?;
        Ok(NonZeroU64::new(variance as u64).unwrap_or(NonZeroU64::MIN))
    }

    /// Counts one who took part; a loss that is no number counts as the bound.
    pub fn count(self, tally: &mut Tally, loss: Option<f64>) {
        let bound = self.loss_bound.get();
        let loss = loss.filter(|loss| loss.is_finite()).unwrap_or(bound).clamp(0.0, bound);
        tally.participants += SCALE;
        tally.loss += (loss / bound * SCALE as f64).round() as i64;
    }

    /// Both sums with noise, by a sampler of [`Self::variance`] from two streams of their own.
    pub fn tell(self, tally: Tally, sampler: &Sampler, [one, two]: [&mut impl Rng; 2]) -> Told {
        let participants = (tally.participants + sampler.sample(one)) as f64 / SCALE as f64;
        let loss = (tally.loss + sampler.sample(two)) as f64 / SCALE as f64 * self.loss_bound.get();
        let mean = (loss / participants).clamp(0.0, self.loss_bound.get());
        Told {
            participants: participants.round().max(0.0) as u64,
            train_loss: (participants >= 1.0).then_some(mean),
        }
    }
}

impl Tally {
    /// Its numbers, for the key of the noise: another tally meets another noise.
    pub fn numbers(self) -> [i64; 2] {
        [self.participants, self.loss]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Key, Kind};

    fn spec(share: f64) -> MetricsSpec {
        serde_json::from_str(&format!(r#"{{"budget_share":{share},"loss_bound":4.0}}"#)).unwrap()
    }

    #[test]
    fn all_parts_together_cost_what_the_round_was_to_cost() {
        let (metrics, z) = (spec(0.1), NoiseMultiplier::new(1.7).unwrap());
        let each = (metrics.variance(z).unwrap().get() as f64).sqrt() / SCALE as f64;
        let each = NoiseMultiplier::new(each).unwrap();
        let whole = NoiseMultiplier::combined(&[metrics.update_noise(z).unwrap(), each, each]).unwrap();
        assert!(
            (whole.get() / z.get() - 1.0).abs() < 1e-9
                && whole >= NoiseMultiplier::new(1.7 * (1.0 - 1e-12)).unwrap()
        );
        assert!(
            spec(1e-9)
                .variance(NoiseMultiplier::new(1e3).unwrap())
                .unwrap_err()
                .to_string()
                .contains("larger share")
        );
        for bad in [
            r#"{"budget_share":0,"loss_bound":1}"#,
            r#"{"budget_share":1,"loss_bound":1}"#,
            r#"{"budget_share":0.1}"#,
        ] {
            assert!(serde_json::from_str::<MetricsSpec>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_told_is_near_the_truth_and_nobody_moves_it_far() {
        let (metrics, z) = (spec(0.5), NoiseMultiplier::new(1.0).unwrap());
        let sampler = Sampler::new(Kind::Rounded, metrics.variance(z).unwrap()).unwrap();
        let mut tally = Tally::default();
        for client in 0..400 {
            metrics.count(&mut tally, Some(1.0 + f64::from(client % 2)));
        }
        let tell = |tally: Tally, number: u64| {
            let key = Key::new([1; 32]).release(number);
            metrics.tell(tally, &sampler, [&mut key.stream(0, 0), &mut key.stream(1, 0)])
        };
        let told = tell(tally, 1);
        // σ of the count is 2.
        assert!(told.participants.abs_diff(400) < 15, "{told:?}");
        assert!((told.train_loss.unwrap() - 1.5).abs() < 0.2, "{told:?}");
        assert_eq!(tell(tally, 1), told);
        assert_ne!(tell(tally, 2), told);
        let before = tally;
        for loss in [Some(1e30), Some(-1e30), Some(f64::NAN), None] {
            let mut after = before;
            metrics.count(&mut after, loss);
            let [count, loss] = [0, 1].map(|at| after.numbers()[at] - before.numbers()[at]);
            assert!(count == SCALE && (0..=SCALE).contains(&loss));
        }
        let nobody = tell(Tally::default(), 3);
        assert!(nobody.participants < 15, "{nobody:?}");
    }
}
