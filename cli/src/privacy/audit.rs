//! `starling privacy audit`: tells two neighbouring data sets apart by the releases of the real mechanism,
//! clip, integer sum and exact noise, and says which ε that proves.

use super::setting::{bounded, delta, show};
use crate::{
    exit::{Code, Failure},
    output,
};
use clap::ValueEnum;
use indicatif::ProgressBar;
use privacy::{
    Adjacency, ClipNorm, Event, Grid, Ledger, Mechanism, NoiseMultiplier, Probability, Sampling, Unit,
    accountants::{gaussian, report},
    audit::{Distinguished, distinguish, refutes},
    sampler::{Key, Kind, Sampler},
};
use rand_chacha::rand_core::Rng;
use serde_json::json;
use std::num::NonZeroU64;

/// Elements of a contribution; the canary has one of them, the others are bystanders.
const LENGTH: usize = 4;
/// Norm of the canary before it is clipped, over the bound.
const CANARY: f32 = 3.0;

/// Audits the central Gaussian mechanism of rounds: a lower bound on its ε from what an attacker tells
/// apart, against the ε that is claimed.
///
/// Each run is simulated with and without a canary; the attacker adds up the log-likelihood ratios of its
/// rounds. The bound holds with the --confidence; one above the claim proves the claim false, and the
/// command fails. One below proves nothing.
///
/// JSON: one object with noise_multiplier, sampling_rate, rounds, delta, trials, confidence, mutation,
/// claimed_epsilon, epsilon_at_least, claimed_mu and mu_at_least (null with sampling), violated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Standard deviation of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    /// Probability of each unit to take part in a round
    #[arg(long, value_name = "Q", default_value = "1", value_parser = bounded::<Probability>)]
    sampling_rate: Probability,
    /// Rounds of a run
    #[arg(long, value_name = "T", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// δ of the claim
    #[arg(long, default_value = "1e-5", value_parser = delta)]
    delta: f64,
    /// An ε that someone claims, instead of the accountants'
    #[arg(long, value_name = "EPSILON")]
    claimed: Option<f64>,
    /// Runs with and runs without the canary
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(20..=10_000_000))]
    trials: u32,
    /// Probability that the bound holds
    #[arg(long, value_name = "P", default_value = "0.99", value_parser = confidence)]
    confidence: Probability,
    /// Breaks the mechanism on purpose, to see the audit catch it
    #[arg(long, value_enum, default_value = "none")]
    mutation: Mutation,
    /// Seed of the simulation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mutation {
    /// The mechanism as it is
    None,
    /// Noise of half the standard deviation
    HalfNoise,
    /// The canary is not clipped
    NoClip,
}

fn confidence(text: &str) -> Result<Probability, String> {
    let confidence: Probability = bounded(text)?;
    if confidence.get() < 1.0 {
        Ok(confidence)
    } else {
        Err("expected a number above 0 and below 1".to_owned())
    }
}

/// Simulates, judges and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let (claimed, mu) = claim(args)?;
    let mechanism = Mechanic::new(args)?;
    // Draws itself on a terminal only.
    let bar = ProgressBar::new(2 * u64::from(args.trials));
    let scores = |canary: bool| mechanism.scores(args, canary, &bar);
    let (with, without) = (scores(true), scores(false));
    bar.finish_and_clear();
    let found = distinguish(&with, &without, args.delta, args.confidence).map_err(Failure::usage)?;
    let violated = found.epsilon > claimed || mu.is_some_and(|mu| refutes(found, mu));
    print(args, (claimed, mu.map(privacy::Mu::get)), found, violated)?;
    if violated {
        let text = "the claim is false: the mechanism leaks more than its epsilon allows";
        return Err(Failure::new(Code::Failed, text));
    }
    Ok(())
}

/// The ε that is claimed, and μ where the mechanism has one and no other claim was made.
fn claim(args: &Args) -> Result<(f64, Option<privacy::Mu>), Failure> {
    let mut ledger = Ledger::new(Unit::Client, Adjacency::AddRemove);
    let sampling = if args.sampling_rate.get() < 1.0 {
        Sampling::Poisson { rate: args.sampling_rate }
    } else {
        Sampling::Everyone
    };
    let count = NonZeroU64::new(u64::from(args.rounds)).unwrap_or(NonZeroU64::MIN);
    let mechanism = Mechanism::Gaussian { noise_multiplier: args.noise_multiplier };
    ledger.record(Event { mechanism, sampling, count }).map_err(Failure::usage)?;
    match args.claimed {
        Some(claimed) if claimed.is_finite() && claimed >= 0.0 => Ok((claimed, None)),
        Some(claimed) => {
            Err(Failure::usage(format!("`--claimed` is {claimed}, expected a finite number from 0")))
        }
        None => Ok((report::epsilon(&ledger, args.delta, 1).epsilon, gaussian::mu(&ledger, 1))),
    }
}

