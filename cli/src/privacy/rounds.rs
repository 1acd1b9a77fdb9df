//! `starling privacy rounds`: how long a run may be.

use super::setting::{Accountants, Setting, accountants, ask, bounded, delta, show};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::{
    Budget, NoiseMultiplier,
    accountants::calibrate::{self, CalibrationError},
};
use serde_json::json;
use std::num::NonZeroU64;

/// The largest number of rounds that a budget allows.
///
/// JSON: one object with unit, adjacency, sampling, noise_multiplier, delta, rounds, epsilon (what they
/// cost, at most the budget), accountant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// ε of the budget
    #[arg(long)]
    epsilon: f64,
    /// δ of the budget: below 1 over the number of units
    #[arg(long, value_parser = delta)]
    delta: f64,
    /// Standard deviation (Laplace: scale) of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    #[command(flatten)]
    setting: Setting,
    /// best, pure, gaussian, rdp, contour or pld
    #[arg(long, default_value = "best", value_parser = accountants)]
    accountant: Accountants,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let budget = Budget::new(args.epsilon, args.delta).map_err(Failure::usage)?;
    let event = args.setting.event(args.noise_multiplier, NonZeroU64::MIN);
    let rounds = calibrate::rounds(&args.setting.empty(), &event, budget, args.accountant.one());
    let rounds = rounds.map_err(|error| match error {
        CalibrationError::Ledger(error) => Failure::usage(error),
        error => Failure::new(Code::Failed, format!("{error}; use more noise or fewer participants a round")),
    })?;
    let ledger = args.setting.ledger(args.noise_multiplier, rounds)?;
    let (_, (accountant, answer)) = ask(args.accountant, &ledger, args.delta, 1);
    let epsilon = answer.map_err(|why| Failure::new(Code::Failed, why))?;
    if args.json {
        let mut object = args.setting.json();
        object["noise_multiplier"] = json!(args.noise_multiplier);
        object["delta"] = json!(args.delta);
        object["rounds"] = json!(rounds);
        object["epsilon"] = json!(epsilon);
        object["accountant"] = json!(accountant);
        return output::line(object);
    }
    output::line(format!(
        "{rounds} rounds fit epsilon {} at delta {:e} (they cost {} by `{}`): noise multiplier {}, {}",
        args.epsilon,
        args.delta,
        show(epsilon),
        accountant.name(),
        args.noise_multiplier.get(),
        args.setting.text(),
    ))
}
