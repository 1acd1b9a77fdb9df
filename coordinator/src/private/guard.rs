//! The guard of a private run: what it checks in an update, what it adds to a sum, what a release costs.

use super::Secret;
use algorithms::{
    Algorithm, RoundFacts, Vectors,
    fold::{Fold, Scale},
};
use privacy::{
    Adjacency, ClipNorm, Event, Grid, Journal, OffGrid, Plan, PrivacySpec, RunFacts,
    accountants::report,
    adaptive::AdaptiveClip,
    correlated::{CorrelatedNoise, State, StreamError},
    metrics::Tally,
    sampler::{self, Key, Kind, SHARD, Sampler},
    shares::Shares,
    spec::MechanismKind,
};
use proto::{
    spec::{RunSpec, SpecError},
    v1::RejectReason,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// The vector of a release that carries the count of clients within the norm.
const COUNT: u32 = 1;

/// What a private run promised, in numbers.
#[derive(Debug, Clone)]
pub struct Guard {
    spec: PrivacySpec,
    plan: Plan,
    facts: RunFacts,
    folds: Vec<Fold>,
    shapes: Vec<(&'static str, usize)>,
    expected: f64,
    population: usize,
    steps: f64,
    /// Noise that is correlated over rounds, once it was needed: its table takes longer than many a round.
    correlated: Arc<OnceLock<CorrelatedNoise>>,
    /// Its state before and after the last round, by shard.
    states: Arc<Mutex<BTreeMap<u32, [State; 2]>>>,
}

/// What changes from round to round, durable with the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The norm of the round that is to come or open.
    pub norm: ClipNorm,
    /// How the norm moves, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveClip>,
    /// Where noise that is correlated over rounds comes from, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Secret>,
    /// The version of the noise that the stream began with.
    #[serde(default = "first_version")]
    pub noise_version: u32,
}

/// That of records that do not tell.
fn first_version() -> u32 {
    1
}

/// A sum of clipped updates, in quanta of the round's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Sum {
    grid: Grid,
    quanta: Vec<i64>,
    /// Twice the centred count of updates that were not shortened.
    within: i64,
    count: usize,
    tally: Tally,
    /// Where clients add the noise: the ring in which their shares are added up.
    shares: Option<Shares>,
}

impl Sum {
    /// Adds an update, whose vectors lie end to end, once it was found to be on the grid and within the
    /// bound, in integers.
    ///
    /// # Errors
    /// If it is not; then nothing was added.
    pub fn add(&mut self, values: &[f32]) -> Result<(), (RejectReason, String)> {
        if let Some(shares) = &self.shares {
            shares::add(shares, &mut self.quanta, values)?;
            self.count += 1;
            return Ok(());
        }
        let refuse = |error: OffGrid| match error {
            OffGrid::NotFinite(_) => (RejectReason::NotFinite, error.to_string()),
            OffGrid::Between { .. } => (RejectReason::Range, error.to_string()),
            OffGrid::TooLong { .. } => (RejectReason::Norm, error.to_string()),
        };
        self.grid.add(&mut self.quanta, values).map_err(refuse)?;
        // Whoever is shortened comes out just below the bound: no bit of its own is needed.
        let squares: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let within = squares.sqrt() < self.grid.norm() * (1.0 - 1.0 / 1_024.0);
        self.within += AdaptiveClip::bit(within);
        self.count += 1;
        Ok(())
    }

    /// Updates in it. Not to be told to anybody: it is not paid for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The sum, in quanta.
    pub fn quanta(&self) -> &[i64] {
        &self.quanta
    }
}

impl Guard {
    /// The guard of a run, for a model of `length` scalars; `None` for a run without a promise.
    ///
    /// # Errors
    /// If no noise keeps the promise, or no theorem covers it.
    pub fn of(spec: &RunSpec, algorithm: &dyn Algorithm, length: usize) -> Result<Option<Self>, SpecError> {
        let Some(privacy) = &spec.privacy else { return Ok(None) };
        let shapes = algorithm.upload(length);
        let facts = spec.privacy_facts(algorithm, length);
        let plan = privacy.plan(facts).map_err(|error| SpecError::new("privacy", error.to_string()))?;
        Ok(Some(Self {
            spec: privacy.clone(),
            plan,
            facts,
            folds: algorithm.folds(),
            shapes,
            expected: spec.expected_clients(),
            population: spec.cohort.population.unwrap_or(1) as usize,
            steps: f64::from(spec.local.steps.unwrap_or(1)),
            correlated: Arc::default(),
            states: Arc::default(),
        }))
    }

