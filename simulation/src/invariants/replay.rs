//! Equal seeds give equal bytes: events, times, models.

use crate::Report;

/// Two runs of the same schedule.
///
/// # Errors
/// If they differ in anything.
pub fn replay(first: &Report, second: &Report) -> Result<(), String> {
    if first == second {
        return Ok(());
    }
    Err(format!(
        "seed {}: traces {:x} and {:x}, {} and {} events, {} and {} rounds",
        first.seed,
        first.trace,
        second.trace,
        first.events,
        second.events,
        first.rounds.len(),
        second.rounds.len()
    ))
}
