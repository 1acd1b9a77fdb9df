//! `starling privacy noise`: how much noise a budget asks for.

use super::setting::{Accountants, Setting, accountants, ask, delta, show};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::{
    Budget,
    accountants::calibrate::{self, CalibrationError},
};
use serde_json::json;
use std::num::NonZeroU64;

/// The least noise multiplier that keeps a run within a budget, up to a relative 1e-5.
///
/// JSON: one object with unit, adjacency, sampling, rounds, delta, noise_multiplier, epsilon (what that
/// noise costs, at most the budget), accountant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// ε of the budget
    #[arg(long)]
    epsilon: f64,
    /// δ of the budget: below 1 over the number of units
    #[arg(long, value_parser = delta)]
    delta: f64,
    /// Rounds of the run
    #[arg(long, value_name = "T")]
    rounds: NonZeroU64,
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
    let noise = calibrate::noise(budget, args.accountant.one(), |z| {
        let mut ledger = args.setting.empty();
        ledger.record(args.setting.event(z, args.rounds))?;
        Ok(ledger)
    });
    let noise = noise.map_err(|error| match error {
        CalibrationError::Ledger(error) => Failure::usage(error),
        error => Failure::new(Code::Failed, error),
    })?;
    let ledger = args.setting.ledger(noise, args.rounds)?;
    let (_, (accountant, answer)) = ask(args.accountant, &ledger, args.delta, 1);
    let epsilon = answer.map_err(|why| Failure::new(Code::Failed, why))?;
    if args.json {
        let mut object = args.setting.json();
        object["rounds"] = json!(args.rounds);
        object["delta"] = json!(args.delta);
        object["noise_multiplier"] = json!(noise);
        object["epsilon"] = json!(epsilon);
        object["accountant"] = json!(accountant);
        return output::line(object);
    }
    output::line(format!(
        "noise multiplier {:.6} keeps {} rounds within epsilon {} at delta {:e} (it costs {} by `{}`): {}",
        noise.get(),
        args.rounds,
        args.epsilon,
        args.delta,
        show(epsilon),
        accountant.name(),
        args.setting.text(),
    ))
}
