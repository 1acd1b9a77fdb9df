//! Never a release that is not in the ledger, and no release in it twice.

use crate::Committed;
use privacy::journal::Entry;

/// The committed rounds of `run`, against what the ledger has on the same disk: a line for each, or, with
/// `before`, one line for all of them together.
///
/// # Errors
/// If a model was released that nobody paid for, or was paid for twice.
pub fn paid(rounds: &[Committed], ledger: &[Entry], run: &str, before: bool) -> Result<(), String> {
    let lines = |round: u64| {
        let of = |entry: &&Entry| matches!(entry, Entry::Released { run: r, round: n, .. } if r == run && *n == round);
        ledger.iter().filter(of).count()
    };
    for committed in rounds {
        let line = if before { 0 } else { committed.round + 1 };
        match lines(line) {
            1 => {}
            0 => return Err(format!("round {} is released and not in the ledger", committed.round)),
            more => return Err(format!("round {} is in the ledger {more} times", committed.round)),
        }
    }
    Ok(())
}
