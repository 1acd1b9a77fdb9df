//! What workers do, by the trainer's own code: noise on steps, on uploads, and in shares of them.

use super::{Args, CANARY, LENGTH, Target};
use crate::exit::Failure;
use algorithms::Vectors;
use coordinator::private::Guard;
use privacy::{
    Adjacency, Event, Ledger, Unit,
    shares::{Noise, Shares},
};
use proto::spec::RunSpec;
use std::{num::NonZeroU64, sync::Arc};
use worker::{
    data::{Dataset, Source, Split},
    engine::Model,
    trainer::{NoisySteps, Private, Promise},
};

/// A run with this section; `norm` and `noise` are those that are applied or those that are claimed.
fn spec(args: &Args, rest: &str, (norm, noise): (f64, f64)) -> Result<RunSpec, Failure> {
    let text = format!(
        "name='audit'\nrounds={}\n{rest}\nclip_norm={norm:e}\nnoise_multiplier={noise:e}\ndelta={:e}\n",
        args.rounds, args.delta
    );
    RunSpec::from_toml(&text).map_err(Failure::usage)
}

fn promise(spec: &RunSpec, length: usize) -> Result<Arc<Promise>, Failure> {
    let algorithm = spec.algorithm.make().map_err(Failure::internal)?;
    let promise = Promise::of(spec, algorithm.as_ref(), length).map_err(Failure::usage)?;
    promise.map(Arc::new).ok_or_else(|| Failure::internal("the run promises nothing"))
}

/// A ledger of as many of these as there are rounds.
fn paid(args: &Args, (unit, adjacency): (Unit, Adjacency), event: &Event) -> Result<Ledger, Failure> {
    let rounds = NonZeroU64::new(u64::from(args.rounds)).unwrap_or(NonZeroU64::MIN);
    let mut ledger = Ledger::new(unit, adjacency);
    let event = Event { count: event.count.saturating_mul(rounds), ..event.clone() };
    ledger.record(event).map_err(Failure::usage)?;
    Ok(ledger)
}

/// Local privacy: the canary uploads one thing or its opposite.
pub(super) struct Uploads {
    args: Args,
    claimed: Arc<Promise>,
    actual: Arc<Promise>,
}

impl Uploads {
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let rest = format!(
            "model={{kind='flat',parameters={LENGTH}}}\ndata={{name='audit'}}\n[privacy]\nunit='client'\n\
             adjacency='replace_one'\nmechanism='local_gaussian'\nsampling={{kind='everyone'}}"
        );
        let (norm, noise) = args.actual()?;
        let claimed = spec(args, &rest, (1.0, args.noise_multiplier.get()))?;
        let actual = spec(args, &rest, (norm, noise.get()))?;
        Ok(Self {
            args: args.clone(),
            claimed: promise(&claimed, LENGTH)?,
            actual: promise(&actual, LENGTH)?,
        })
    }
}

impl Target for Uploads {
    fn ledger(&self) -> Result<Ledger, Failure> {
        paid(&self.args, (Unit::Client, Adjacency::ReplaceOne), self.claimed.cost())
    }

    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure> {
        let sign = if canary { 1.0 } else { -1.0 };
        let mut score = 0.0;
        for round in 0..u64::from(self.args.rounds) {
            let key = self.args.key(number * u64::from(self.args.rounds) + round);
            let private = Private::new(Arc::clone(&self.actual), key);
            let values = Arc::new(vec![sign * CANARY, 0.0, 0.0, 0.0]);
            let mut upload = Vectors::from([("delta".to_owned(), values)]);
            private.seal(&[]).close(&mut upload).map_err(Failure::internal)?;
            score += f64::from(upload["delta"][0]);
        }
        Ok(score)
    }
}

/// DP-SGD on two records, or without the first of them, at fixed weights.
pub(super) struct Steps {
    args: Args,
    claimed: Arc<Promise>,
    actual: Arc<Promise>,
    model: Model,
    weights: Vec<f32>,
    /// With the canary, and without.
    data: [Dataset; 2],
    /// Unit vector along the canary's gradient.
    direction: Vec<f32>,
    /// The norm that is claimed to bound a gradient.
    norm: f64,
    /// What the other record adds along it, in norms.
    other: f64,
}

