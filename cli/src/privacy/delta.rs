//! `starling privacy delta`: with which probability a run may cost more than an ε.

use super::{
    given::joined,
    setting::{Accountants, Setting, accountants, bounded},
};
use crate::{
    exit::{Code, Failure},
    output,
};
use privacy::{Accountant, Budget, NoiseMultiplier, accountants::report};
use serde_json::json;
use std::num::{NonZeroU32, NonZeroU64};

/// δ of a run with this noise in every round, for an ε.
///
/// JSON: one object with unit, adjacency, sampling, noise_multiplier, rounds, epsilon, group, delta,
/// accountant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Standard deviation (Laplace: scale) of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    /// Rounds of the run
    #[arg(long, value_name = "T")]
    rounds: NonZeroU64,
    /// ε
    #[arg(long)]
    epsilon: f64,
    #[command(flatten)]
    setting: Setting,
    /// Protects groups of so many units
    #[arg(long, value_name = "K", default_value = "1")]
    group: NonZeroU32,
    /// best, pure, gaussian, rdp, contour or pld
    #[arg(long, default_value = "best", value_parser = accountants)]
    accountant: Accountants,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    // Its bounds are those of a budget's.
    let epsilon = Budget::new(args.epsilon, 0.0).map_err(Failure::usage)?.epsilon();
    let ledger = args.setting.ledger(args.noise_multiplier, args.rounds)?;
    let group = args.group.get();
    let (delta, accountant): (f64, Accountant) = match args.accountant.one() {
        None => report::delta(&ledger, epsilon, group),
        Some(one) => {
            let refused =
                |why| Failure::new(Code::Failed, format!("`{}` makes no statement here: {why}", one.name()));
            (one.delta(&ledger, epsilon, group).map_err(refused)?.min(1.0), one)
        }
    };
    if args.json {
        let found = json!({
            "noise_multiplier": args.noise_multiplier, "rounds": args.rounds, "epsilon": epsilon,
            "group": args.group, "delta": delta, "accountant": accountant,
        });
        return output::line(joined(args.setting.json(), found));
    }
    output::line(format!(
        "delta {delta:.6e} at epsilon {epsilon} by `{}`: {} rounds with noise multiplier {}, {}",
        accountant.name(),
        args.rounds,
        args.noise_multiplier.get(),
        args.setting.text()
    ))
}
