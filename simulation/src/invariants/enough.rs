//! A sum of noise shares is released only if enough of them have arrived: fewer hide less than was paid for.

/// `participants` of a round, against the number of shares that its noise is counted on.
///
/// # Errors
/// If there are fewer.
pub fn enough(participants: usize, least: u64) -> Result<(), String> {
    if participants as u64 >= least {
        return Ok(());
    }
    Err(format!("a sum of {participants} noise shares is released, at least {least} make it private"))
}
