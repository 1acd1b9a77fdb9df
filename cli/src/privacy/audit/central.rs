//! What the coordinator does to a sum: noise on each round, or correlated over the rounds.

use super::{Args, CANARY, LENGTH, Mutation, Target};
use crate::exit::Failure;
use privacy::{
    Adjacency, ClipNorm, Event, Grid, Ledger, Mechanism, Sampling, Unit,
    correlated::CorrelatedNoise,
    sampler::{Kind, Sampler},
    strategy::{Factor, Participation, Strategy},
};
use rand_chacha::rand_core::Rng;
use std::num::NonZeroU64;

/// Contributions on the grid, in quanta: of everyone but the canary, and of the canary.
struct Sums {
    grid: Grid,
    bystanders: Vec<i64>,
    canary: Vec<i64>,
}

impl Sums {
    fn new(args: &Args) -> Result<Self, Failure> {
        let norm = ClipNorm::new(1.0).map_err(Failure::internal)?;
        let grid = Grid::new(norm, length()).map_err(Failure::internal)?;
        let contribution = |mut update: [f32; LENGTH], clips: bool| {
            if clips {
                grid.clip(&mut [&mut update]).map_err(Failure::internal)?;
            }
            grid.round_sum(&update).map_err(Failure::internal)
        };
        let bystanders = contribution([0.0, 0.5, 0.2, -0.1], true)?;
        let canary = contribution([CANARY, 0.0, 0.0, 0.0], args.mutation != Mutation::NoClip)?;
        Ok(Self { grid, bystanders, canary })
    }

    fn add_canary(&self, sum: &mut [i64]) {
        sum.iter_mut().zip(&self.canary).for_each(|(sum, quanta)| *sum += quanta);
    }
}

fn length() -> NonZeroU64 {
    NonZeroU64::new(LENGTH as u64).unwrap_or(NonZeroU64::MIN)
}

fn count(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN)
}

/// The noise that is drawn, with the bound that is claimed: what is not clipped is in the sums.
fn noise(args: &Args) -> Result<privacy::NoiseMultiplier, Failure> {
    let half = if args.mutation == Mutation::HalfNoise { 0.5 } else { 1.0 };
    privacy::NoiseMultiplier::new(half * args.noise_multiplier.get()).map_err(Failure::usage)
}

/// Independent noise on each round.
pub(super) struct Rounds {
    args: Args,
    sums: Sums,
    sampler: Sampler,
}

impl Rounds {
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let sums = Sums::new(args)?;
        let variance = sums.grid.variance(noise(args)?).map_err(Failure::usage)?;
        let sampler = Sampler::new(Kind::Rounded, variance).map_err(Failure::usage)?;
        Ok(Self { args: args.clone(), sums, sampler })
    }
}

impl Target for Rounds {
    fn ledger(&self) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(Unit::Client, Adjacency::AddRemove);
        let sampling = if self.args.sampling_rate.get() < 1.0 {
            Sampling::Poisson { rate: self.args.sampling_rate }
        } else {
            Sampling::Everyone
        };
        let mechanism = Mechanism::Gaussian { noise_multiplier: self.args.noise_multiplier };
        let event = Event { mechanism, sampling, count: count(u64::from(self.args.rounds)) };
        ledger.record(event).map_err(Failure::usage)?;
        Ok(ledger)
    }

    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure> {
        let (q, z) = (self.args.sampling_rate.get(), self.args.noise_multiplier.get());
        let unit = self.sums.grid.quantum() / self.sums.grid.norm();
        let key = self.args.key(number);
        let mut score = 0.0;
        for round in 0..u64::from(self.args.rounds) {
            let release = key.release(round);
            let mut sum = self.sums.bystanders.clone();
            let coin = release.stream(1, 0).next_u64() as f64 / 2.0_f64.powi(64);
            if canary && coin < q {
                self.sums.add_canary(&mut sum);
            }
            release.add_noise(&self.sampler, (0, 0), &mut sum, 1);
            let exponent = (sum[0] as f64 * unit - 0.5) / (z * z);
            score += if exponent > 500.0 { exponent + q.ln() } else { (q * exponent.exp_m1()).ln_1p() };
        }
        Ok(score)
    }
}

/// Noise that is correlated by the square root of the prefix sums. The canary takes part in the first round
/// and in the one half a run later.
pub(super) struct Correlated {
    args: Args,
    sums: Sums,
    noise: CorrelatedNoise,
    strategy: Strategy,
    participation: Participation,
    /// The coefficients of the factor.
    factor: Vec<f64>,
    /// What the canary adds to the factor's product.
    pattern: Vec<f64>,
}

impl Correlated {
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let rounds = u64::from(args.rounds);
        let participation = Participation {
            rounds: count(rounds),
            most: count(rounds.min(2)),
            separation: count(rounds.div_ceil(2)),
        };
        let strategy = Strategy::Toeplitz { factor: Factor::SquareRoot, participation };
        let sums = Sums::new(args)?;
        let made = CorrelatedNoise::new(&strategy, noise(args)?, sums.grid, length());
        let factor = Factor::SquareRoot.coefficients(rounds as usize);
        let takes_part = |round: usize| participating(participation, round);
        let at = |round: usize| (0..=round).filter(|t| takes_part(*t)).map(|t| factor[round - t]).sum();
        let pattern = (0..rounds as usize).map(at).collect();
        let noise = made.map_err(Failure::usage)?;
        Ok(Self { args: args.clone(), sums, noise, strategy, participation, factor, pattern })
    }
}

fn participating(participation: Participation, round: usize) -> bool {
    let step = participation.separation.get() as usize;
    round.is_multiple_of(step) && ((round / step) as u64) < participation.most.get()
}

impl Target for Correlated {
    fn ledger(&self) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(Unit::Client, Adjacency::ZeroOut);
        let (noise_multiplier, strategy) = (self.args.noise_multiplier, self.strategy.clone());
        let mechanism = Mechanism::Correlated { noise_multiplier, strategy };
        let event = Event { mechanism, sampling: Sampling::Everyone, count: NonZeroU64::MIN };
        ledger.record(event).map_err(Failure::usage)?;
        Ok(ledger)
    }

    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure> {
        let unit = self.sums.grid.quantum() / self.sums.grid.norm();
        let (key, mut state) = (self.args.key(number), self.noise.start(LENGTH));
        let (mut seen, mut score) = (Vec::new(), 0.0);
        for (round, weight) in self.pattern.iter().enumerate() {
            let mut sum = self.sums.bystanders.clone();
            if canary && participating(self.participation, round) {
                self.sums.add_canary(&mut sum);
            }
            self.noise.advance(&key, (0, 0), &mut state, &mut sum).map_err(Failure::internal)?;
            seen.push(sum[0] as f64 * unit);
            // The factor makes independent noise of it again.
            let whitened: f64 = seen.iter().rev().zip(&self.factor).map(|(x, c)| c * x).sum();
            score += weight * whitened;
        }
        Ok(score)
    }
}
