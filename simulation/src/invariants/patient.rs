//! Nobody is left out early: a round closes without a worker that it waits for at its deadline only.

use crate::Millis;

/// A round closes `now`; `awaited` are the workers that have not answered.
///
/// # Errors
/// If the deadline has not come.
pub fn patient(awaited: &[&str], now: Millis, deadline: Millis) -> Result<(), String> {
    if awaited.is_empty() || now >= deadline {
        return Ok(());
    }
    Err(format!("the round closes without {awaited:?} at {now}, its deadline is at {deadline}"))
}
