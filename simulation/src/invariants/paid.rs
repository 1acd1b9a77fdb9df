//! Never a release that is not in the ledger.

use crate::Committed;
use std::collections::BTreeSet;

/// The committed rounds, against those that the ledger has on the same disk.
///
/// # Errors
/// If a model was released that nobody paid for.
pub fn paid(rounds: &[Committed], ledger: &BTreeSet<u64>) -> Result<(), String> {
    match rounds.iter().find(|committed| !ledger.contains(&committed.round)) {
        Some(committed) => Err(format!("round {} is released and not in the ledger", committed.round)),
        None => Ok(()),
    }
}
