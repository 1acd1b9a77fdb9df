//! Nobody takes part more often than was paid for, nor sooner again.

use crate::Committed;
use std::collections::BTreeMap;

/// The committed rounds, against a cap: the largest number of rounds of one worker, and the smallest distance
/// of two of them.
///
/// # Errors
/// If a worker was counted beyond it.
pub fn capped(rounds: &[Committed], (most, separation): (u64, u64)) -> Result<(), String> {
    let mut counted: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for committed in rounds {
        for worker in &committed.participants {
            counted.entry(worker).or_default().push(committed.round);
        }
    }
    for (worker, of) in counted {
        let near = of.windows(2).any(|two| two[1] - two[0] < separation);
        if of.len() as u64 > most || near {
            return Err(format!(
                "{worker} was counted in rounds {of:?}, allowed are {most}, {separation} apart"
            ));
        }
    }
    Ok(())
}
