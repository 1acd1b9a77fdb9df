//! The gradients of DP-SGD: records drawn in secret, each one's gradient clipped by itself, exact noise on
//! the sum, and a denominator that does not tell how many were drawn (Abadi et al. 2016, algorithm 1).

use super::{Private, TrainError, private::failed};
use crate::{
    data::Dataset,
    engine::{Clip, Model},
};
use privacy::{
    Grid, Sampling,
    grid::grouped_float_slack,
    sampler::{ReleaseKey, SHARD, Sampler, Short, short::DRAWS},
    spec::Clipping,
};
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use std::sync::Arc;

/// Records of which a sum is made in `f32`; such sums are added up in `f64`.
const GROUP: usize = 64;
/// The vector of a release's streams that throws the coins; noise has 0.
const COINS: u32 = 1;

/// What noise on a step is drawn by.
#[derive(Debug, Clone)]
pub(super) enum StepNoise {
    /// 32 bits a draw.
    Short(Arc<Short>),
    /// 64 bits, whatever the variance.
    Long(Arc<Sampler>),
}

/// The steps of one local run.
#[derive(Debug)]
pub struct NoisySteps<'a> {
    private: &'a Private,
    model: &'a Model,
    examples: &'a Dataset,
    grid: Grid,
    clip: Clip,
    noise: StepNoise,
    /// A coin below this says that a record is drawn.
    below: u128,
    /// Records that a sum is paid for; more are drawn with a probability below 2^-140.
    most: usize,
    /// The quantum over `q·n`.
    unit: f64,
    step: u64,
    /// Of all groups but the last.
    sum: Vec<f64>,
    /// Whether there are none.
    empty: bool,
    /// Of the last group.
    part: Vec<f32>,
}

impl<'a> NoisySteps<'a> {
    /// For all records of a worker.
    ///
    /// # Errors
    /// If the noise is out of the sampler's bounds.
    pub fn new(private: &'a Private, model: &'a Model, examples: &'a Dataset) -> Result<Self, TrainError> {
        let (promise, n) = (private.promise(), examples.len());
        let rate = match promise.spec().sampling() {
            Sampling::Everyone => 1.0,
            Sampling::Poisson { rate } => rate.get(),
            _ => return Err(failed("records are drawn by `poisson` or not at all")),
        };
        let grid = Grid::new(promise.spec().clip_norm(), promise.dimensions()).map_err(failed)?;
        let expected = rate * n as f64;
        // A power of two, so that clients with like numbers of records share a sampler.
        let most = ((expected + 14.0 * expected.sqrt() + 100.0) as usize).next_power_of_two();
        let slack = grouped_float_slack(most as u64, GROUP as u64);
        let variance = grid.loose_variance(promise.plan().update_noise, promise.dimensions(), slack);
        let length = model.parameters();
        // Below the bound by more than the rounding of a factor and of its product.
        let norm = grid.norm() * (1.0 - 1.0 / 1_048_576.0);
        let clip = match promise.spec().clipping() {
            Clipping::Flat => Clip::Flat(norm),
            Clipping::PerLayer => Clip::PerLayer(norm / (model.layers().len().max(1) as f64).sqrt()),
        };
        Ok(Self {
            private,
            model,
            examples,
            grid,
            clip,
            noise: promise.step_noise(variance.map_err(failed)?)?,
            below: (rate * 2.0_f64.powi(64)) as u128,
            most,
            unit: grid.quantum() / expected,
            step: 0,
            sum: vec![0.0; length],
            empty: true,
            part: vec![0.0; length],
        })
    }

    /// Overwrites `grad` by the noisy mean of the clipped gradients at `w`, of records drawn for this step.
    ///
    /// # Errors
    /// If the model does not suit the records.
    pub fn gradient(&mut self, w: &[f32], grad: &mut [f32]) -> Result<(), TrainError> {
        let release = self.private.key().release(self.step);
        self.step += 1;
        let mut coins = release.stream(COINS, 0);
        let mut drawn: Vec<usize> =
            (0..self.examples.len()).filter(|_| u128::from(coins.next_u64()) < self.below).collect();
        drawn.truncate(self.most);
        self.sum_up(w, &drawn)?;
        let perturb = |(at, values): (usize, &mut [f32])| self.perturb(&release, at, values);
        // A client of a simulation has one thread, and others beside it.
        if self.model.threads() == 1 {
            grad.chunks_mut(SHARD).enumerate().for_each(perturb);
        } else {
            grad.par_chunks_mut(SHARD).enumerate().for_each(perturb);
        }
        Ok(())
    }

    /// Writes the mean of one shard, with its noise.
    fn perturb(&self, release: &ReleaseKey, at: usize, values: &mut [f32]) {
        let shard = at * SHARD..at * SHARD + values.len();
        let last = &self.part[shard.clone()];
        let before = (!self.empty).then(|| &self.sum[shard]);
        match &self.noise {
            StepNoise::Short(short) => {
                let mut draws = short.draws(release, (0, at as u32));
                for (i, values) in values.chunks_mut(DRAWS).enumerate() {
                    let part = i * DRAWS..i * DRAWS + values.len();
                    let sums = (before.map(|before| &before[part.clone()]), &last[part.clone()]);
                    self.grid.noised_sums(sums, draws.next_batch(), self.unit, values);
                }
            }
            StepNoise::Long(sampler) => {
                let mut quanta = vec![0; values.len()];
                self.grid.round_sums(before, last, &mut quanta);
                release.add_noise(sampler, (0, at as u32), &mut quanta, 1);
                Grid::values(&quanta, self.unit, values);
            }
        }
    }

    /// Leaves the sum of the clipped gradients of these records in `sum`, unless `empty`, and `part`.
    fn sum_up(&mut self, w: &[f32], drawn: &[usize]) -> Result<(), TrainError> {
        let mut groups = drawn.chunks(GROUP);
        let last = groups.next_back();
        self.empty = true;
        for group in groups {
            self.measure(w, group)?;
            self.add();
        }
        if let Some(group) = last {
            return self.measure(w, group);
        }
        self.part.fill(0.0);
        Ok(())
    }

    /// Overwrites `part` by the clipped gradients of these records. A record without a finite gradient counts
    /// as zero: it must not touch what others add.
    fn measure(&mut self, w: &[f32], group: &[usize]) -> Result<(), TrainError> {
        let batch = self.examples.batch(group, None);
        let clipped = self.model.clipped_gradient(w, &batch, self.clip, &mut self.part).map_err(failed)?;
        // A gradient whose squares have a finite sum is finite, and so is the sum of 64 that were clipped.
        if clipped.norms.iter().all(|norm| norm.is_finite()) {
            return Ok(());
        }
        for one in group.chunks(1).filter(|_| group.len() > 1) {
            self.measure(w, one)?;
            self.add();
        }
        self.part.fill(0.0);
        Ok(())
    }

    fn add(&mut self) {
        let (sum, part) = (&mut self.sum, &self.part);
        if std::mem::take(&mut self.empty) {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum = f64::from(*x));
        } else {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(*x));
        }
    }
}
