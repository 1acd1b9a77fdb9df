//! `starling privacy noise`: how much noise a budget asks for.

use super::given::{Limit, refused};
use crate::exit::Failure;
use privacy::accountants::calibrate;
use std::num::NonZeroU64;

/// The least noise multiplier that keeps a run within a budget, up to a relative 1e-5.
///
/// JSON: one object with unit, adjacency, sampling, rounds, delta, noise_multiplier, epsilon (what that
/// noise costs, at most the budget), accountant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds of the run
    #[arg(long, value_name = "T")]
    rounds: NonZeroU64,
    #[command(flatten)]
    limit: Limit,
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let Args { rounds, limit } = args;
    let noise = calibrate::noise(limit.budget()?, limit.accountant.one(), |z| {
        let mut ledger = limit.setting.empty();
        ledger.record(limit.setting.event(z, *rounds))?;
        Ok(ledger)
    });
    let noise = noise.map_err(|error| refused(error, ""))?;
    limit.answer(noise, *rounds, &format!("noise multiplier {:.6} keeps {rounds} rounds within", noise.get()))
}
