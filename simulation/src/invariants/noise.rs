//! Noise hides one sum, once: the same sum gets the same noise whenever a round is tried again (two
//! noises on one sum would have to be paid for twice), and two different sums never share a noise (their
//! difference would be bare).

/// A sum that got noise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noised {
    /// The round.
    pub round: u64,
    /// The sum before.
    pub sum: Vec<i64>,
    /// What was added.
    pub noise: Vec<i64>,
}

/// `next` against all that came before it, in any life of the coordinator.
///
/// # Errors
/// If the noise is new where it must not be, or not new where it must be.
pub fn noise(before: &[Noised], next: &Noised) -> Result<(), String> {
    let Noised { round, sum, noise } = next;
    for old in before {
        let same_sum = old.round == *round && old.sum == *sum;
        if same_sum && old.noise != *noise {
            return Err(format!("the same sum of round {round} got another noise when it was tried again"));
        }
        if !same_sum && old.noise == *noise {
            return Err(format!("rounds {} and {round}: two sums share their noise", old.round));
        }
    }
    Ok(())
}
