//! Learning rates and batch sizes over rounds, as pure functions of the round: a restart gives the same.

use serde::{Deserialize, Serialize};

/// The factor on the first learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// 1.
    Constant {},
    /// `decay^t`.
    Exponential {
        /// Above 0 and at most 1.
        decay: f64,
    },
    /// `factor^⌊t / every⌋`.
    Step {
        /// Rounds between steps, at least 1.
        every: u64,
        /// Above 0 and at most 1.
        factor: f64,
    },
    /// `1 / (1 + rate · t)`; with a rate of 1 the stage-wise `1/(t + 1)`.
    Inverse {
        /// At least 0.
        rate: f64,
    },
    /// `1 / √(1 + t)`.
    InverseRoot {},
    /// `(1 − t/T)^power` over T rounds.
    Polynomial {
        /// At least 0; 1 is linear.
        power: f64,
    },
    /// Half a cosine from 1 to `floor` over T rounds (Loshchilov and Hutter 2017, arXiv:1608.03983).
    Cosine {
        /// 0 to 1.
        #[serde(default)]
        floor: f64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant {}
    }
}

/// A schedule after a linear start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearningRate {
    /// After the start.
    pub schedule: Schedule,
    /// Rounds over which the rate grows to its first value, in equal steps.
    pub warmup: u64,
}

impl LearningRate {
    /// The factor in round `t` of `rounds`, at least 0.
    pub fn factor(&self, t: u64, rounds: u64) -> f64 {
        if t < self.warmup {
            return (t + 1) as f64 / (self.warmup + 1) as f64;
        }
        let (t, rounds) = (t - self.warmup, rounds.saturating_sub(self.warmup).max(1));
        self.schedule.factor(t, rounds)
    }
}

impl Schedule {
    /// Checks the range of every key.
    ///
    /// # Errors
    /// Names the key, what it is and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let (holds, key, value, expected) = match *self {
            Self::Constant {} | Self::InverseRoot {} => return Ok(()),
            Self::Exponential { decay } => {
                (decay > 0.0 && decay <= 1.0, "decay", decay, "above 0 and at most 1")
            }
            Self::Step { every: 0, .. } => (false, "every", 0.0, "at least 1"),
            Self::Step { factor, .. } => {
                (factor > 0.0 && factor <= 1.0, "factor", factor, "above 0 and at most 1")
            }
            Self::Inverse { rate } => (rate.is_finite() && rate >= 0.0, "rate", rate, "at least 0"),
            Self::Polynomial { power } => (power.is_finite() && power >= 0.0, "power", power, "at least 0"),
            Self::Cosine { floor } => ((0.0..=1.0).contains(&floor), "floor", floor, "0 to 1"),
        };
        if holds { Ok(()) } else { Err(format!("`{key}` is {value}, expected {expected}")) }
    }

    /// The factor in round `t` of `rounds`, at least 0.
    pub fn factor(&self, t: u64, rounds: u64) -> f64 {
        let time = t as f64;
        let done = (time / rounds.max(1) as f64).min(1.0);
        match *self {
            Self::Constant {} => 1.0,
            Self::Exponential { decay } => libm::pow(decay, time),
            Self::Step { every, factor } => libm::pow(factor, (t / every.max(1)) as f64),
            Self::Inverse { rate } => 1.0 / (1.0 + rate.max(0.0) * time),
            Self::InverseRoot {} => 1.0 / (1.0 + time).sqrt(),
            Self::Polynomial { power } => libm::pow(1.0 - done, power),
            Self::Cosine { floor } => {
                floor + (1.0 - floor) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
            }
        }
    }
}

/// How a mini-batch grows over the rounds: what a falling learning rate does to the noise of gradients, for
/// fewer steps (Smith et al. 2018, arXiv:1711.00489).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Growth {
    /// `batch · factor^⌊t / every⌋`, rounded down.
    Step {
        /// Rounds between steps, at least 1.
        every: u64,
        /// At least 1.
        factor: f64,
        /// Examples in the largest mini-batch.
        max: usize,
    },
    /// `batch + add · ⌊t / every⌋`.
    Linear {
        /// Rounds between steps, at least 1.
        #[serde(default = "one")]
        every: u64,
        /// Examples.
        add: usize,
        /// Examples in the largest mini-batch.
        max: usize,
    },
}

fn one() -> u64 {
    1
}

impl Growth {
    /// Examples in the largest mini-batch.
    pub fn max(&self) -> usize {
        let (Self::Step { max, .. } | Self::Linear { max, .. }) = self;
        *max
    }

