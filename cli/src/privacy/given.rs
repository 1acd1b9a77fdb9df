//! What the subcommands are given: a run whose cost is wanted, or a budget that a run must keep to.

use super::setting::{Accountants, Setting, accountants, ask, bounded, delta, show};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::{Budget, Ledger, NoiseMultiplier, accountants::calibrate::CalibrationError};
use serde_json::{Value, json};
use std::num::NonZeroU64;

/// A run with the same noise in every round.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Standard deviation (Laplace: scale) of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    pub(super) noise_multiplier: NoiseMultiplier,
    /// Rounds of the run
    #[arg(long, value_name = "T")]
    pub(super) rounds: NonZeroU64,
    /// δ: below 1 over the number of units
    #[arg(long, value_parser = delta)]
    pub(super) delta: f64,
    #[command(flatten)]
    pub(super) setting: Setting,
}

impl Run {
    /// What it releases.
    pub(super) fn ledger(&self) -> Result<Ledger, Failure> {
        self.setting.ledger(self.noise_multiplier, self.rounds)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let (noise, setting) = (self.noise_multiplier.get(), self.setting.text());
        format!("{} rounds with noise multiplier {noise}, {setting}", self.rounds)
    }
}

/// A budget, and who takes part.
#[derive(Debug, clap::Args)]
pub(super) struct Limit {
    /// ε of the budget
    #[arg(long)]
    epsilon: f64,
    /// δ of the budget: below 1 over the number of units
    #[arg(long, value_parser = delta)]
    delta: f64,
    #[command(flatten)]
    pub(super) setting: Setting,
    /// best, pure, gaussian, rdp, contour or pld
    #[arg(long, default_value = "best", value_parser = accountants)]
    pub(super) accountant: Accountants,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Limit {
    /// The budget.
    pub(super) fn budget(&self) -> Result<Budget, Failure> {
        Budget::new(self.epsilon, self.delta).map_err(Failure::usage)
    }

    /// Prints what was found; `found` says which of the two it is.
    pub(super) fn answer(
        &self,
        noise: NoiseMultiplier,
        rounds: NonZeroU64,
        found: &str,
    ) -> Result<(), Failure> {
        let ledger = self.setting.ledger(noise, rounds)?;
        let (_, (accountant, answer)) = ask(self.accountant, &ledger, self.delta, 1);
        let epsilon = answer.map_err(|why| Failure::new(Code::Failed, why))?;
        if self.json {
            let run = json!({
                "noise_multiplier": noise, "rounds": rounds, "delta": self.delta,
                "epsilon": epsilon, "accountant": accountant,
            });
            return output::line(joined(self.setting.json(), run));
        }
        let (budget, delta, setting) = (self.epsilon, self.delta, self.setting.text());
        let cost = format!("{} by `{}`", show(epsilon), accountant.name());
        output::line(format!("{found} epsilon {budget} at delta {delta:e} (cost: {cost}); {setting}"))
    }
}

/// Why no run keeps to the budget.
pub(super) fn refused(error: CalibrationError, advice: &str) -> Failure {
    match error {
        CalibrationError::Ledger(error) => Failure::usage(error),
        error => Failure::new(Code::Failed, format!("{error}{advice}")),
    }
}

/// Two objects as one.
pub(super) fn joined(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}