    /// The same after a restart: nothing is in memory of noise that is correlated over rounds.
    pub fn restarted(&self) -> Self {
        Self { states: Arc::default(), ..self.clone() }
    }

    /// The section.
    pub fn spec(&self) -> &PrivacySpec {
        &self.spec
    }

    /// The numbers.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether noise is added to the sum, and not by the workers.
    pub fn adds_noise(&self) -> bool {
        !self.spec.mechanism().is_local()
    }

    /// Whether nobody may learn who took part, or how many.
    pub fn hides_cohort(&self) -> bool {
        if !self.adds_noise() {
            // Records are drawn on the workers, which say themselves what they send.
            return false;
        }
        let drawn = self.spec.sampling() != privacy::Sampling::Everyone;
        drawn || self.spec.adjacency() == Adjacency::AddRemove
    }

    /// What a rule may know of a round: nothing that would tell who took part.
    pub fn round_facts(&self) -> RoundFacts {
        let included = (self.expected.round() as usize).max(1);
        RoundFacts { included, population: self.population, population_before: self.population }
    }

    /// ε of what a ledger holds, as it is shown and watched.
    pub fn epsilon(&self, journal: &Journal) -> f64 {
        match &self.plan.gate {
            Some(gate) => gate.epsilon(journal.ledger()).epsilon,
            None => report::epsilon(journal.ledger(), self.spec.delta(), 1).epsilon,
        }
    }

    /// What a round costs, from 1; 0: what is paid before the first. `None`: nothing.
    pub fn cost(&self, round: u64) -> Option<&Event> {
        if round == 0 { self.plan.before.as_ref() } else { self.plan.each_round.as_ref() }
    }

