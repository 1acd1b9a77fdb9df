//! What the subcommands have in common: whose privacy, who takes part, and how an ε is shown.

use crate::exit::Failure;
use clap::ValueEnum;
use privacy::{
    Accountant, Adjacency, Budget, Event, Ledger, Mechanism, NoiseMultiplier, ParameterError, Probability,
    Sampling, Unit, accountants::report,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::num::NonZeroU64;

/// A value under the name that it has in run files and ledgers.
pub(super) fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// A number with bounds.
pub(super) fn bounded<T: TryFrom<f64, Error = ParameterError>>(text: &str) -> Result<T, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    T::try_from(number).map_err(|error| error.to_string())
}

/// δ, from 0 to below 1.
pub(super) fn delta(text: &str) -> Result<f64, String> {
    let delta: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    Budget::new(1.0, delta).map(Budget::delta).map_err(|error| error.to_string())
}

/// Which noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Noise {
    /// Gaussian, on vectors with bounded L2 norm
    Gaussian,
    /// Laplace, on one number
    Laplace,
}

/// Whose privacy is counted, against which change, and who takes part in a round.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Setting {
    /// Whose privacy: client or record
    #[arg(long, default_value = "client", value_parser = named::<Unit>)]
    unit: Unit,
    /// Which change to the data: add_remove, zero_out or replace_one (moves a sum by two norms)
    #[arg(long, default_value = "add_remove", value_parser = named::<Adjacency>)]
    adjacency: Adjacency,
    /// The noise of a round
    #[arg(long, value_enum, default_value = "gaussian")]
    mechanism: Noise,
    /// Probability of each unit to take part in a round, drawn in secret; without it, everyone does
    #[arg(long, value_name = "Q", value_parser = bounded::<Probability>)]
    sampling_rate: Option<Probability>,
    /// Instead: exactly so many of the population take part, without replacement
    #[arg(long, value_name = "N", conflicts_with = "sampling_rate", requires = "population")]
    sample_size: Option<NonZeroU64>,
    /// Number of units that --sample-size draws from
    #[arg(long, value_name = "N", requires = "sample_size")]
    population: Option<NonZeroU64>,
}

impl Setting {
    fn sampling(&self) -> Sampling {
        match (self.sampling_rate, self.sample_size, self.population) {
            (Some(rate), ..) if rate.get() < 1.0 => Sampling::Poisson { rate },
            (_, Some(sample), Some(population)) => Sampling::FixedSize { population, sample },
            _ => Sampling::Everyone,
        }
    }

    /// `rounds` rounds with this noise.
    pub(super) fn event(&self, noise_multiplier: NoiseMultiplier, rounds: NonZeroU64) -> Event {
        let mechanism = match self.mechanism {
            Noise::Gaussian => Mechanism::Gaussian { noise_multiplier },
            Noise::Laplace => Mechanism::Laplace { noise_multiplier },
        };
        Event { mechanism, sampling: self.sampling(), count: rounds }
    }

    /// A ledger without a release.
    pub(super) fn empty(&self) -> Ledger {
        Ledger::new(self.unit, self.adjacency)
    }

    /// The ledger of a run of so many rounds.
    pub(super) fn ledger(
        &self,
        noise_multiplier: NoiseMultiplier,
        rounds: NonZeroU64,
    ) -> Result<Ledger, Failure> {
        let mut ledger = self.empty();
        ledger.record(self.event(noise_multiplier, rounds)).map_err(Failure::usage)?;
        Ok(ledger)
    }

    /// For `--json`: what was assumed.
    pub(super) fn json(&self) -> Value {
        json!({"unit": self.unit, "adjacency": self.adjacency, "sampling": self.sampling()})
    }

    /// For people: the same in a sentence.
    pub(super) fn text(&self) -> String {
        let who = match self.sampling() {
            Sampling::Poisson { rate } => format!("taking part with probability {} each round", rate.get()),
            Sampling::FixedSize { population, sample } => {
                format!("{sample} of {population} taking part in a round")
            }
            _ => "all taking part in every round".to_owned(),
        };
        format!("unit {}, adjacency {}, {who}", word(self.unit), word(self.adjacency))
    }
}

/// The name of a value in ledgers.
pub(super) fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Which accountants answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accountants {
    /// The least ε among those that are sound for the ledger.
    Best,
    /// Each, and the least.
    All,
    /// This one only.
    One(Accountant),
}

/// `best`, `all` or the name of one.
pub(super) fn accountants(text: &str) -> Result<Accountants, String> {
    match text {
        "best" => Ok(Accountants::Best),
        "all" => Ok(Accountants::All),
        name => named(name).map(Accountants::One).map_err(|error| {
            let names = Accountant::ALL.map(|one| format!("`{}`", one.name())).join(", ");
            format!("{}; expected `best`, `all`, {names}", error.split(',').next().unwrap_or_default())
        }),
    }
}

impl Accountants {
    /// The accountant that calibration is to use; `None` for the best.
    pub(super) fn one(self) -> Option<Accountant> {
        if let Self::One(one) = self { Some(one) } else { None }
    }
}

/// ε of a ledger by one accountant, or why it makes no statement.
pub(super) type Answer = (Accountant, Result<f64, String>);

/// What each of them says at δ for groups of `group` units, and the least.
pub(super) fn ask(which: Accountants, ledger: &Ledger, delta: f64, group: u32) -> (Vec<Answer>, Answer) {
    let one = |accountant: Accountant| -> Answer {
        (accountant, accountant.epsilon(ledger, delta, group).map_err(|refusal| refusal.to_string()))
    };
    match which {
        Accountants::One(accountant) => (Vec::new(), one(accountant)),
        Accountants::Best => {
            let best = report::epsilon(ledger, delta, group);
            (Vec::new(), (best.accountant, Ok(best.epsilon)))
        }
        Accountants::All => {
            let all: Vec<Answer> = Accountant::ALL.into_iter().map(one).collect();
            let least = all.iter().filter(|(_, answer)| answer.is_ok()).min_by(|a, b| {
                let epsilon = |answer: &Answer| answer.1.as_ref().copied().unwrap_or(f64::INFINITY);
                epsilon(a).total_cmp(&epsilon(b))
            });
            let none = (Accountant::Rdp, Ok(f64::INFINITY));
            let least = least.cloned().unwrap_or(none);
            (all, least)
        }
    }
}

/// An ε as text.
pub(super) fn show(epsilon: f64) -> String {
    if epsilon.is_infinite() { "none is finite".to_owned() } else { format!("{epsilon:.6}") }
}

/// What each accountant said, for `--json`; an infinite ε is null.
pub(super) fn answers_json(answers: &[Answer]) -> Value {
    let one = |(accountant, answer): &Answer| {
        let value = match answer {
            Ok(epsilon) => json!({"epsilon": epsilon}),
            Err(why) => json!({"refused": why}),
        };
        (accountant.name().to_owned(), value)
    };
    Value::Object(answers.iter().map(one).collect())
}

/// The same for people.
pub(super) fn answers_text(answers: &[Answer]) -> String {
    let row = |(accountant, answer): &Answer| match answer {
        Ok(epsilon) => vec![accountant.name().to_owned(), show(*epsilon), String::new()],
        Err(why) => vec![accountant.name().to_owned(), "–".to_owned(), why.clone()],
    };
    crate::table::table(&["accountant", "epsilon", ""], &answers.iter().map(row).collect::<Vec<_>>())
}
