//! `starling bench …`: measurements with the real thing, one file each.

mod aggregate;
mod connections;
mod crowd;
mod gossip;
mod kernels;
mod limit;
mod mixing;
mod privacy;
mod round;
mod simulate;
mod soak;
mod train;

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
    Gossip(gossip::Args),
    Mixing(mixing::Args),
    Simulate(simulate::Args),
    /// The coordinator's aggregation against a plain pass over the same memory
    Aggregate(aggregate::Args),
    Train(train::Args),
    Kernels(kernels::Args),
    Privacy(privacy::Args),
    Connections(connections::Args),
    Soak(soak::Args),
}

/// Measures.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Aggregate(args) => aggregate::measure(&args),
        What::Gossip(args) => life::runtime()?.block_on(gossip::measure(&args)),
        What::Connections(args) => life::runtime()?.block_on(connections::measure(&args)),
        What::Soak(args) => life::runtime()?.block_on(soak::measure(&args)),
        What::Mixing(args) => mixing::measure(&args),
        What::Simulate(args) => simulate::measure(&args),
        What::Kernels(args) => kernels::measure(&args),
        What::Privacy(args) => privacy::measure(&args),
        What::Train(args) => train::measure(&args),
        What::Round(args) => life::runtime()?.block_on(round::measure(&args)),
    }
}