    /// How a run starts.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn start(&self) -> Result<Standing, String> {
        let adaptive = self.spec.adaptive_clip(self.facts).map_err(|error| error.to_string())?;
        let stream = self.plan.strategy.as_ref().map(|_| Secret::draw()).transpose()?;
        Ok(Standing { norm: self.spec.clip_norm(), adaptive, stream, noise_version: sampler::STREAM })
    }

    fn grid(&self, norm: ClipNorm) -> Result<Grid, String> {
        Grid::new(norm, self.facts.parameters).map_err(|error| error.to_string())
    }

    /// An empty sum for a round.
    ///
    /// # Errors
    /// If no grid suits the norm.
    pub fn sum(&self, standing: &Standing) -> Result<Sum, String> {
        let grid = self.grid(standing.norm)?;
        let shares = self.plan.shares;
        let length = self.shapes.iter().map(|(_, length)| length).sum();
        let length = shares.map_or(length, |shares| shares.length());
        Ok(Sum { grid, quanta: vec![0; length], within: 0, count: 0, tally: Tally::default(), shares })
    }

    /// Closes a round: adds the noise, moves the norm, and gives the means of the folds. A function of its
    /// arguments: a retry gives the same bits.
    ///
    /// # Errors
    /// If the noise is out of the sampler's bounds.
    pub fn release(
        &self,
        standing: &mut Standing,
        mut sum: Sum,
        (round, lr): (u64, f32),
        secret: &Secret,
    ) -> Result<Vectors, String> {
        self.add_noise(standing, &mut sum, round, secret)?;
        Ok(self.means(&sum, lr))
    }

    /// The part of [`Self::release`] that is not a function of the noised sum.
    ///
    /// # Errors
    /// If the noise is out of the sampler's bounds.
    pub fn add_noise(
        &self,
        standing: &mut Standing,
        sum: &mut Sum,
        round: u64,
        secret: &Secret,
    ) -> Result<(), String> {
        let key = secret.noise(round, &sum.quanta);
        let text = |error: privacy::ParameterError| error.to_string();
        if let (Some(_), Some(stream)) = (&self.plan.strategy, &standing.stream) {
            if standing.noise_version != sampler::STREAM {
                return Err("this run's noise was begun by another version of the program, and this one \
                            cannot make it again: finish the run with that version, or submit it anew"
                    .to_owned());
            }
            self.correlated(sum, round, &stream.stream())?;
        } else {
            let variance = sum.grid.variance(self.plan.update_noise).map_err(text)?;
            let kind = match self.spec.mechanism() {
                MechanismKind::CentralDiscreteGaussian => Kind::Discrete,
                _ => Kind::Rounded,
            };
            let sampler = known_sampler(kind, variance)?;
            let shards = sum.quanta.par_chunks_mut(SHARD).enumerate();
            shards.for_each(|(shard, sum)| key.add_noise(&sampler, (0, shard as u32), sum, 1));
        }
        if let Some(adaptive) = &mut standing.adaptive {
            let variance = adaptive.count_variance().map_err(text)?;
            let sampler = known_sampler(Kind::Rounded, variance)?;
            standing.norm = adaptive.close(sum.within + sampler.sample(&mut key.stream(COUNT, 0)));
        }
        Ok(())
    }

    /// The means of the folds, from a sum with noise.
    pub fn means(&self, sum: &Sum, lr: f32) -> Vectors {
        self.fold(&sum.quanta, sum.grid.quantum(), lr, |quanta| *quanta as f64)
    }

    /// The means of the folds from all vectors of the sum, end to end, in units of `unit`.
    fn fold<T: Sync>(&self, sum: &[T], unit: f64, lr: f32, value: impl Fn(&T) -> f64 + Sync) -> Vectors {
        let mut means = Vectors::new();
        for fold in &self.folds {
            let at = self.shapes.iter().position(|(name, _)| *name == fold.from);
            let at = at.expect("a fold reads what its rule uploads");
            let start: usize = self.shapes[..at].iter().map(|(_, length)| length).sum();
            let scale = match fold.scale {
                Scale::One => 1.0,
                Scale::InverseSteps => 1.0 / self.steps,
                Scale::InverseStepsLr => 1.0 / (self.steps * f64::from(lr)),
            };
            let unit = unit / self.expected * scale;
            let sum = &sum[start..start + self.shapes[at].1];
            let mean: Vec<f32> = sum.par_iter().map(|x| (value(x) * unit) as f32).collect();
            means.insert(fold.into.to_owned(), Arc::new(mean));
        }
        means
    }

    /// Noise of DP-FTRL. Its state is a function of the run's secret and the round: what is in memory is
    /// made again from the first round after a restart, so that nothing can be lost of it.
    fn correlated(&self, sum: &mut Sum, round: u64, key: &Key) -> Result<(), String> {
        let Some(strategy) = &self.plan.strategy else { return Ok(()) };
        let noise = match self.correlated.get() {
            // The norm of such a run stays, and with it the grid.
            Some(noise) => noise,
            None => {
                let (grid, parameters) = (sum.grid, self.facts.parameters);
                let made = CorrelatedNoise::new(strategy, self.plan.noise_multiplier, grid, parameters);
                let made = made.map_err(|error| error.to_string())?;
                self.correlated.get_or_init(|| made)
            }
        };
        let advance = |(shard, sum): (usize, &mut [i64])| {
            let place = (0, shard as u32);
            let known = self
                .states()
                .get(&place.1)
                .and_then(|two| two.iter().find(|state| state.round == round).cloned());
            let mut state = known.unwrap_or_else(|| noise.start(sum.len()));
            let mut past = vec![0; if state.round < round { sum.len() } else { 0 }];
            while state.round < round {
                noise.advance(key, place, &mut state, &mut past)?;
            }
            let before = state.clone();
            noise.advance(key, place, &mut state, sum)?;
            self.states().insert(place.1, [before, state]);
            Ok(())
        };
        let shards = sum.quanta.par_chunks_mut(SHARD).enumerate();
        let advanced: Result<(), StreamError> = shards.map(advance).collect();
        advanced.map_err(|error| error.to_string())
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<u32, [State; 2]>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sampler's table takes longer to make than many a round takes; the last few are kept.
fn known_sampler(kind: Kind, variance: NonZeroU64) -> Result<Arc<Sampler>, String> {
    static KNOWN: Mutex<VecDeque<Arc<Sampler>>> = Mutex::new(VecDeque::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = |sampler: &&Arc<Sampler>| sampler.kind() == kind && sampler.variance() == variance.get();
    if let Some(sampler) = known.iter().find(wanted) {
        return Ok(Arc::clone(sampler));
    }
    let made = Arc::new(Sampler::new(kind, variance).map_err(|error| error.to_string())?);
    known.push_front(Arc::clone(&made));
    known.truncate(8);
    Ok(made)
}

mod metrics;
mod shares;
#[cfg(test)]
mod tests;
