//! From a budget to the noise or the number of rounds, with whichever accountant is best.

use std::num::NonZeroU64;

use super::report::{self, Accountant};
use crate::{
    Adjacency, Budget, Event, Ledger, LedgerError, Mechanism, NoiseMultiplier, ParameterError, Sampling,
    Unit, numeric::search::bisect,
};

/// A run with Gaussian noise in every round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Whose privacy.
    pub unit: Unit,
    /// Against what.
    pub adjacency: Adjacency,
    /// Who takes part.
    pub sampling: Sampling,
    /// Number of rounds.
    pub rounds: NonZeroU64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// The plan makes no sense.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No noise within the bounds of a multiplier suffices.
    #[error("no noise multiplier keeps to the budget: {0}")]
    Noise(#[from] ParameterError),
    /// Not even one round fits.
    #[error("one round alone costs ε = {epsilon}, above the budget")]
    NotOneRound {
        /// ε of one round.
        epsilon: f64,
    },
}

impl Plan {
    /// The ledger of the plan with this noise.
    ///
    /// # Errors
    /// If the sampling is not covered for the adjacency.
    pub fn ledger(&self, noise_multiplier: NoiseMultiplier) -> Result<Ledger, LedgerError> {
        let mut ledger = Ledger::new(self.unit, self.adjacency);
        let mechanism = Mechanism::Gaussian { noise_multiplier };
        ledger.record(Event { mechanism, sampling: self.sampling, count: self.rounds })?;
        Ok(ledger)
    }

    /// The least noise multiplier, up to a relative 1e-5, that keeps the plan within the budget.
    ///
    /// # Errors
    /// If the plan makes no sense or no multiplier suffices.
    pub fn noise(&self, budget: Budget) -> Result<NoiseMultiplier, CalibrationError> {
        let ask = Quick::for_ledger(&self.ledger(NoiseMultiplier::new(1.0)?)?, budget.delta());
        // ln ε over the budget, falling in ln z.
        let excess = |ln_z: f64| -> Result<f64, CalibrationError> {
            let ledger = self.ledger(NoiseMultiplier::new(ln_z.exp())?)?;
            Ok((ask.epsilon(&ledger, budget.delta()).max(1e-12) / budget.epsilon()).ln())
        };
        let (mut low, mut high) = (0.0, 0.0);
        let mut above = excess(0.0)?;
        let mut below = above;
        while below > 0.0 {
            (low, above) = (high, below);
            high += 1.0;
            below = excess(high)?;
        }
        while above <= 0.0 {
            (high, below) = (low, above);
            low -= 1.0;
            // Less noise than any multiplier holds is never needed.
            let Ok(found) = excess(low) else { break };
            above = found;
        }
        while high - low > 1e-5 {
            // Regula falsi, kept away from the ends so that both move.
            let guess = low + (high - low) * (above / (above - below)).clamp(0.02, 0.98);
            let guess = if guess.is_finite() { guess } else { f64::midpoint(low, high) };
            let value = excess(guess)?;
            if value > 0.0 {
                (low, above) = (guess, value);
                // The root is near: step over it.
                let over =
                    (guess + 4e-6 + 1.05 * (high - guess) * (value / (value - below)).max(0.0)).min(high);
                let there = excess(over)?;
                if there > 0.0 { (low, above) = (over, there) } else { (high, below) = (over, there) }
            } else {
                (high, below) = (guess, value);
                let under =
                    (guess - 4e-6 - 1.05 * (guess - low) * (-value / (above - value)).max(0.0)).max(low);
                let there = excess(under)?;
                if there > 0.0 { (low, above) = (under, there) } else { (high, below) = (under, there) }
            }
        }
        Ok(NoiseMultiplier::new(high.exp())?)
    }
}

/// The accountant that answered once, so that those which cannot are not asked over and over.
struct Quick(Accountant);

impl Quick {
    fn for_ledger(ledger: &Ledger, delta: f64) -> Self {
        Self(report::epsilon(ledger, delta, 1).accountant)
    }

    fn epsilon(&self, ledger: &Ledger, delta: f64) -> f64 {
        self.0.epsilon(ledger, delta, 1).unwrap_or_else(|_| report::epsilon(ledger, delta, 1).epsilon)
    }
}

/// The largest number of applications of `event` that the budget allows after what `ledger` holds.
///
/// # Errors
/// If the event makes no sense in the ledger or not one application fits.
pub fn rounds(ledger: &Ledger, event: &Event, budget: Budget) -> Result<NonZeroU64, CalibrationError> {
    let cost = |count: NonZeroU64| -> Result<f64, LedgerError> {
        let mut ledger = ledger.clone();
        ledger.record(Event { count, ..event.clone() })?;
        Ok(report::epsilon(&ledger, budget.delta(), 1).epsilon)
    };
    let epsilon = cost(NonZeroU64::MIN)?;
    if epsilon > budget.epsilon() {
        return Err(CalibrationError::NotOneRound { epsilon });
    }
    let fits =
        |n: u64| NonZeroU64::new(n).is_some_and(|n| cost(n).is_ok_and(|epsilon| epsilon <= budget.epsilon()));
    // Doublings up to 2^53, beyond which a count is not exact.
    let doublings = (1..53).take_while(|power| fits(1 << power)).count();
    let (low, high) = (1_u64 << doublings, 2_u64 << doublings);
    let (largest, _) = bisect(low as f64, high as f64, 64, |n| fits(n.floor() as u64));
    Ok(NonZeroU64::new(largest.floor() as u64).unwrap_or(NonZeroU64::MIN))
}
