//! The norm to which workers clip is a release, too, where it follows a quantile of their updates: in a round
//! they hear that of the last round which is durable and paid for, and of none that is not.

use std::collections::BTreeMap;

/// The norm that a worker hears in a round, against those that the committed rounds have led to.
///
/// # Errors
/// If it is another one.
pub fn norm(round: u64, told: f64, released: &BTreeMap<u64, f64>) -> Result<(), String> {
    match released.get(&round) {
        Some(norm) if norm.to_bits() == told.to_bits() => Ok(()),
        due => Err(format!("workers hear the norm {told} in round {round}, released for it was {due:?}")),
    }
}
