//! Without rounds: an update is counted once in a whole run, is as old as it is said to be, and whoever was
//! told that its update counts is told the truth.

use coordinator::machine::{Buffered, Ongoing};
use std::collections::BTreeSet;

/// Updates by worker and the version that they were trained on.
pub type Counted = BTreeSet<(String, u64)>;

/// Version `round` is committed from `buffer`; `before` are the updates of all earlier ones, over all lives
/// of the coordinator.
///
/// # Errors
/// If an update is counted again, is too old, or has another age than the one that weighs it.
pub fn counted(
    round: u64,
    buffer: &[Buffered],
    (before, max_staleness): (&Counted, u64),
) -> Result<(), String> {
    let mut all = before.clone();
    for Buffered { worker, version, staleness, .. } in buffer {
        if !all.insert((worker.clone(), *version)) {
            return Err(format!("the update of {worker} on version {version} is counted again in {round}"));
        }
        if version.checked_add(*staleness) != Some(round) || *staleness > max_staleness {
            return Err(format!(
                "{worker}'s update on version {version} has staleness {staleness} in version {round}, at most \
                 {max_staleness} are accepted"
            ));
        }
    }
    if buffer.is_empty() { Err(format!("version {round} is made of nothing")) } else { Ok(()) }
}

/// A worker hears that its update is durable: it is in a committed version, or in the buffer on the disk.
///
/// # Errors
/// If it is in neither.
pub fn told(worker: &str, version: u64, (counted, disk): (&Counted, &Ongoing)) -> Result<(), String> {
    let in_buffer = disk.buffer.iter().any(|one| one.worker == worker && one.version == version);
    if in_buffer || counted.contains(&(worker.to_owned(), version)) {
        return Ok(());
    }
    Err(format!("{worker} was told that its update on version {version} counts, and the disk has none"))
}

/// At the end of a run: every update that was told to count does, or waits in the last buffer.
///
/// # Errors
/// With the first that was lost.
pub fn nothing_lost(told: &Counted, counted: &Counted, last: &[Buffered]) -> Result<(), String> {
    let waits = |(worker, version): &&(String, u64)| {
        last.iter().any(|one| one.worker == *worker && one.version == *version)
    };
    match told.difference(counted).find(|update| !waits(update)) {
        Some((worker, version)) => Err(format!("the update of {worker} on version {version} is lost")),
        None => Ok(()),
    }
}
