//! `starling privacy audit`: tells two neighbouring data sets apart by the releases of the real mechanism,
//! clip, sum and exact noise, and says which ε that proves. One file for what the coordinator does to a sum,
//! one for what workers do, one for a whole training run.

mod central;
mod one_run;
mod workers;

use super::setting::{bounded, delta, show};
use crate::{
    exit::{Code, Failure},
    output,
};
use clap::ValueEnum;
use indicatif::ProgressBar;
use privacy::{
    Ledger, NoiseMultiplier, Probability,
    accountants::{gaussian, report},
    audit::{Guesses, distinguish},
    sampler::Key,
};
use serde_json::{Value, json};

/// Elements of a contribution; the canary has one of them, the others are bystanders.
const LENGTH: usize = 4;
/// Norm of the canary before it is clipped, over the bound.
const CANARY: f32 = 3.0;

/// Audits a mechanism: a lower bound on its ε from what an attacker tells apart, against the ε that is
/// claimed.
///
/// Each run is simulated with and without a canary (`local`: with it or its opposite), by the code that real
/// runs use; the attacker adds up the log-likelihood ratios of its rounds. The bound holds with the
/// --confidence; one above the claim proves the claim false, and the command fails. One below proves nothing.
///
/// With --one-run a whole training run of a simulated federation is attacked, once: canaries (clients, or records
/// with `dp-sgd`) are each put in or left out by a coin, and guessed from the model that comes out of it. The
/// claim is then what the run's ledger says.
///
/// JSON: one object with mechanism, noise_multiplier, sampling_rate, rounds, delta, trials, confidence, mutation,
/// claimed_epsilon, epsilon_at_least, claimed_mu and mu_at_least (null with sampling), violated; with --one-run
/// canaries, included, guesses and right instead of trials.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Which one
    #[arg(long, value_enum, default_value = "central")]
    mechanism: Kind,
    /// Standard deviation of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    /// Probability of each unit to take part in a round (`central`), of each record in a step (`dp-sgd`)
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
    /// Attacks one training run with many canaries instead of many runs with one
    #[arg(long, conflicts_with = "trials")]
    one_run: bool,
    /// Canaries of --one-run
    #[arg(long, value_name = "N", default_value_t = 2_000, requires = "one_run",
          value_parser = clap::value_parser!(u32).range(10..=100_000))]
    canaries: u32,
    /// How many of them are guessed, those of which the attacker is surest [default: a fifth]
    #[arg(long, value_name = "N", requires = "one_run")]
    guesses: Option<u32>,
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
enum Kind {
    /// Noise of the coordinator on each round's sum (DP-FedAvg)
    Central,
    /// Noise of the coordinator that is correlated over the rounds (DP-FTRL, square root)
    DpFtrl,
    /// Noise of a worker on each step (DP-SGD)
    DpSgd,
    /// Noise of a worker on its upload
    Local,
    /// Shares of discrete Gaussian noise, added up
    DiscreteGaussianShares,
    /// Shares of Skellam noise, added up
    SkellamShares,
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

/// A mechanism under attack.
trait Target: Send {
    /// What its runs claim to cost.
    fn ledger(&self) -> Result<Ledger, Failure>;

    /// The attacker's score of one run, whose number no other run has.
    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure>;
}

impl Args {
    /// Bound on a contribution and noise multiplier as they are, where 1 and the multiplier are claimed.
    fn actual(&self) -> Result<(f64, NoiseMultiplier), Failure> {
        let claimed = self.noise_multiplier.get();
        let (norm, noise) = match self.mutation {
            Mutation::None => (1.0, claimed),
            Mutation::HalfNoise => (1.0, 0.5 * claimed),
            // Longer than the canary, with the noise that it had.
            Mutation::NoClip => (f64::from(CANARY), claimed / f64::from(CANARY)),
        };
        Ok((norm, NoiseMultiplier::new(noise).map_err(Failure::usage)?))
    }

    fn target(&self) -> Result<Box<dyn Target>, Failure> {
        let sampled = self.sampling_rate.get() < 1.0;
        if sampled && !matches!(self.mechanism, Kind::Central | Kind::DpSgd) {
            return Err(Failure::usage("`--sampling-rate`: only `central` and `dp-sgd` draw who takes part"));
        }
        Ok(match self.mechanism {
            Kind::Central => Box::new(central::Rounds::new(self)?),
            Kind::DpFtrl => Box::new(central::Correlated::new(self)?),
            Kind::DpSgd => Box::new(workers::Steps::new(self)?),
            Kind::Local => Box::new(workers::Uploads::new(self)?),
            Kind::DiscreteGaussianShares => {
                Box::new(workers::Shared::new(self, "distributed_discrete_gaussian")?)
            }
            Kind::SkellamShares => Box::new(workers::Shared::new(self, "skellam")?),
        })
    }

