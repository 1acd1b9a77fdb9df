//! Noise hides one sum, once: the same sum gets the same noise whenever a round is tried again (two
//! noises on one sum would have to be paid for twice), and two different sums never share a noise (their
//! difference would be bare). So do the small sums that go with it: the count of those within the norm, by
//! which the norm moves, and the metrics.
//!
//! Noise that is correlated over rounds is another matter: it is paid for once for all rounds, and belongs to
//! a round and not to its sum, or the noise of later rounds would not cancel it.

use privacy::metrics::Told;

/// A sum that got noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Noised {
    /// The round.
    pub round: u64,
    /// The sum before.
    pub sum: Vec<i64>,
    /// What was added.
    pub noise: Vec<i64>,
    /// The norm that follows from the noisy count.
    pub norm: f64,
    /// What is told of the round.
    pub told: Option<Told>,
}

/// `next` against all that came before it, in any life of the coordinator.
///
/// # Errors
/// If the noise is new where it must not be, or not new where it must be.
pub fn noise(before: &[Noised], next: &Noised) -> Result<(), String> {
    let Noised { round, sum, noise, norm, told } = next;
    for old in before {
        let same_sum = old.round == *round && old.sum == *sum;
        if same_sum && old.noise != *noise {
            return Err(format!("the same sum of round {round} got another noise when it was tried again"));
        }
        if same_sum && old.norm.to_bits() != norm.to_bits() {
            return Err(format!("the same count of round {round} moved the norm to {} and {norm}", old.norm));
        }
        if same_sum && old.told != *told {
            return Err(format!("of the same round {round} was told {:?} and {told:?}", old.told));
        }
        if !same_sum && old.noise == *noise {
            return Err(format!("rounds {} and {round}: two sums share their noise", old.round));
        }
    }
    Ok(())
}

/// The same for noise that is correlated over rounds; `straight` is that of a run without interruptions.
///
/// # Errors
/// If a round got another noise than the strategy has for it, or that of another round.
pub fn correlated(before: &[Noised], next: &Noised, straight: &[i64]) -> Result<(), String> {
    let Noised { round, noise, .. } = next;
    if noise != straight {
        return Err(format!("round {round} got {noise:?}, without interruptions it would be {straight:?}"));
    }
    for old in before {
        if old.round == *round && old.noise != *noise {
            return Err(format!("round {round} got another noise when it was tried again"));
        }
        if old.round != *round && old.noise == *noise {
            return Err(format!("rounds {} and {round} share their noise", old.round));
        }
    }
    Ok(())
}
