//! `[local]`: training on a worker, and what of it changes from round to round.

use super::{RunSpec, SpecError, check::require};
use algorithms::schedule::{Growth, LearningRate, Schedule};
use privacy::spec::MechanismKind;
use serde::{Deserialize, Serialize};

/// Examples in the largest mini-batch.
const BATCH_MAX: usize = 1_000_000;

/// Local training on a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSpec {
    /// Passes over the worker's data in a round; ignored when `steps` is given.
    pub epochs: u32,
    /// Exact number of local steps in a round.
    pub steps: Option<u32>,
    /// Examples in a mini-batch.
    pub batch: usize,
    /// How `batch` grows over the rounds; absent: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// Parts of a mini-batch that are computed one after the other, whose gradients are added up: a step needs
    /// the memory of a part.
    #[serde(skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Learning rate of round 0.
    pub lr: f32,
    /// The learning rate of round t is `lr · lr_decay^t`, times what `schedule` and `warmup` say.
    pub lr_decay: f32,
    /// How the learning rate falls over the rounds; absent: by `lr_decay` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Rounds over which the learning rate grows to its first value, in equal steps.
    #[serde(skip_serializing_if = "is_zero")]
    pub warmup: u64,
    /// Weight decay, outside the clip.
    pub weight_decay: f32,
    /// Clipping norm of a local gradient, over the whole vector; absent: no clipping.
    pub clip: Option<f32>,
    /// What the clip acts on.
    pub clip_mode: ClipMode,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(number: &usize) -> bool {
    *number == 1
}

/// What gradient clipping acts on (`ARCHITECTURE.md`, local step).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// The loss gradient alone; prox and correction are added exactly.
    #[default]
    Clean,
    /// Gradient plus correction vector, prox split around the clip, as FL-Simulator's code does.
    Compat,
}

impl Default for LocalSpec {
    fn default() -> Self {
        Self {
            epochs: 1,
            steps: None,
            batch: 50,
            growth: None,
            accumulate: 1,
            lr: 0.05,
            lr_decay: 1.0,
            schedule: None,
            warmup: 0,
            weight_decay: 0.0,
            clip: None,
            clip_mode: ClipMode::Clean,
        }
    }
}

impl RunSpec {
    /// Learning rate of a round, computed in `f64`: `lr · lr_decay^t`, times the schedule's factor.
    pub fn lr(&self, round: u64) -> f32 {
        let LocalSpec { lr, lr_decay, schedule, warmup, .. } = self.local;
        let rate = LearningRate { schedule: schedule.unwrap_or_default(), warmup };
        (f64::from(lr) * f64::from(lr_decay).powf(round as f64) * rate.factor(round, self.rounds)) as f32
    }

    /// Examples in a mini-batch of a round.
    pub fn batch(&self, round: u64) -> usize {
        let LocalSpec { batch, growth, .. } = self.local;
        growth.map_or(batch, |growth| growth.batch(batch, round)).max(1)
    }

    pub(super) fn check_local(&self) -> Result<(), SpecError> {
        let local = &self.local;
        require(local.steps != Some(0), "local.steps", || "expected at least 1".into())?;
        require(local.epochs >= 1 || local.steps.is_some(), "local.epochs", || "expected at least 1".into())?;
        self.check_batch()?;
        require(local.lr.is_finite() && local.lr > 0.0, "local.lr", || "expected a number above 0".into())?;
        require(local.lr_decay > 0.0 && local.lr_decay <= 1.0, "local.lr_decay", || {
            "expected in (0, 1]".into()
        })?;
        if let Some(schedule) = local.schedule {
            schedule.check().map_err(|detail| SpecError::new("local.schedule", detail))?;
        }
        require(local.warmup < self.rounds, "local.warmup", || {
            format!("{} rounds, expected fewer than the run's {}", local.warmup, self.rounds)
        })?;
        require(local.weight_decay.is_finite() && local.weight_decay >= 0.0, "local.weight_decay", || {
            "expected at least 0".into()
        })?;
        require(local.clip.is_none_or(|clip| clip.is_finite() && clip > 0.0), "local.clip", || {
            "expected a number above 0; leave the key out for no clipping".into()
        })
    }

    fn check_batch(&self) -> Result<(), SpecError> {
        let LocalSpec { batch, growth, accumulate, .. } = self.local;
        require((1..=BATCH_MAX).contains(&batch), "local.batch", || "expected 1 to 1,000,000".into())?;
        if let Some(growth) = growth {
            growth.check(batch).map_err(|detail| SpecError::new("local.growth", detail))?;
            require(growth.max() <= BATCH_MAX, "local.growth", || {
                format!("`max` is {}, expected at most 1,000,000", growth.max())
            })?;
        }
        require((1..=batch).contains(&accumulate), "local.accumulate", || {
            format!("{accumulate} parts of a mini-batch of {batch}, expected 1 to {batch}")
        })?;
        if self.privacy.as_ref().is_none_or(|privacy| privacy.mechanism() != MechanismKind::DpSgd) {
            return Ok(());
        }
        require(growth.is_none(), "local.growth", || {
            "`dp_sgd` draws the records of a step at the rate of `privacy.sampling`, which every step was paid \
             for; leave the key out"
                .into()
        })?;
        require(accumulate == 1, "local.accumulate", || {
            "`dp_sgd` computes the records of a step in groups of its own; leave the key out".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name='l'\nrounds=9\n[model]\nkind='linear'\n[data]\nname='d'\n[local]\nbatch=10\n";

    #[test]
    fn batches_grow_and_survive_the_wire() {
        let plain = RunSpec::from_toml(GOOD).unwrap();
        assert!((0..9).all(|round| plain.batch(round) == 10));
        let old = plain.to_json();
        assert!(!old.contains("growth") && !old.contains("accumulate"), "an older worker reads it: {old}");
        let keys = "growth={kind='step',every=4,factor=2.5,max=40}\naccumulate=5\n";
        let spec = RunSpec::from_toml(&[GOOD, keys].concat()).unwrap();
        assert_eq!([0, 4, 8].map(|round| spec.batch(round)), [10, 25, 40]);
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
    }

    #[test]
    fn contradictions_are_named() {
        let private = "steps=2\n[privacy]\nunit='record'\nadjacency='zero_out'\nmechanism='dp_sgd'\n\
            clip_norm=1.0\nepsilon=2.0\ndelta=1e-5\nsampling={kind='poisson',rate=0.1}\n";
        RunSpec::from_toml(&[GOOD, private].concat()).unwrap();
        for (keys, rest, want) in [
            ("accumulate=0\n", "", "local.accumulate: 0 parts"),
            ("accumulate=11\n", "", "expected 1 to 10"),
            ("growth={kind='linear',add=1,max=9}\n", "", "local.growth: `max` is 9"),
            ("growth={kind='linear',add=1,max=9000000}\n", "", "at most 1,000,000"),
            ("growth={kind='step',every=2,factor=0.5,max=20}\n", "", "`factor` is 0.5"),
            ("growth={kind='steps',every=2,factor=2.0,max=20}\n", "", "did you mean `step`"),
            ("growth={kind='linear',add=1,max=20,factor=2}\n", "", "unknown field `factor`"),
            ("growth={kind='linear',add=1,max=20}\n", private, "`dp_sgd` draws"),
            ("accumulate=2\n", private, "in groups of its own"),
        ] {
            let error = RunSpec::from_toml(&[GOOD, keys, rest].concat()).unwrap_err().to_string();
            assert!(error.contains(want), "{keys}: {error}");
        }
    }
}