/// The mechanism of a round, as the coordinator applies it.
struct Mechanic {
    grid: Grid,
    sampler: Sampler,
    /// Of everyone but the canary.
    bystanders: Vec<i64>,
    canary: Vec<i64>,
    key: Key,
}

impl Mechanic {
    fn new(args: &Args) -> Result<Self, Failure> {
        let norm = ClipNorm::new(1.0).map_err(Failure::internal)?;
        let length = NonZeroU64::new(LENGTH as u64).unwrap_or(NonZeroU64::MIN);
        let grid = Grid::new(norm, length).map_err(Failure::internal)?;
        let claimed = args.noise_multiplier.get();
        let actual = if args.mutation == Mutation::HalfNoise { claimed / 2.0 } else { claimed };
        let actual = NoiseMultiplier::new(actual).map_err(Failure::usage)?;
        let sampler = Sampler::new(Kind::Rounded, grid.variance(actual).map_err(Failure::usage)?);
        let contribution = |mut update: [f32; LENGTH], clips: bool| {
            if clips {
                grid.clip(&mut [&mut update]).map_err(Failure::internal)?;
            }
            grid.round_sum(&update).map_err(Failure::internal)
        };
        let bystanders = contribution([0.0, 0.5, 0.2, -0.1], true)?;
        let canary = contribution([CANARY, 0.0, 0.0, 0.0], args.mutation != Mutation::NoClip)?;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&args.seed.to_le_bytes());
        Ok(Self { grid, sampler: sampler.map_err(Failure::usage)?, bystanders, canary, key: Key::new(seed) })
    }

    /// The attacker's score of each run: the log-likelihood ratio of all its releases.
    fn scores(&self, args: &Args, canary: bool, bar: &ProgressBar) -> Vec<f64> {
        let (q, z) = (args.sampling_rate.get(), args.noise_multiplier.get());
        let unit = self.grid.quantum() / self.grid.norm();
        let mut scores = Vec::with_capacity(args.trials as usize);
        for trial in 0..u64::from(args.trials) {
            let mut score = 0.0;
            for round in 0..u64::from(args.rounds) {
                let number = (trial * u64::from(args.rounds) + round) << 1 | u64::from(canary);
                let release = self.key.release(number);
                let mut sum = self.bystanders.clone();
                let coin = release.stream(1, 0).next_u64() as f64 / 2.0_f64.powi(64);
                if canary && coin < q {
                    sum.iter_mut().zip(&self.canary).for_each(|(sum, quanta)| *sum += quanta);
                }
                release.add_noise(&self.sampler, (0, 0), &mut sum, 1);
                let x = sum[0] as f64 * unit;
                let exponent = (x - 0.5) / (z * z);
                score += if exponent > 500.0 { exponent + q.ln() } else { (q * exponent.exp_m1()).ln_1p() };
            }
            bar.inc(1);
            // A sure sign is as good as a very likely one.
            scores.push(score.clamp(-1e300, 1e300));
        }
        scores
    }
}

fn print(
    args: &Args,
    (claimed, mu): (f64, Option<f64>),
    found: Distinguished,
    violated: bool,
) -> Result<(), Failure> {
    let mutation = args.mutation.to_possible_value().map(|value| value.get_name().to_owned());
    if args.json {
        return output::line(json!({
            "noise_multiplier": args.noise_multiplier, "sampling_rate": args.sampling_rate,
            "rounds": args.rounds, "delta": args.delta, "trials": args.trials,
            "confidence": args.confidence, "mutation": mutation, "claimed_epsilon": claimed,
            "epsilon_at_least": found.epsilon, "claimed_mu": mu,
            "mu_at_least": mu.map(|_| found.mu), "violated": violated,
        }));
    }
    output::line(format!(
        "epsilon is at least {} at delta {:e}, with confidence {} from {} runs of either kind; claimed: {}",
        show(found.epsilon),
        args.delta,
        args.confidence.get(),
        args.trials,
        show(claimed),
    ))?;
    match mu {
        Some(mu) => output::line(format!("mu is at least {:.4}; claimed: {mu:.4}", found.mu)),
        None => Ok(()),
    }
}
