//! The event log is the operator's truth: numbered without gaps, and every committed round is in it
//! once, in order.

use proto::event::RunEvent;

/// `lines` are what the disk has; `committed` is how many rounds it has.
///
/// # Errors
/// If a number is missing or repeated, or a round is announced twice, too early or out of order.
pub fn log(lines: &[(u64, RunEvent)], committed: usize) -> Result<(), String> {
    let mut rounds = 0;
    for (expected, (sequence, event)) in (0_u64..).zip(lines) {
        if *sequence != expected {
            return Err(format!("event {sequence} stands where {expected} was due"));
        }
        if let RunEvent::RoundCommitted { round, .. } = event {
            if *round != rounds || rounds >= committed as u64 {
                return Err(format!("round {round} is announced where {rounds} of {committed} was due"));
            }
            rounds += 1;
        }
    }
    let over = matches!(lines.last(), Some((_, RunEvent::Finished { .. })));
    if over && rounds != committed as u64 {
        return Err(format!("{rounds} of {committed} rounds were announced"));
    }
    Ok(())
}
