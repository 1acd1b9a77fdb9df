//! `starling privacy …`: what a run costs, before and after it, one file each. Nothing here but
//! `ledger` talks to a coordinator: the answers follow from numbers, or from a file.

mod audit;
mod curve;
mod epsilon;
mod given;
mod ledger;
mod long_run;
mod noise;
mod pairwise;
mod picture;
mod release;
mod rounds;
mod setting;
mod verify;

use crate::exit::Failure;
use clap::Subcommand;

/// Privacy accounting: ε, noise, rounds, curves, bounds, and checks of ledgers and mechanisms.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Epsilon(epsilon::Args),
    Noise(noise::Args),
    Rounds(rounds::Args),
    Curve(curve::Args),
    LongRun(long_run::Args),
    Pairwise(pairwise::Args),
    Verify(verify::Args),
    Audit(audit::Args),
    Ledger(ledger::Args),
    Release(release::Args),
}

/// Computes and prints.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Epsilon(args) => epsilon::main(&args),
        What::Noise(args) => noise::main(&args),
        What::Rounds(args) => rounds::main(&args),
        What::Curve(args) => curve::main(&args),
        What::LongRun(args) => long_run::main(&args),
        What::Pairwise(args) => pairwise::main(&args),
        What::Verify(args) => verify::main(&args),
        What::Audit(args) => audit::main(&args),
        What::Ledger(args) => ledger::main(args),
        What::Release(args) => release::main(&args),
    }
}
