//! Client state follows confirmation: a worker's state contains a round only if the coordinator's
//! disk has committed that round with this worker's update.

use crate::Committed;
use worker::client_state::Durable;

/// The state of `worker`, against every committed round.
///
/// # Errors
/// If the state contains a round that is not durable or did not count the worker.
pub fn confirmed(worker: &str, durable: &Durable, rounds: &[Committed]) -> Result<(), String> {
    let Some(round) = durable.round else { return Ok(()) };
    let included = |committed: &Committed| {
        committed.round == round && committed.participants.iter().any(|participant| participant == worker)
    };
    if rounds.iter().rev().any(included) {
        return Ok(());
    }
    Err(format!("{worker} keeps the state of round {round}, which is not committed with its update"))
}