impl Steps {
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let source = Source::Digits { train: 10, test: 10, seed: args.seed };
        let all = source.load(Split::Train, 80).map_err(Failure::internal)?;
        let model = Model::new(&proto::spec::ModelSpec::Linear {}, all.info()).map_err(Failure::internal)?;
        let (weights, mut gradient) = (model.initial(0), vec![0.0; model.parameters()]);
        let batch = |record: usize| all.batch(&[record], None);
        let whole =
            model.clipped_gradient(&weights, &batch(0), 1e9, &mut gradient).map_err(Failure::internal)?;
        // So that the canary is longer than the bound.
        let norm = whole.norms[0] / f64::from(CANARY);
        let direction: Vec<f32> = gradient.iter().map(|x| (f64::from(*x) / whole.norms[0]) as f32).collect();
        model.clipped_gradient(&weights, &batch(1), norm, &mut gradient).map_err(Failure::internal)?;
        let other = along(&direction, &gradient) / norm;
        let rate = args.sampling_rate.get();
        let sampling =
            if rate < 1.0 { format!("kind='poisson',rate={rate:e}") } else { "kind='everyone'".into() };
        let rest = format!(
            "model={{kind='linear'}}\ndata={{name='digits'}}\nlocal={{steps=1}}\n[privacy]\nunit='record'\n\
             adjacency='zero_out'\nmechanism='dp_sgd'\nsampling={{{sampling}}}"
        );
        let (longer, noise) = args.actual()?;
        let claimed = spec(args, &rest, (norm, args.noise_multiplier.get()))?;
        let actual = spec(args, &rest, (norm * longer, noise.get()))?;
        let (claimed, actual) = (promise(&claimed, weights.len())?, promise(&actual, weights.len())?);
        let data = [all.subset(&[0, 1]), all.subset(&[1])];
        Ok(Self { args: args.clone(), claimed, actual, model, weights, data, direction, norm, other })
    }

    /// ln of the density of what is seen if the canary is there, over that if not: who is drawn is not known.
    fn evidence(&self, x: f64) -> f64 {
        let (q, z) = (self.args.sampling_rate.get(), self.args.noise_multiplier.get());
        let at = |mean: f64| -0.5 * ((x - mean) / z).powi(2);
        let mixture = |shift: f64| {
            let (one, two) = (at(shift + self.other), at(shift));
            let most = one.max(two);
            most + (q * (one - most).exp() + (1.0 - q) * (two - most).exp()).ln()
        };
        let (there, away) = (mixture(1.0), mixture(0.0));
        let most = there.max(away);
        most + (q * (there - most).exp() + (1.0 - q) * (away - most).exp()).ln() - away
    }
}

fn along(direction: &[f32], gradient: &[f32]) -> f64 {
    direction.iter().zip(gradient).map(|(d, g)| f64::from(*d) * f64::from(*g)).sum()
}

impl Target for Steps {
    fn ledger(&self) -> Result<Ledger, Failure> {
        paid(&self.args, (Unit::Record, Adjacency::ZeroOut), self.claimed.cost())
    }

    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure> {
        let data = &self.data[usize::from(!canary)];
        let private = Private::new(Arc::clone(&self.actual), self.args.key(number));
        let mut steps = NoisySteps::new(&private, &self.model, data).map_err(Failure::internal)?;
        let expected = self.args.sampling_rate.get() * data.len() as f64;
        let mut gradient = vec![0.0; self.weights.len()];
        let mut score = 0.0;
        for _ in 0..self.args.rounds {
            steps.gradient(&self.weights, &mut gradient).map_err(Failure::internal)?;
            score += self.evidence(along(&self.direction, &gradient) * expected / self.norm);
        }
        Ok(score)
    }
}

/// Clients whose shares are added up.
const CLIENTS: usize = 4;

/// Shares of noise of four clients, one of which has the canary or nothing.
pub(super) struct Shared {
    args: Args,
    claimed: Guard,
    actual: Guard,
    spec: RunSpec,
    shares: Shares,
    noise: Noise,
}

impl Shared {
    pub(super) fn new(args: &Args, mechanism: &str) -> Result<Self, Failure> {
        let rest = format!(
            "model={{kind='flat',parameters={LENGTH}}}\ndata={{name='audit'}}\n\
             cohort={{population={CLIENTS},min_updates={CLIENTS}}}\n[privacy]\nunit='client'\n\
             adjacency='zero_out'\nmechanism='{mechanism}'\nleast_shares={CLIENTS}\nsampling={{kind='everyone'}}"
        );
        let (norm, noise) = args.actual()?;
        let guard = |spec: &RunSpec| {
            let algorithm = spec.algorithm.make().map_err(Failure::internal)?;
            let guard = Guard::of(spec, algorithm.as_ref(), LENGTH).map_err(Failure::usage)?;
            guard.ok_or_else(|| Failure::internal("the run promises nothing"))
        };
        let claimed = guard(&spec(args, &rest, (1.0, args.noise_multiplier.get()))?)?;
        let spec = spec(args, &rest, (norm, noise.get()))?;
        let actual = guard(&spec)?;
        let shares = actual.plan().shares.ok_or_else(|| Failure::internal("the run has no shares"))?;
        let noise = shares.noise().map_err(Failure::usage)?;
        Ok(Self { args: args.clone(), claimed, actual, spec, shares, noise })
    }
}

impl Target for Shared {
    fn ledger(&self) -> Result<Ledger, Failure> {
        let cost = self.claimed.cost(1).ok_or_else(|| Failure::internal("a round costs nothing"))?;
        paid(&self.args, (Unit::Client, Adjacency::ZeroOut), cost)
    }

    fn score(&mut self, canary: bool, number: u64) -> Result<f64, Failure> {
        let (standing, key) = (self.actual.start().map_err(Failure::internal)?, self.args.key(number));
        let mut score = 0.0;
        for round in 0..u64::from(self.args.rounds) {
            let rotation = self.spec.rotation(round);
            let mut sum = self.actual.sum(&standing).map_err(Failure::internal)?;
            for client in 0..CLIENTS {
                let values = match client {
                    0 if canary => [CANARY, 0.0, 0.0, 0.0],
                    0 => [0.0; LENGTH],
                    _ => [0.0, 0.5, 0.2, -0.1],
                };
                let release = key.release(round * CLIENTS as u64 + client as u64);
                let sent = self.shares.encode(&values, rotation, (&self.noise, &release));
                let added = sum.add(&sent.map_err(Failure::internal)?);
                added.map_err(|(_, why)| Failure::internal(why))?;
            }
            let means = self.actual.release_shares(&sum, 0.1, rotation).map_err(Failure::internal)?;
            score += f64::from(means["delta"][0]);
        }
        Ok(score)
    }
}
