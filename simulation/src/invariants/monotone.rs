//! Rounds are monotone: every round is committed once, in order, without gaps, whoever restarts.

use crate::Committed;

/// `next` is the round that the disk takes after `rounds`.
///
/// # Errors
/// If it is not the one after the last.
pub fn monotone(rounds: &[Committed], next: u64) -> Result<(), String> {
    let expected = rounds.last().map_or(0, |last| last.round + 1);
    if next == expected {
        return Ok(());
    }
    Err(format!("round {next} was committed where round {expected} was due"))
}
