//! `starling privacy rounds`: how long a run may be.

use super::{
    given::{Limit, refused},
    setting::bounded,
};
use crate::exit::Failure;
use privacy::{NoiseMultiplier, accountants::calibrate};
use std::num::NonZeroU64;

/// The largest number of rounds that a budget allows.
///
/// JSON: one object with unit, adjacency, sampling, noise_multiplier, delta, rounds, epsilon (what they
/// cost, at most the budget), accountant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Standard deviation (Laplace: scale) of the noise over the norm of one contribution
    #[arg(long, value_name = "Z", value_parser = bounded::<NoiseMultiplier>)]
    noise_multiplier: NoiseMultiplier,
    #[command(flatten)]
    limit: Limit,
}

/// Computes and prints.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let Args { noise_multiplier: noise, limit } = args;
    let event = limit.setting.event(*noise, NonZeroU64::MIN);
    let rounds = calibrate::rounds(&limit.setting.empty(), &event, limit.budget()?, limit.accountant.one());
    let rounds = rounds.map_err(|error| refused(error, "; use more noise or fewer participants a round"))?;
    limit.answer(*noise, rounds, &format!("{rounds} rounds with noise multiplier {} fit", noise.get()))
}
