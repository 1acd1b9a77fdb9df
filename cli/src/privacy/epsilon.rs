//! `starling privacy epsilon`: what a run would cost.

use super::setting::{
    Accountants, Setting, accountants, answers_json, answers_text, ask, bounded, delta, show,
};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::NoiseMultiplier;
use serde_json::json;
use std::num::{NonZeroU32, NonZeroU64};

/// ε of a run with this noise in every round.
///
/// JSON: one object with unit, adjacency, sampling, noise_multiplier, rounds, delta, group, epsilon (null
/// if none is finite), accountant, and with --accountant all each accountant's epsilon or refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Standard deviation (Laplace: scale) of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    /// Rounds of the run
    #[arg(long, value_name = "T")]
    rounds: NonZeroU64,
    /// δ: below 1 over the number of units
    #[arg(long, value_parser = delta)]
    delta: f64,
    #[command(flatten)]
    setting: Setting,
    /// Protects groups of so many units
    #[arg(long, value_name = "K", default_value = "1")]
    group: NonZeroU32,
    /// best, all, pure, gaussian, rdp, contour or pld
    #[arg(long, default_value = "best", value_parser = accountants)]
    accountant: Accountants,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let ledger = args.setting.ledger(args.noise_multiplier, args.rounds)?;
    let (all, (accountant, answer)) = ask(args.accountant, &ledger, args.delta, args.group.get());
    let epsilon = answer.map_err(|why| {
        Failure::new(Code::Failed, format!("`{}` makes no statement here: {why}", accountant.name()))
    })?;
    if args.json {
        let mut object = args.setting.json();
        object["noise_multiplier"] = json!(args.noise_multiplier);
        object["rounds"] = json!(args.rounds);
        object["delta"] = json!(args.delta);
        object["group"] = json!(args.group);
        object["epsilon"] = json!(epsilon);
        object["accountant"] = json!(accountant);
        if args.accountant == Accountants::All {
            object["accountants"] = answers_json(&all);
        }
        return output::line(object);
    }
    if !all.is_empty() {
        output::line(format!("{}\n", answers_text(&all)))?;
    }
    output::line(format!(
        "epsilon {} at delta {:e} by `{}`: {} rounds with noise multiplier {}, {}",
        show(epsilon),
        args.delta,
        accountant.name(),
        args.rounds,
        args.noise_multiplier.get(),
        args.setting.text(),
    ))
}
