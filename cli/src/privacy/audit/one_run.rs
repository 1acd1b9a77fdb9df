//! One training run, attacked once (Steinke, Nasr and Jagielski 2023): many canaries are each put in or left
//! out by the throw of a coin, the run goes its way, and the attacker guesses from the model that comes out of
//! it which were in.
//!
//! The run is a whole one: the simulator's machine, clients that train, the clipping, noise and ledger that
//! real runs use. A canary is a client with one record (or, under DP-SGD, a record) that is about a feature
//! which nobody else has, so that what it does to the model can be told from all else but the noise.

use super::{Args, CANARY, Kind};
use crate::exit::Failure;
use coordinator::private::Guard;
use privacy::{Event, Journal, Ledger, audit::Guesses, sampler::ReleaseKey};
use proto::spec::RunSpec;
use rand_chacha::rand_core::Rng;
use simulation::training::{Notice, Setup, Stop, run};
use std::{num::NonZeroU64, path::Path, time::Duration};
use worker::{
    data::Dataset,
    engine::{Model, cuda::Placement, load_safetensors},
};

/// Clients or records that are no canaries, and features that are theirs.
const HONEST: usize = 16;
/// Classes of the toy data.
const CLASSES: usize = 2;
/// The number of the key that throws the coins.
const COINS: u64 = 1 << 32;

/// What came of it.
pub(super) struct Found {
    pub(super) included: usize,
    pub(super) guesses: Guesses,
    /// What the run claims to cost.
    pub(super) ledger: Ledger,
}

/// Who is in, and with which label.
struct Canaries {
    included: Vec<bool>,
    labels: Vec<u32>,
    honest: Vec<u32>,
}

impl Canaries {
    fn throw(args: &Args, release: &ReleaseKey) -> Self {
        let (mut coins, mut labels) = (release.stream(0, 0), release.stream(1, 0));
        let count = args.canaries as usize;
        Self {
            included: (0..count).map(|_| coins.next_u64() & 1 == 1).collect(),
            labels: (0..count).map(|_| (labels.next_u64() & 1) as u32).collect(),
            honest: (0..HONEST).map(|_| (labels.next_u64() & 1) as u32).collect(),
        }
    }

    fn dimension(&self) -> usize {
        HONEST + self.included.len()
    }

    /// One record of each who is there, in an order that tells nothing: that of their numbers.
    fn data(&self) -> Dataset {
        // With the other classes' share of one half in a logistic regression's gradient, and its bias: as long
        // as a canary should be.
        let canary = (2.0 * CANARY * CANARY - 1.0).sqrt();
        let there = self.included.iter().enumerate().filter(|(_, included)| **included);
        let canaries = there.map(|(at, _)| (HONEST + at, canary, self.labels[at]));
        let honest = self.honest.iter().enumerate().map(|(at, label)| (at, 1.0, *label));
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for (feature, value, label) in honest.chain(canaries) {
            let mut record = vec![0.0; self.dimension()];
            record[feature] = value;
            values.append(&mut record);
            labels.push(label);
        }
        let owners = (0..labels.len() as u32).collect();
        Dataset::of_features((self.dimension(), CLASSES), values, labels, owners)
    }

    /// How far the model has gone the way of each canary: it lowers the weights of its feature for the wrong
    /// class and raises those for its own.
    fn scores(&self, weights: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let score = |(at, label): (usize, &u32)| {
            let (own, other) = (*label as usize, 1 - *label as usize);
            weights(own, HONEST + at) - weights(other, HONEST + at)
        };
        self.labels.iter().enumerate().map(score).collect()
    }
}

/// Trains, attacks, and reads the ledger.
pub(super) fn attack(args: &Args) -> Result<Found, Failure> {
    let canaries = Canaries::throw(args, &args.key(COINS).release(0));
    let train = canaries.data();
    let (norm, noise) = args.actual()?;
    let claimed = spec(args, (1.0, args.noise_multiplier.get()), train.len())?;
    let actual = spec(args, (norm, noise.get()), train.len())?;
    let folder = tempfile::tempdir().map_err(Failure::internal)?;
    let model = Model::new(&actual.model, train.info()).map_err(Failure::internal)?;
    let first = model.initial(actual.seed);
    let last = train_on(actual, train, folder.path(), args)?;
    let last = load_safetensors(&model, &last).map_err(Failure::internal)?;
    let place = offset(&model, "fc.weight")?;
    let dimension = canaries.dimension();
    let scores = canaries.scores(|class, feature| {
        let at = place + class * dimension + feature;
        f64::from(last[at]) - f64::from(first[at])
    });
    let sure = args.guesses() as usize / 2;
    let guesses = Guesses::by_score(&scores, &canaries.included, sure).map_err(Failure::usage)?;
    let ledger = if args.mutation == super::Mutation::None {
        paid(folder.path())?
    } else {
        // A program that is broken so would write down what it was asked for.
        asked(args, &claimed, model.parameters())?
    };
    let included = canaries.included.iter().filter(|included| **included).count();
    Ok(Found { included, guesses, ledger })
}

