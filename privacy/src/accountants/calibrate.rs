//! From a budget to the noise or the number of rounds, with whichever accountant is best.

use std::num::NonZeroU64;

use super::report::{self, Accountant};
use crate::{
    Adjacency, Budget, Event, Ledger, LedgerError, Mechanism, NoiseMultiplier, ParameterError, Sampling,
    Unit, parameters::Short,
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
    #[error("one round alone costs ε = {}, above the budget", Short(*.epsilon))]
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
        noise(budget, None, |z| Ok(self.ledger(z)?))
    }
}

/// The least noise multiplier, up to a relative 1e-5, with which the ledger of a run keeps to the budget
/// by this accountant, or by the best one.
///
/// # Errors
/// If `ledger` fails or no multiplier suffices.
pub fn noise(
    budget: Budget,
    accountant: Option<Accountant>,
    ledger: impl Fn(NoiseMultiplier) -> Result<Ledger, CalibrationError>,
) -> Result<NoiseMultiplier, CalibrationError> {
    let ask = match accountant {
        Some(accountant) => Quick { accountant, only: true },
        None => Quick::for_ledger(&ledger(NoiseMultiplier::new(1.0)?)?, budget.delta()),
    };
    // ln ε over the budget, falling in ln z.
    let excess = |ln_z: f64| -> Result<f64, CalibrationError> {
        let ledger = ledger(NoiseMultiplier::new(ln_z.exp())?)?;
        Ok((ask.epsilon(&ledger, budget.delta()).clamp(1e-12, 1e12) / budget.epsilon()).ln())
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
        // The root is near: step over it.
        let past = if value > 0.0 {
            (low, above) = (guess, value);
            (guess + 4e-6 + 1.05 * (high - guess) * (value / (value - below)).max(0.0)).min(high)
        } else {
            (high, below) = (guess, value);
            (guess - 4e-6 - 1.05 * (guess - low) * (-value / (above - value)).max(0.0)).max(low)
        };
        let there = excess(past)?;
        if there > 0.0 { (low, above) = (past, there) } else { (high, below) = (past, there) }
    }
    Ok(NoiseMultiplier::new(high.exp())?)
}

/// The accountant that answered once, so that those which cannot are not asked over and over.
struct Quick {
    accountant: Accountant,
    only: bool,
}

impl Quick {
    fn for_ledger(ledger: &Ledger, delta: f64) -> Self {
        Self { accountant: report::epsilon(ledger, delta, 1).accountant, only: false }
    }

    fn epsilon(&self, ledger: &Ledger, delta: f64) -> f64 {
        let answer = self.accountant.epsilon(ledger, delta, 1);
        let otherwise = || if self.only { f64::INFINITY } else { report::epsilon(ledger, delta, 1).epsilon };
        answer.unwrap_or_else(|_| otherwise())
    }
}

/// The largest number of applications of `event` that the budget allows after what `ledger` holds, by
/// this accountant, or by the best one.
///
/// # Errors
/// If the event makes no sense in the ledger or not one application fits.
pub fn rounds(
    ledger: &Ledger,
    event: &Event,
    budget: Budget,
    accountant: Option<Accountant>,
) -> Result<NonZeroU64, CalibrationError> {
    let cost = |count: NonZeroU64| -> Result<f64, LedgerError> {
        let mut ledger = ledger.clone();
        ledger.record(Event { count, ..event.clone() })?;
        Ok(match accountant {
            Some(accountant) => accountant.epsilon(&ledger, budget.delta(), 1).unwrap_or(f64::INFINITY),
            None => report::epsilon(&ledger, budget.delta(), 1).epsilon,
        })
    };
    let epsilon = cost(NonZeroU64::MIN)?;
    if epsilon > budget.epsilon() {
        return Err(CalibrationError::NotOneRound { epsilon });
    }
    let fits =
        |n: u64| NonZeroU64::new(n).is_some_and(|n| cost(n).is_ok_and(|epsilon| epsilon <= budget.epsilon()));
    // Doublings up to 2^53, beyond which a count is not exact.
    let doublings = (1..53).take_while(|power| fits(1 << power)).count();
    let (mut low, mut high) = (1_u64 << doublings, 2_u64 << doublings);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    Ok(NonZeroU64::new(low).unwrap_or(NonZeroU64::MIN))
}
