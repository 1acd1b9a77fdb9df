//! From a section and the facts of a run to noise, grid, events and gate.

use std::num::NonZeroU64;

use super::{MechanismKind, Noise, PrivacySpec, SpecError, Stop, StrategyKind};
use crate::{
    Budget, Event, Gate, Grid, Ledger, LedgerError, Mechanism, NoiseMultiplier, ParameterError, Positive,
    Report, Rule, Sampling,
    accountants::{
        calibrate::{self, CalibrationError},
        filter::Filter,
        report::{self, Refusal},
    },
    adaptive::{AdaptiveClip, QuantileClip},
    shares::Shares,
    strategy::{Factor, MOST_ROUNDS, Participation, Strategy},
};

/// What a plan depends on, beside the section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunFacts {
    /// Rounds of the run.
    pub rounds: NonZeroU64,
    /// Elements in all vectors of one contribution together.
    pub parameters: NonZeroU64,
    /// Expected number of clients in a round: the fixed denominator.
    pub clients: NonZeroU64,
    /// Steps of one client in a round, for DP-SGD.
    pub local_steps: NonZeroU64,
}

/// A run's privacy in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Noise over the norm of a contribution, of all that a round releases together.
    pub noise_multiplier: NoiseMultiplier,
    /// Noise of the update alone: more, if an adaptive norm or metrics are paid for from the same budget.
    pub update_noise: NoiseMultiplier,
    /// The grid of contributions at the first norm.
    pub grid: Grid,
    /// What is paid for before the first round.
    pub before: Option<Event>,
    /// What each round costs.
    pub each_round: Option<Event>,
    /// Where workers add the noise: what a round costs the one who takes part in it, in a ledger of its own.
    pub own: Option<Event>,
    /// For DP-FTRL: how its noise is spread.
    pub strategy: Option<Strategy>,
    /// For noise that clients add together: how.
    pub shares: Option<Shares>,
    /// The watch over the budget; none if the section names no ε.
    pub gate: Option<Gate>,
    /// ε of the whole run at the section's δ, with an empty ledger before it.
    pub whole: Report,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Keys of the section do not fit the run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A number is out of bounds.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// No theorem covers the combination.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No noise suffices.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// No filter can watch it.
    #[error("no filter can watch this run: {0}")]
    Refusal(#[from] Refusal),
    /// The accountant makes no statement.
    #[error("the accountant `{name}` makes no statement about this mechanism; leave `accountant` out")]
    Silent {
        /// Its name.
        name: &'static str,
    },
}

impl PrivacySpec {
    /// The plan for a run with these facts.
    ///
    /// # Errors
    /// If the combination is not covered, a modulus is too small for it, or no noise keeps to the ε.
    pub fn plan(&self, facts: RunFacts) -> Result<Plan, PlanError> {
        let grid = Grid::new(self.clip_norm, facts.parameters)?;
        let noise_multiplier = match self.noise {
            Noise::Multiplier(multiplier) => multiplier,
            Noise::Epsilon(epsilon) => {
                let budget = Budget::new(epsilon, self.delta)?;
                calibrate::noise(budget, self.calibrates(), |z| self.ledger(z, grid, facts))?
            }
        };
        let ledger = self.ledger(noise_multiplier, grid, facts)?;
        let whole = self.report(&ledger)?;
        let left =
            self.metrics.map_or(Ok(noise_multiplier), |metrics| metrics.update_noise(noise_multiplier))?;
        let update_noise = match self.adaptive {
            Some(adaptive) => QuantileClip::split(left, adaptive.count_noise)?,
            None => left,
        };
        let [before, each_round] = self.events(noise_multiplier, grid, facts)?;
        let gate = match self.noise {
            Noise::Epsilon(epsilon) => Some(self.gate(Budget::new(epsilon, self.delta)?, &ledger)?),
            Noise::Multiplier(_) => None,
        };
        let shares = self.shares(noise_multiplier, facts).map(Shares::checked).transpose()?;
        let strategy = (self.mechanism == MechanismKind::DpFtrl).then(|| self.correlation(facts));
        let own = self.own(noise_multiplier, facts);
        Ok(Plan {
            noise_multiplier,
            update_noise,
            grid,
            before,
            each_round,
            own,
            strategy,
            shares,
            gate,
            whole,
        })
    }

    /// A filter's conversion is Rényi's at one order, so that calibrating with it leaves nothing over.
    fn calibrates(&self) -> Option<crate::Accountant> {
        if self.stop == Stop::Filter { Some(crate::Accountant::Rdp) } else { self.accountant }
    }

    fn report(&self, ledger: &Ledger) -> Result<Report, PlanError> {
        let Some(accountant) = self.calibrates() else { return Ok(report::epsilon(ledger, self.delta, 1)) };
        match accountant.epsilon(ledger, self.delta, 1) {
            Ok(epsilon) => Ok(Report { epsilon, accountant }),
            Err(_) => Err(PlanError::Silent { name: accountant.name() }),
        }
    }

