//! `starling bench …`: measurements with the real thing, one file each.

mod round;

use crate::{exit::Failure, life};
use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Seconds, memory and traffic of a round, without training
    Round(round::Args),
}

/// Measures.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Round(args) => life::runtime()?.block_on(round::measure(&args)),
    }
}
