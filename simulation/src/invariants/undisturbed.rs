//! Faults leave no trace in the model: when every worker takes part in the end, the vectors of every
//! round are those of a run without faults, bit for bit.

use crate::Report;

/// # Errors
/// If a round differs in its participants or in a bit of a vector.
pub fn undisturbed(disturbed: &Report, calm: &Report) -> Result<(), String> {
    if disturbed.rounds.len() != calm.rounds.len() {
        return Err(format!("{} rounds instead of {}", disturbed.rounds.len(), calm.rounds.len()));
    }
    for (disturbed, calm) in disturbed.rounds.iter().zip(&calm.rounds) {
        let round = calm.round;
        if disturbed.participants != calm.participants {
            return Err(format!(
                "round {round}: {:?} instead of {:?}",
                disturbed.participants, calm.participants
            ));
        }
        if disturbed.digests != calm.digests {
            return Err(format!("round {round}: model {:?} instead of {:?}", disturbed.model, calm.model));
        }
    }
    Ok(())
}