    fn gate(&self, budget: Budget, ledger: &Ledger) -> Result<Gate, PlanError> {
        let rule = match self.stop {
            Stop::Schedule => Rule::Schedule { accountant: self.accountant },
            Stop::Filter => Rule::Filter { measure: Filter::best_order(ledger, self.delta)? },
        };
        Ok(Gate { budget, rule })
    }

    fn ledger(&self, z: NoiseMultiplier, grid: Grid, facts: RunFacts) -> Result<Ledger, CalibrationError> {
        let mut ledger = Ledger::new(self.unit, self.adjacency);
        let [before, each_round] = self.events(z, grid, facts)?;
        if let Some(event) = before {
            ledger.record(event)?;
        }
        if let Some(event) = each_round {
            let count = event.count.saturating_mul(facts.rounds);
            ledger.record(Event { count, ..event })?;
        }
        Ok(ledger)
    }

    /// What a worker that adds its own noise pays for a round in which it takes part.
    fn own(&self, noise_multiplier: NoiseMultiplier, facts: RunFacts) -> Option<Event> {
        let (sampling, count) = match self.mechanism {
            MechanismKind::DpSgd => (self.sampling, facts.local_steps),
            MechanismKind::LocalGaussian => (Sampling::Everyone, NonZeroU64::MIN),
            _ => return None,
        };
        Some(Event { mechanism: Mechanism::Gaussian { noise_multiplier }, sampling, count })
    }

    /// What is paid before the first round, and in each.
    fn events(
        &self,
        z: NoiseMultiplier,
        grid: Grid,
        facts: RunFacts,
    ) -> Result<[Option<Event>; 2], ParameterError> {
        if self.participation.is_some() && self.mechanism != MechanismKind::DpSgd {
            let rounds = facts.rounds.get();
            let most = "at most 2^24 with a `participation` cap";
            crate::parameters::require(rounds <= MOST_ROUNDS, "rounds", rounds as f64, most)?;
        }
        let steps = if self.mechanism == MechanismKind::DpSgd { facts.local_steps } else { NonZeroU64::MIN };
        if let (Some(cap), MechanismKind::DpSgd) = (self.participation, self.mechanism) {
            // All steps of the rounds that a record's client may take part in.
            let rounds = cap.most.min(facts.rounds);
            let mechanism = Mechanism::Gaussian { noise_multiplier: z };
            let event = Event { mechanism, sampling: self.sampling, count: steps.saturating_mul(rounds) };
            return Ok([Some(event), None]);
        }
        if self.participation.is_some() {
            let mechanism = Mechanism::Correlated { noise_multiplier: z, strategy: self.correlation(facts) };
            let event = Event { mechanism, sampling: Sampling::Everyone, count: NonZeroU64::MIN };
            return Ok([Some(event), None]);
        }
        let mechanism = self.round_mechanism(z, grid, facts)?;
        Ok([None, Some(Event { mechanism, sampling: self.sampling, count: steps })])
    }

    fn round_mechanism(
        &self,
        z: NoiseMultiplier,
        grid: Grid,
        facts: RunFacts,
    ) -> Result<Mechanism, ParameterError> {
        if let Some(shares) = self.shares(z, facts) {
            return shares.mechanism();
        }
        Ok(match self.mechanism {
            MechanismKind::CentralGaussian | MechanismKind::LocalGaussian | MechanismKind::DpSgd => {
                Mechanism::Gaussian { noise_multiplier: z }
            }
            MechanismKind::DpFtrl => {
                Mechanism::Correlated { noise_multiplier: z, strategy: self.correlation(facts) }
            }
            // Shares have their own grid, above.
            _ => Mechanism::DiscreteGaussian {
                deviation: Positive::new((grid.variance(z)?.get() as f64).sqrt())?,
                sensitivity: grid.sensitivity(),
                dimensions: facts.parameters,
            },
        })
    }

    /// The strategy of a run with a cap; independent noise unless the section says otherwise.
    fn correlation(&self, facts: RunFacts) -> Strategy {
        let rounds = facts.rounds;
        let (most, separation) =
            self.participation.map_or((rounds, NonZeroU64::MIN), |cap| (cap.most, cap.separation));
        let participation = Participation { rounds, most: most.min(rounds), separation };
        match &self.strategy {
            Some(StrategyKind::Tree) => Strategy::Tree { longest: rounds },
            Some(StrategyKind::Toeplitz { factor }) => {
                Strategy::Toeplitz { factor: factor.clone(), participation }
            }
            None => Strategy::Toeplitz { factor: Factor::Banded { coefficients: vec![1.0] }, participation },
        }
    }

    /// The clipping norm as it moves, if it does.
    ///
    /// # Errors
    /// If the expected number of clients is out of bounds.
    pub fn adaptive_clip(&self, facts: RunFacts) -> Result<Option<AdaptiveClip>, ParameterError> {
        let expected = Positive::new(facts.clients.get() as f64)?;
        let start = |spec: super::AdaptiveSpec| {
            AdaptiveClip::new(spec.rule(), self.clip_norm, expected, spec.count_noise)
        };
        Ok(self.adaptive.map(start))
    }
}
