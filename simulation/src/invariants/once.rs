//! An update is counted once per round and worker.

use std::collections::BTreeSet;

/// `participants` are said to be counted; `folded` is how many uploads each accumulator holds.
///
/// # Errors
/// If a worker is counted twice, or an accumulator holds more or fewer uploads than are counted.
pub fn once(participants: &[String], folded: &[usize]) -> Result<(), String> {
    let distinct: BTreeSet<&String> = participants.iter().collect();
    if distinct.len() != participants.len() {
        return Err(format!("a worker is counted twice among {participants:?}"));
    }
    if folded.is_empty() {
        return Err(format!("nothing was folded, counted are {participants:?}"));
    }
    match folded.iter().find(|folded| **folded != participants.len()) {
        Some(folded) => Err(format!("{folded} uploads were folded, counted are {participants:?}")),
        None => Ok(()),
    }
}