/// The run, with this norm and noise.
fn spec(args: &Args, (norm, noise): (f64, f64), units: usize) -> Result<RunSpec, Failure> {
    let rounds = args.rounds;
    let rate = args.sampling_rate.get();
    let drawn = if rate < 1.0 { format!("kind='poisson',rate={rate:e}") } else { "kind='everyone'".into() };
    let all = format!("[cohort]\npopulation={units}\nmin_updates={units}\n");
    let some = format!("[cohort]\npopulation={units}\n");
    let client = "unit='client'\nadjacency='zero_out'\n";
    let shares =
        |kind: &str| format!("{client}mechanism='{kind}'\nleast_shares={units}\nsampling={{{drawn}}}\n");
    let (division, cohort, section) = match args.mechanism {
        Kind::Central => {
            ("natural", some, format!("{client}mechanism='central_gaussian'\nsampling={{{drawn}}}\n"))
        }
        Kind::DpFtrl => (
            "natural",
            all,
            format!(
                "{client}mechanism='dp_ftrl'\nparticipation={{most={rounds},separation=1}}\n\
                 strategy={{kind='toeplitz',factor={{kind='square_root'}}}}\n"
            ),
        ),
        Kind::DiscreteGaussianShares => ("natural", all, shares("distributed_discrete_gaussian")),
        Kind::SkellamShares => ("natural", all, shares("skellam")),
        Kind::DpSgd => (
            "iid",
            String::new(),
            format!("unit='record'\nadjacency='zero_out'\nmechanism='dp_sgd'\nsampling={{{drawn}}}\n"),
        ),
        Kind::Local => {
            return Err(Failure::usage(
                "`--one-run` attacks the model, which the noise of all uploads hides; `local` promises more, for \
                 each upload: audit it without `--one-run`",
            ));
        }
    };
    let text = format!(
        "name='audit'\nrounds={rounds}\nseed={}\nmodel={{kind='linear'}}\n\
         data={{name='audit',partition={{kind='{division}'}}}}\nlocal={{steps=1,lr=1.0}}\n\
         evaluation={{central=false}}\n{cohort}[privacy]\n{section}clip_norm={norm:e}\n\
         noise_multiplier={noise:e}\ndelta={:e}\n",
        args.seed, args.delta
    );
    RunSpec::from_toml(&text).map_err(Failure::usage)
}

/// Runs it to its end; the model that comes out.
fn train_on(spec: RunSpec, train: Dataset, folder: &Path, args: &Args) -> Result<Vec<u8>, Failure> {
    let clients = if args.mechanism == Kind::DpSgd { 1 } else { train.len() };
    let setup = Setup {
        spec,
        clients,
        train,
        test: None,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        folder: folder.to_owned(),
        placement: Placement::default(),
        checkpoint: Duration::from_hours(1),
        memory: 1 << 30,
        // Of the seed, as all of an audit.
        reproducible_noise: true,
        stop: Stop::default(),
    };
    let mut watch = |_: Notice<'_>| {};
    Ok(run(&setup, &mut watch).map_err(Failure::internal)?.model)
}

/// Where a tensor begins in the flat vector.
fn offset(model: &Model, name: &str) -> Result<usize, Failure> {
    let mut at = 0;
    for (tensor, length) in model.named_lengths() {
        if tensor == name {
            return Ok(at);
        }
        at += length;
    }
    Err(Failure::internal(format!("the model has no tensor `{name}`")))
}

/// The ledger that the run has written.
fn paid(folder: &Path) -> Result<Ledger, Failure> {
    let text = std::fs::read_to_string(folder.join("ledger.jsonl")).map_err(Failure::internal)?;
    Ok(Journal::parse(&text).map_err(Failure::internal)?.ledger().clone())
}

/// What a run pays, by its run file.
fn asked(args: &Args, spec: &RunSpec, length: usize) -> Result<Ledger, Failure> {
    let algorithm = spec.algorithm.make().map_err(Failure::internal)?;
    let guard = Guard::of(spec, algorithm.as_ref(), length).map_err(Failure::usage)?;
    let guard = guard.ok_or_else(|| Failure::internal("the run promises nothing"))?;
    let mut ledger = Ledger::new(guard.spec().unit(), guard.spec().adjacency());
    let rounds = NonZeroU64::new(u64::from(args.rounds)).unwrap_or(NonZeroU64::MIN);
    let each =
        guard.cost(1).map(|event| Event { count: event.count.saturating_mul(rounds), ..event.clone() });
    for event in guard.cost(0).cloned().into_iter().chain(each) {
        ledger.record(event).map_err(Failure::usage)?;
    }
    Ok(ledger)
}
