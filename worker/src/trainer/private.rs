//! What leaves a worker in a run that promises privacy: everything that it uploads, shortened together; and
//! where the worker is not to trust the coordinator either, the noise on it.

use super::{ShareMaker, TrainError, steps::StepNoise};
use algorithms::{Algorithm, Vectors};
use privacy::{
    ClipNorm, Event, Grid, Plan, PrivacySpec, RunFacts,
    sampler::{Key, Kind, ReleaseKey, SHARD, Sampler, Short},
    spec::{Clipping, MechanismKind},
};
use proto::spec::{RunSpec, SpecError};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
};

/// What a worker does itself for a run's promise: noise on its steps (DP-SGD) or on its uploads (local
/// privacy). A function of the run file and the model, so that nobody can ask for less noise.
#[derive(Debug)]
pub struct Promise {
    spec: PrivacySpec,
    plan: Plan,
    facts: RunFacts,
    /// By variance: a table takes longer to make than many a round.
    samplers: Mutex<BTreeMap<NonZeroU64, Arc<Sampler>>>,
    shorts: Mutex<BTreeMap<NonZeroU64, Arc<Short>>>,
}

impl Promise {
    /// That of a run, for a model of `length` scalars; `None`: the run asks nothing of its workers.
    ///
    /// # Errors
    /// If no noise keeps the promise, or no theorem covers it.
    pub fn of(spec: &RunSpec, algorithm: &dyn Algorithm, length: usize) -> Result<Option<Self>, SpecError> {
        let Some(privacy) = spec.privacy.as_ref().filter(|_| spec.has_local_noise()) else {
            return Ok(None);
        };
        let facts = spec.privacy_facts(algorithm, length);
        let plan = privacy.plan(facts).map_err(|error| SpecError::new("privacy", error.to_string()))?;
        Ok(Some(Self {
            spec: privacy.clone(),
            plan,
            facts,
            samplers: Mutex::default(),
            shorts: Mutex::default(),
        }))
    }

    /// The section.
    pub fn spec(&self) -> &PrivacySpec {
        &self.spec
    }

    /// The numbers.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What a worker pays for one round.
    ///
    /// # Panics
    /// Never: every plan of such a run has it.
    pub fn cost(&self) -> &Event {
        self.plan.own.as_ref().expect("workers that add noise pay for it")
    }

    /// Elements of what is clipped as one.
    pub(super) fn dimensions(&self) -> NonZeroU64 {
        self.facts.parameters
    }

    /// Whether the noise is on each step and not on the upload.
    pub fn noises_steps(&self) -> bool {
        self.spec.mechanism() == MechanismKind::DpSgd
    }

    pub(super) fn sampler(&self, variance: NonZeroU64) -> Result<Arc<Sampler>, TrainError> {
        let mut samplers = self.samplers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sampler) = samplers.get(&variance) {
            return Ok(Arc::clone(sampler));
        }
        let made = Sampler::new(Kind::Rounded, variance).map_err(failed)?;
        Ok(Arc::clone(samplers.entry(variance).or_insert(Arc::new(made))))
    }

    /// By 32 bits a draw, if it may be.
    pub(super) fn step_noise(&self, variance: NonZeroU64) -> Result<StepNoise, TrainError> {
        let mut shorts = self.shorts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(short) = shorts.get(&variance) {
            return Ok(StepNoise::Short(Arc::clone(short)));
        }
        let Some(made) = Short::new(variance) else { return self.sampler(variance).map(StepNoise::Long) };
        Ok(StepNoise::Short(Arc::clone(shorts.entry(variance).or_insert(Arc::new(made)))))
    }
}

/// A promise and the secret by which one local run keeps it.
#[derive(Debug, Clone)]
pub struct Private {
    promise: Arc<Promise>,
    key: Key,
}

impl Private {
    /// With a key that no other local run may ever have.
    pub fn new(promise: Arc<Promise>, key: Key) -> Self {
        Self { promise, key }
    }

    /// The promise.
    pub fn promise(&self) -> &Promise {
        &self.promise
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// What an upload needs before it leaves, for a model with these layers.
    pub fn seal<'a>(&'a self, layers: &'a [usize]) -> Seal<'a> {
        if self.promise.noises_steps() { Seal::Open } else { Seal::Noised(self, layers) }
    }

    /// Shortens an upload and adds noise to all of it. One that has no norm counts as zero.
    fn noise(&self, upload: &mut Vectors, layers: &[usize]) -> Result<(), TrainError> {
        let Promise { spec, plan, facts, .. } = self.promise();
        let grid = Grid::new(spec.clip_norm(), facts.parameters).map_err(failed)?;
        let finite = upload.values().all(|vector| vector.iter().all(|value| value.is_finite()));
        if !finite {
            for vector in upload.values_mut() {
                Arc::make_mut(vector).fill(0.0);
            }
        }
        clip_upload(upload, spec.clip_norm(), layers)?;
        let sampler = self.promise.sampler(grid.variance(plan.update_noise).map_err(failed)?)?;
        let release = self.key.release(0);
        for (at, vector) in (0_u32..).zip(upload.values_mut()) {
            let shard = |(shard, values): (usize, &mut [f32])| {
                let inverse = 1.0 / grid.quantum();
                let mut quanta: Vec<i64> = values.iter().map(|x| (f64::from(*x) * inverse) as i64).collect();
                release.add_noise(&sampler, (at, shard as u32), &mut quanta, 1);
                values.iter_mut().zip(quanta).for_each(|(x, q)| *x = (q as f64 * grid.quantum()) as f32);
            };
            Arc::make_mut(vector).par_chunks_mut(SHARD).enumerate().for_each(shard);
        }
        Ok(())
    }
}

/// What is done to an upload before it leaves.
#[derive(Debug, Clone, Copy)]
pub enum Seal<'a> {
    /// Nothing: nothing is promised, or it was made of steps that are noised.
    Open,
    /// It is shortened to this norm, each of the layers by itself if there are any; the coordinator adds the
    /// noise.
    Clipped(ClipNorm, &'a [usize]),
    /// It is shortened and noised.
    Noised(&'a Private, &'a [usize]),
    /// It becomes integers with a share of the noise.
    Shared {
        /// With what.
        maker: &'a ShareMaker,
        /// A secret of this upload alone.
        key: &'a ReleaseKey,
        /// The round, for its rotation.
        round: u64,
    },
}

impl Seal<'_> {
    /// Whether nobody may learn that a local run failed: it is a fact about the data.
    pub(super) fn hides_failure(self) -> bool {
        matches!(self, Self::Noised(..) | Self::Shared { .. })
    }

