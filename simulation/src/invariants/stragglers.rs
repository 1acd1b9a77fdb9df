//! Slow is not stuck: a worker is said to be stuck only if it is connected and its progress stands
//! still.

use crate::Millis;

/// The log names `worker`; `still` is for how long its progress has stood still (`None`: it is not
/// connected), `limit` from when on that means stuck.
///
/// # Errors
/// If the log says of a slow or lost worker that it is stuck, or does not say it of one that is.
pub fn stragglers(worker: &str, stuck: bool, (still, limit): (Option<Millis>, Millis)) -> Result<(), String> {
    let is_stuck = still.is_some_and(|still| still >= limit);
    if stuck == is_stuck {
        return Ok(());
    }
    let said = if stuck { "stuck" } else { "late and not stuck" };
    Err(format!("{worker} is said to be {said}, its progress stands still for {still:?} ms (limit {limit})"))
}