    /// Canaries that are guessed: an even number, chosen before anything is seen.
    fn guesses(&self) -> u32 {
        self.guesses.unwrap_or(self.canaries / 5) & !1
    }

    /// A key of one release alone.
    fn key(&self, number: u64) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        Key::new(bytes)
    }
}

/// Simulates, judges and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    if args.one_run {
        return guessed(args);
    }
    let mut target = args.target()?;
    let (claimed, mu) = claim(args, &target.ledger()?)?;
    // Draws itself on a terminal only.
    let bar = ProgressBar::new(2 * u64::from(args.trials));
    let mut scores = |canary: bool| -> Result<Vec<f64>, Failure> {
        let score = |trial: u64| {
            bar.inc(1);
            // A sure sign is as good as a very likely one.
            Ok(target.score(canary, trial << 1 | u64::from(canary))?.clamp(-1e300, 1e300))
        };
        (0..u64::from(args.trials)).map(score).collect()
    };
    // On one thread of its own: to hand a few numbers to another costs more than to work on them.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(Failure::internal)?;
    let (with, without) = alone.install(|| Ok::<_, Failure>((scores(true)?, scores(false)?)))?;
    bar.finish_and_clear();
    let found = distinguish(&with, &without, args.delta, args.confidence).map_err(Failure::usage)?;
    let from = format!("{} runs of either kind", args.trials);
    print(args, &from, (claimed, mu), (found.epsilon, found.mu), json!({ "trials": args.trials }))
}

/// Attacks one run, judges and prints.
fn guessed(args: &Args) -> Result<(), Failure> {
    let found = one_run::attack(args)?;
    let (claimed, mu) = claim(args, &found.ledger)?;
    // Each of two bounds may fail half as often.
    let bounds = if mu.is_some() { 2.0 } else { 1.0 };
    let sure = Probability::new(1.0 - (1.0 - args.confidence.get()) / bounds).map_err(Failure::internal)?;
    let Guesses { canaries, made, right } = found.guesses;
    let epsilon = found.guesses.epsilon(args.delta, sure).map_err(Failure::usage)?;
    let least = mu.map_or(Ok(0.0), |_| found.guesses.mu(sure)).map_err(Failure::usage)?;
    let from = format!("{right} right of {made} guesses about {canaries} canaries");
    let told = json!({ "canaries": canaries, "included": found.included, "guesses": made, "right": right });
    print(args, &from, (claimed, mu), (epsilon, least), told)
}

/// The ε that is claimed, and μ where the mechanism has one and no other claim was made.
fn claim(args: &Args, ledger: &Ledger) -> Result<(f64, Option<privacy::Mu>), Failure> {
    match args.claimed {
        Some(claimed) if claimed.is_finite() && claimed >= 0.0 => Ok((claimed, None)),
        Some(claimed) => {
            Err(Failure::usage(format!("`--claimed` is {claimed}, expected a finite number from 0")))
        }
        None => Ok((report::epsilon(ledger, args.delta, 1).epsilon, gaussian::mu(ledger, 1))),
    }
}

/// Prints, and fails if the claim does not hold.
fn print(
    args: &Args,
    from: &str,
    (claimed, mu): (f64, Option<privacy::Mu>),
    (epsilon, least): (f64, f64),
    mut told: Value,
) -> Result<(), Failure> {
    let violated = epsilon > claimed || mu.is_some_and(|mu| least > mu.get());
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
    if args.json {
        let all = json!({
            "mechanism": name(args.mechanism.to_possible_value()), "noise_multiplier": args.noise_multiplier,
            "sampling_rate": args.sampling_rate, "rounds": args.rounds, "delta": args.delta,
            "confidence": args.confidence, "mutation": name(args.mutation.to_possible_value()),
            "claimed_epsilon": claimed, "epsilon_at_least": epsilon, "claimed_mu": mu.map(privacy::Mu::get),
            "mu_at_least": mu.map(|_| least), "violated": violated,
        });
        for (key, value) in all.as_object().into_iter().flatten() {
            told[key] = value.clone();
        }
        output::line(told)?;
    } else {
        output::line(format!(
            "epsilon is at least {} at delta {:e}, with confidence {} from {from}; claimed: {}",
            show(epsilon),
            args.delta,
            args.confidence.get(),
            show(claimed),
        ))?;
        if let Some(mu) = mu {
            output::line(format!("mu is at least {least:.4}; claimed: {:.4}", mu.get()))?;
        }
    }
    if violated {
        let text = "the claim is false: the mechanism leaks more than its epsilon allows";
        return Err(Failure::new(Code::Failed, text));
    }
    Ok(())
}
