//! `starling privacy epsilon`: what a run would cost.

use super::{
    given::{Run, joined},
    setting::{Accountants, accountants, answers_json, answers_text, ask, show},
};
use crate::{
    exit::{Code, Failure},
    output,
};
use serde_json::json;
use std::num::NonZeroU32;

/// ε of a run with this noise in every round.
///
/// JSON: one object with unit, adjacency, sampling, noise_multiplier, rounds, delta, group, epsilon (null
/// if none is finite), accountant, and with --accountant all each accountant's epsilon or refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: Run,
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
    let (run, group) = (&args.run, args.group);
    let (all, (accountant, answer)) = ask(args.accountant, &run.ledger()?, run.delta, group.get());
    let epsilon = answer.map_err(|why| {
        Failure::new(Code::Failed, format!("`{}` makes no statement here: {why}", accountant.name()))
    })?;
    if args.json {
        let found = json!({
            "noise_multiplier": run.noise_multiplier, "rounds": run.rounds, "delta": run.delta,
            "group": group, "epsilon": epsilon, "accountant": accountant,
        });
        let mut object = joined(run.setting.json(), found);
        if args.accountant == Accountants::All {
            object["accountants"] = answers_json(&all);
        }
        return output::line(object);
    }
    if !all.is_empty() {
        output::line(format!("{}\n", answers_text(&all)))?;
    }
    let (epsilon, accountant) = (show(epsilon), accountant.name());
    output::line(format!("epsilon {epsilon} at delta {:e} by `{accountant}`: {}", run.delta, run.text()))
}
