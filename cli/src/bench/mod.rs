//! `starling bench …`: measurements with the real thing, one file each.

mod round;

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
}

/// Measures.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Round(args) => life::runtime()?.block_on(round::measure(&args)),
    }
}