    /// Does it.
    ///
    /// # Errors
    /// If the upload cannot be shortened, or the noise is out of the sampler's bounds.
    pub fn close(self, upload: &mut Vectors) -> Result<(), TrainError> {
        match self {
            Self::Open => Ok(()),
            Self::Clipped(norm, layers) => clip_upload(upload, norm, layers),
            Self::Noised(private, layers) => private.noise(upload, layers),
            Self::Shared { maker, key, round } => maker.make(upload, round, key),
        }
    }
}

/// A key from the operating system.
///
/// # Errors
/// If it gives no randomness.
pub fn draw_key() -> Result<Key, TrainError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        TrainError::Training(format!("the operating system gives no randomness for the noise: {error}"))
    })?;
    Ok(Key::new(bytes))
}

pub(super) fn failed(error: impl std::fmt::Display) -> TrainError {
    TrainError::Training(format!("privacy: {error}"))
}

/// Shortens an upload, all of its vectors as one, to at most `norm`, on the integer grid that the
/// coordinator checks it against. With `layers`, the lengths of what each vector consists of, each layer of
/// each vector is shortened by itself, to `norm / √(their number)`.
///
/// # Errors
/// If an element is not finite, or a vector has another length than its layers.
pub fn clip_upload(upload: &mut Vectors, norm: ClipNorm, layers: &[usize]) -> Result<(), TrainError> {
    let failed = |error: &dyn std::fmt::Display| TrainError::Training(format!("clipping: {error}"));
    let length = upload.values().map(|vector| vector.len() as u64).sum();
    let dimensions = NonZeroU64::new(length).unwrap_or(NonZeroU64::MIN);
    let grid = Grid::new(norm, dimensions).map_err(|error| failed(&error))?;
    let mut parts: Vec<&mut [f32]> =
        upload.values_mut().map(|vector| Arc::make_mut(vector).as_mut_slice()).collect();
    if layers.is_empty() {
        return grid.clip(&mut parts).map(drop).map_err(|error| failed(&error));
    }
    let groups = NonZeroU64::new((parts.len() * layers.len()) as u64).unwrap_or(NonZeroU64::MIN);
    let share = grid.share(groups);
    for mut rest in parts {
        if rest.len() != layers.iter().sum::<usize>() {
            return Err(failed(
                &"a vector has another length than the model, whose layers are clipped apart",
            ));
        }
        for length in layers {
            let (layer, others) = rest.split_at_mut(*length);
            grid.clip_to(share, &mut [layer]).map_err(|error| failed(&error))?;
            rest = others;
        }
    }
    Ok(())
}

/// Whether a run clips the layers of a model apart.
pub fn clips_layers(spec: &RunSpec) -> bool {
    spec.privacy.as_ref().is_some_and(|privacy| privacy.clipping() == Clipping::PerLayer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_vectors_are_shortened_as_one() {
        let upload = |scale: f32| {
            Vectors::from([
                ("a".to_owned(), Arc::new(vec![3.0 * scale, 0.0])),
                ("b".to_owned(), Arc::new(vec![4.0 * scale])),
            ])
        };
        let norm = ClipNorm::new(1.0).unwrap();
        let mut long = upload(7.0);
        clip_upload(&mut long, norm, &[]).unwrap();
        assert!((long["a"][0] - 0.6).abs() < 1e-4 && (long["b"][0] - 0.8).abs() < 1e-4, "{long:?}");
        let grid = Grid::new(norm, NonZeroU64::new(3).unwrap()).unwrap();
        assert!(grid.check(&[&long["a"], &long["b"]]).is_ok());
        let mut short = upload(0.1);
        clip_upload(&mut short, norm, &[]).unwrap();
        assert!((short["a"][0] - 0.3).abs() < 1e-4, "{short:?}");
        let error = clip_upload(&mut upload(f32::NAN), norm, &[]).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
    }

    #[test]
    fn layers_are_shortened_apart_and_keep_to_the_norm_together() {
        let norm = ClipNorm::new(1.0).unwrap();
        let two = || Vectors::from([("delta".to_owned(), Arc::new(vec![30.0, 40.0, 0.1, 0.0, 5.0]))]);
        let mut apart = two();
        clip_upload(&mut apart, norm, &[2, 2, 1]).unwrap();
        let share = 1.0 / 3.0_f32.sqrt();
        for (got, want) in apart["delta"].iter().zip([0.6 * share, 0.8 * share, 0.1, 0.0, share]) {
            assert!((got - want).abs() < 1e-4, "{apart:?}");
        }
        let grid = Grid::new(norm, NonZeroU64::new(5).unwrap()).unwrap();
        assert!(grid.check(&[&apart["delta"]]).is_ok());
        let error = clip_upload(&mut two(), norm, &[2, 2]).unwrap_err().to_string();
        assert!(error.contains("another length"), "{error}");
    }
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod mechanism_tests;
