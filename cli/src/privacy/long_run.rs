//! `starling privacy long-run`: bounds for Noisy-FedAvg and Noisy-FedProx, each with what it assumes and
//! against whom it holds.

use super::setting::{bounded, delta, show};
use crate::{exit::Failure, output};
use clap::ValueEnum;
use privacy::{
    Mu, Positive,
    long_run::{Assumption, Local, Round, Run, Schedule, Threat, published, strongly_convex},
};
use serde_json::{Value, json};

/// Whether the published formula is a bound.
const FALSE: &str = "false as stated: two rounds with linear losses already leak more; it never gates a run";

/// Bounds for long runs in which every client adds Gaussian noise to its upload and one record of one
/// client differs.
///
/// Composition always holds. A bound for the last model alone holds only where nobody sees an earlier
/// one: it is refused under any other --threat.
///
/// JSON: one object with threat, delta, bounds (a list of name, assumes, mu, epsilon) and, with
/// --published, published (name, mu, epsilon, verdict).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// V: largest norm of a clipped gradient
    #[arg(long, value_name = "V", value_parser = bounded::<Positive>)]
    clip: Positive,
    /// m: clients, all of which take part in every round
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// K: local steps of a round
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// μ: base step size
    #[arg(long, value_name = "ETA", value_parser = bounded::<Positive>)]
    learning_rate: Positive,
    /// L: every local loss has an L-Lipschitz gradient
    #[arg(long, value_name = "L", value_parser = bounded::<Positive>)]
    smoothness: Positive,
    /// σ of each client's noise, in units of the model
    #[arg(long, value_name = "SIGMA", value_parser = bounded::<Positive>)]
    noise: Positive,
    /// Rounds of the run
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rounds: u32,
    /// δ: below 1 over the number of records
    #[arg(long, value_parser = delta)]
    delta: f64,
    /// Step sizes over the rounds and local steps
    #[arg(long, value_enum, default_value = "constant")]
    schedule: ScheduleName,
    /// α: proximal weight of FedProx, above the smoothness unless the losses are convex
    #[arg(long, value_name = "ALPHA", value_parser = bounded::<Positive>)]
    proximal: Option<Positive>,
    /// Who is to learn nothing
    #[arg(long, value_enum, default_value = "every-model")]
    threat: ThreatName,
    /// Assumes that the server projects the model after each round onto a set of this diameter
    #[arg(long, value_name = "D", value_parser = bounded::<Positive>, conflicts_with = "convexity")]
    diameter: Option<Positive>,
    /// Assumes that every local loss is strongly convex with this constant and that clipping never acts
    #[arg(long, value_name = "BETA", value_parser = bounded::<Positive>)]
    convexity: Option<Positive>,
    /// Also prints the formulas of arXiv 2408.15621, which are false as stated but for one
    #[arg(long)]
    published: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    /// The base everywhere
    Constant,
    /// base/(k + 1) at local step k, the same in every round
    Cyclic,
    /// base/(t + 1) in round t
    Stage,
    /// base/(tK + k + 1)
    Continuous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ThreatName {
    /// Whoever sees the averaged model of every round, as every client does
    EveryModel,
    /// Whoever sees every single upload, as a server without secure aggregation does
    EveryUpload,
    /// Whoever sees the last model only, published by a trusted aggregator
    LastModelOnly,
}

struct Bound {
    name: &'static str,
    assumes: String,
    mu: Mu,
}