    /// Checks the range of every key, for mini-batches that begin with `first` examples.
    ///
    /// # Errors
    /// Names the key, what it is and what was expected.
    pub fn check(&self, first: usize) -> Result<(), String> {
        let (Self::Step { every, .. } | Self::Linear { every, .. }) = *self;
        if every == 0 {
            return Err("`every` is 0, expected at least 1".into());
        }
        if let Self::Step { factor, .. } = *self
            && !(factor.is_finite() && factor >= 1.0)
        {
            return Err(format!("`factor` is {factor}, expected at least 1: a batch does not shrink"));
        }
        if self.max() < first {
            return Err(format!("`max` is {}, expected at least the first batch of {first}", self.max()));
        }
        Ok(())
    }

    /// Examples in a mini-batch of round `t`.
    pub fn batch(&self, first: usize, t: u64) -> usize {
        let grown = match *self {
            Self::Step { every, factor, .. } => {
                let grown = first as f64 * libm::pow(factor, (t / every.max(1)) as f64);
                // Saturates: the next line knows the bound.
                grown as usize
            }
            Self::Linear { every, add, .. } => {
                let steps = usize::try_from(t / every.max(1)).unwrap_or(usize::MAX);
                first.saturating_add(add.saturating_mul(steps))
            }
        };
        grown.min(self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_by_hand() {
        let doubling = Growth::Step { every: 3, factor: 2.0, max: 150 };
        let batches: Vec<usize> = (0..12).map(|t| doubling.batch(20, t)).collect();
        assert_eq!(batches, [20, 20, 20, 40, 40, 40, 80, 80, 80, 150, 150, 150]);
        assert_eq!(doubling.batch(20, u64::MAX), 150);
        let adding = Growth::Linear { every: 2, add: 7, max: 30 };
        assert_eq!((0..7).map(|t| adding.batch(10, t)).collect::<Vec<_>>(), [10, 10, 17, 17, 24, 24, 30]);
        assert_eq!(adding.batch(10, u64::MAX), 30);
        for still in [
            Growth::Step { every: 1, factor: 1.0, max: 10 },
            Growth::Linear { every: 1, add: 0, max: 99 },
            Growth::Linear { every: 1, add: 5, max: 10 },
        ] {
            assert!(still.check(10).is_ok() && (0..99).all(|t| still.batch(10, t) == 10), "{still:?}");
        }
        for (wrong, want) in [
            (Growth::Step { every: 0, factor: 2.0, max: 50 }, "`every` is 0"),
            (Growth::Step { every: 1, factor: 0.5, max: 50 }, "`factor` is 0.5"),
            (Growth::Step { every: 1, factor: f64::NAN, max: 50 }, "`factor` is NaN"),
            (Growth::Linear { every: 1, add: 1, max: 9 }, "`max` is 9"),
        ] {
            assert!(wrong.check(10).unwrap_err().contains(want), "{wrong:?}");
        }
    }

    #[test]
    fn values_by_hand() {
        for (schedule, t, want) in [
            (Schedule::Constant {}, 9, 1.0),
            (Schedule::Exponential { decay: 0.998 }, 2, 0.998 * 0.998),
            (Schedule::Step { every: 3, factor: 0.1 }, 5, 0.1),
            (Schedule::Inverse { rate: 1.0 }, 3, 0.25),
            (Schedule::InverseRoot {}, 3, 0.5),
            (Schedule::Polynomial { power: 2.0 }, 5, 0.25),
            (Schedule::Cosine { floor: 0.2 }, 5, 0.6),
            (Schedule::Cosine { floor: 0.2 }, 10, 0.2),
            (Schedule::Cosine { floor: 0.2 }, 99, 0.2),
        ] {
            assert!((schedule.factor(t, 10) - want).abs() < 1e-12, "{schedule:?}");
        }
    }

    #[test]
    fn every_schedule_starts_at_1_and_never_grows() {
        for schedule in [
            Schedule::Constant {},
            Schedule::Exponential { decay: 0.9 },
            Schedule::Step { every: 2, factor: 0.5 },
            Schedule::Inverse { rate: 0.1 },
            Schedule::InverseRoot {},
            Schedule::Polynomial { power: 1.0 },
            Schedule::Cosine { floor: 0.0 },
        ] {
            let factors: Vec<f64> = (0..20).map(|t| schedule.factor(t, 20)).collect();
            assert_eq!(factors[0], 1.0, "{schedule:?}");
            assert!(factors.is_sorted_by(|a, b| a >= b) && factors[19] >= 0.0, "{schedule:?}");
        }
    }

    #[test]
    fn a_warm_start_grows_in_equal_steps() {
        let rate = LearningRate { schedule: Schedule::Polynomial { power: 1.0 }, warmup: 3 };
        let factors: Vec<f64> = (0..5).map(|t| rate.factor(t, 5)).collect();
        assert_eq!(factors, [0.25, 0.5, 0.75, 1.0, 0.5]);
        assert_eq!(LearningRate::default().factor(7, 9), 1.0);
    }
}
