//! `starling bench …`: measurements with the real thing, one file each.

mod aggregate;
mod limit;
mod round;
mod simulate;

use crate::{exit::Failure, life};
use clap::Subcommand;

/// Measures with real processes on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Round(round::Args),
    Simulate(simulate::Args),
    /// The coordinator's aggregation against a plain pass over the same memory
    Aggregate(aggregate::Args),
}

/// Measures.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Aggregate(args) => aggregate::measure(&args),
        What::Simulate(args) => simulate::measure(&args),
        What::Round(args) => life::runtime()?.block_on(round::measure(&args)),
    }
}