impl Args {
    fn schedule(&self) -> Schedule {
        match self.schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Cyclic => Schedule::Cyclic,
            ScheduleName::Stage => Schedule::Stage,
            ScheduleName::Continuous => Schedule::Continuous,
        }
    }

    fn threat(&self) -> Threat {
        match self.threat {
            ThreatName::EveryModel => Threat::EveryModel,
            ThreatName::EveryUpload => Threat::EveryUpload,
            ThreatName::LastModelOnly => Threat::LastModelOnly,
        }
    }

    fn local(&self) -> Local {
        Local {
            clip: self.clip,
            clients: self.clients,
            steps: self.steps,
            learning_rate: self.learning_rate,
            smoothness: self.smoothness,
        }
    }

    fn assumption(&self) -> Assumption {
        match (self.diameter, self.convexity) {
            (Some(diameter), _) => Assumption::Projected { diameter },
            (_, Some(convexity)) => Assumption::StronglyConvex { convexity, proximal: self.proximal },
            _ => Assumption::None,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let constant = self.schedule == ScheduleName::Constant;
        if !constant && (self.proximal.is_some() || self.convexity.is_some()) {
            let text = "`--proximal` and `--convexity` are covered for `--schedule constant` only";
            return Err(Failure::usage(text));
        }
        let assumes = self.diameter.map(|_| "--diameter").or(self.convexity.map(|_| "--convexity"));
        match assumes {
            Some(flag) if self.threat != ThreatName::LastModelOnly => Err(Failure::usage(format!(
                "`{flag}`: the bound holds only where nobody sees a model before the last; use `--threat last-model-only` if that is so, else leave `{flag}` out: composition holds"
            ))),
            _ => Ok(()),
        }
    }

    fn rounds(&self) -> Result<Vec<Round>, Failure> {
        let (local, assumption) = (self.local(), self.assumption());
        if let Assumption::StronglyConvex { .. } = assumption {
            return strongly_convex(local, assumption, self.rounds).map_err(Failure::usage);
        }
        match self.proximal {
            Some(alpha) => local.fed_prox(alpha, self.rounds).map_err(Failure::usage),
            None => Ok(local.fed_avg(self.schedule(), self.rounds)),
        }
    }

    fn bounds(&self) -> Result<Vec<Bound>, Failure> {
        let run = Run { rounds: self.rounds()?, noise: self.noise, clients: self.clients };
        let mu = run.composition(self.threat()).map_err(Failure::usage)?;
        let smooth = format!("gradients clipped to {}", self.clip.get());
        let convex = self.convexity.map(|beta| {
            format!(
                "losses {}-strongly convex, {}-smooth, clipping never acts",
                beta.get(),
                self.smoothness.get()
            )
        });
        let base = convex.unwrap_or(smooth);
        let mut bounds = vec![Bound { name: "composition", assumes: base.clone(), mu }];
        if self.threat == ThreatName::LastModelOnly {
            let mu = run.last_model(self.threat(), self.assumption()).map_err(Failure::usage)?;
            let projects = self
                .diameter
                .map(|diameter| format!("; the server projects onto a set of diameter {}", diameter.get()));
            let assumes = format!(
                "{base}; losses {}-smooth; only the last model is seen{}",
                self.smoothness.get(),
                projects.unwrap_or_default()
            );
            bounds.push(Bound { name: "last model", assumes, mu });
        }
        Ok(bounds)
    }

    /// Name, μ and whether it is a bound.
    fn published(&self) -> Result<(&'static str, f64, &'static str), Failure> {
        let local = self.local();
        if let Some(alpha) = self.proximal {
            if alpha.get() <= self.smoothness.get() {
                return Err(Failure::usage("theorem 4 needs a `--proximal` above the `--smoothness`"));
            }
            return Ok(("theorem 4", published::fed_prox(local, alpha, self.noise, self.rounds), FALSE));
        }
        let (name, verdict) = match self.schedule {
            ScheduleName::Constant => ("theorem 3(a)", FALSE),
            ScheduleName::Cyclic => ("theorem 3(b)", FALSE),
            ScheduleName::Stage | ScheduleName::Continuous => {
                ("theorem 3(c)", "holds, since it is above composition; it never gates a run")
            }
        };
        let mu = published::fed_avg(local, self.schedule(), self.noise, self.rounds);
        let none = "theorem 3(d) has a constant that depends on the number of local steps; there is no formula to print";
        Ok((name, mu.ok_or_else(|| Failure::usage(none))?, verdict))
    }
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    args.check()?;
    let bounds = args.bounds()?;
    let published = args.published.then(|| args.published()).transpose()?;
    let epsilon = |mu: f64| Mu::new(mu).map(|mu| mu.epsilon(args.delta)).map_err(Failure::usage);
    let threat = args.threat.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if args.json {
        let list: Vec<Value> = bounds
            .iter()
            .map(|Bound { name, assumes, mu }| {
                json!({"name": name, "assumes": assumes, "mu": mu.get(), "epsilon": mu.epsilon(args.delta)})
            })
            .collect();
        let mut object = json!({"threat": threat, "delta": args.delta, "bounds": list});
        if let Some((name, mu, verdict)) = published {
            object["published"] =
                json!({"name": name, "mu": mu, "epsilon": epsilon(mu)?, "verdict": verdict});
        }
        return output::line(object);
    }
    output::line(format!("against `{threat}`, one record of one client, after {} rounds:", args.rounds))?;
    for Bound { name, assumes, mu } in &bounds {
        let epsilon = show(mu.epsilon(args.delta));
        output::line(format!(
            "{name}: mu {:.6}, epsilon {epsilon} at delta {:e}; {assumes}",
            mu.get(),
            args.delta
        ))?;
    }
    if let Some((name, mu, verdict)) = published {
        let epsilon = show(epsilon(mu)?);
        output::line(format!("published {name}: mu {mu:.6}, epsilon {epsilon}; {verdict}"))?;
    }
    Ok(())
}
