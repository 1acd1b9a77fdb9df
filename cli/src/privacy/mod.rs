//! `starling privacy …`: what was released, and what it cost.

mod ledger;

use crate::exit::Failure;
use clap::Subcommand;

/// Privacy: the ledgers of a coordinator.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Ledger(ledger::Args),
}

/// Does what was asked.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Ledger(args) => ledger::main(args),
    }
}
