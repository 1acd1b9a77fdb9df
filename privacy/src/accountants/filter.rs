//! When a run must stop, also if its parameters are chosen after seeing earlier outputs.
//!
//! The contour and the grid assume a schedule that was fixed in advance. A filter does not: it fixes a
//! bound on the sum before the run and refuses the release that would exceed it (Rogers, Roth,
//! Ullman and Vadhan 2016). For one Rényi order chosen beforehand, and for ρ of zCDP, the sum of the
//! costs is such a bound (Feldman and Zrnic 2021, theorem 4.3; Whitehouse et al. 2023, theorem 1).

use serde::{Deserialize, Serialize};

use super::{rdp, report::Refusal, zcdp};
use crate::{Budget, Event, Ledger, ParameterError, numeric::search::bisect, parameters::require};

/// What a filter adds up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "RawMeasure")]
pub enum Measure {
    /// The Rényi divergence of one order.
    Renyi {
        /// α, above 1.
        order: f64,
    },
    /// ρ of zCDP, which sampling does not amplify.
    Concentrated,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum RawMeasure {
    Renyi { order: f64 },
    Concentrated,
}

impl TryFrom<RawMeasure> for Measure {
    type Error = ParameterError;

    fn try_from(raw: RawMeasure) -> Result<Self, ParameterError> {
        let measure = match raw {
            RawMeasure::Renyi { order } => Self::Renyi { order },
            RawMeasure::Concentrated => Self::Concentrated,
        };
        measure.check().map(|()| measure)
    }
}

impl Measure {
    fn check(self) -> Result<(), ParameterError> {
        let Self::Renyi { order } = self else { return Ok(()) };
        require(order > 1.0 && order < 1e6, "order", order, "a number above 1, below 1e6")
    }

    /// What suits Gaussian noise at this budget: the order `1 + √(ln(1/δ)/ρ)` for the ρ of zCDP that the
    /// budget allows. A function of the budget alone, for whoever does not know what will be asked for.
    ///
    /// # Errors
    /// If δ is 0.
    pub fn of(budget: Budget) -> Result<Self, ParameterError> {
        let (epsilon, delta) = (budget.epsilon(), budget.delta());
        require(delta > 0.0, "delta", delta, "a number above 0, for a filter")?;
        let ln = -delta.ln();
        let root = (ln + epsilon).sqrt() - ln.sqrt();
        Ok(Self::Renyi { order: (1.0 + ln.sqrt() / root).clamp(1.01, 999_999.0) })
    }

    fn epsilon(self, cost: f64, delta: f64) -> f64 {
        match self {
            Self::Renyi { order } => rdp::to_epsilon(cost, order, delta),
            Self::Concentrated => zcdp::epsilon(cost, delta),
        }
    }
}

/// A bound on the sum of the costs of all releases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    measure: Measure,
    bound: f64,
}

/// The next release would exceed the budget.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the release would bring the cost to {cost}, above the bound {bound}")]
pub struct Exceeded {
    /// Sum with the release.
    pub cost: f64,
    /// What it must not exceed.
    pub bound: f64,
}

/// Why a filter makes no decision, or a negative one.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// The budget is spent.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// The cost of an event is not known in this measure.
    #[error("the cost of an event is not known: {0}")]
    Unknown(#[from] Refusal),
    /// There is no such filter.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

impl Filter {
    /// The largest sum whose conversion stays within the budget.
    ///
    /// # Errors
    /// If δ is 0, the order is not above 1, or the budget is too small for any release.
    pub fn new(budget: Budget, measure: Measure) -> Result<Self, ParameterError> {
        let (epsilon, delta) = (budget.epsilon(), budget.delta());
        require(delta > 0.0, "delta", delta, "a number above 0, for a filter")?;
        measure.check()?;
        let (bound, _) = bisect(0.0, epsilon + 1e3, 200, |cost| measure.epsilon(cost, delta) <= epsilon);
        // Below that only the total variation bounds ε: no release has so small a cost.
        let useful = bound > 4.0 * delta * delta;
        require(useful, "epsilon", epsilon, "an ε that this order reaches at this δ")?;
        Ok(Self { measure, bound })
    }

    /// The order that suits a planned ledger best at δ: choose it before the run.
    ///
    /// # Errors
    /// If no bound is known for an event.
    pub fn best_order(planned: &Ledger, delta: f64) -> Result<Measure, Refusal> {
        rdp::epsilon(planned, delta, 1).map(|best| Measure::Renyi { order: best.order })
    }

    /// ε of a sum at δ, by this measure alone.
    pub fn epsilon(self, cost: f64, delta: f64) -> f64 {
        if cost <= 0.0 { 0.0 } else { self.measure.epsilon(cost, delta).max(0.0) }
    }

    /// The bound on the sum.
    pub fn bound(self) -> f64 {
        self.bound
    }

    /// The cost of a ledger.
    ///
    /// # Errors
    /// If it is not known for an event.
    pub fn cost(self, ledger: &Ledger) -> Result<f64, Refusal> {
        match self.measure {
            Measure::Renyi { order } => rdp::divergence(ledger, order, 1),
            Measure::Concentrated => zcdp::rho(ledger, 1).ok_or(Refusal::NoDominatingPair),
        }
    }

    /// Whether `event` may follow what the ledger holds.
    ///
    /// # Errors
    /// If it may not, or its cost is not known.
    pub fn admit(self, ledger: &Ledger, event: &Event) -> Result<(), FilterError> {
        let mut next = ledger.clone();
        if next.record(event.clone()).is_err() {
            return Err(FilterError::Unknown(Refusal::NoDominatingPair));
        }
        let cost = self.cost(&next)?;
        if cost > self.bound { Err(Exceeded { cost, bound: self.bound }.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::{Adjacency, Mechanism, NoiseMultiplier, Probability, Sampling, Unit};

    fn event(z: f64, rate: Option<f64>) -> Event {
        let sampling = rate
            .map_or(Sampling::Everyone, |rate| Sampling::Poisson { rate: Probability::new(rate).unwrap() });
        let mechanism = Mechanism::Gaussian { noise_multiplier: NoiseMultiplier::new(z).unwrap() };
        Event { mechanism, sampling, count: NonZeroU64::MIN }
    }

    /// Each event is chosen by looking at how much is left: the sum still never exceeds the bound, and the
    /// bound is reached.
    #[test]
    fn a_chooser_that_sees_what_is_left_cannot_exceed_the_bound() {
        let budget = Budget::new(3.0, 1e-6).unwrap();
        for measure in [Measure::Renyi { order: 8.0 }, Measure::Concentrated] {
            let filter = Filter::new(budget, measure).unwrap();
            let mut ledger = Ledger::new(Unit::Client, Adjacency::ZeroOut);
            for step in 0..2000 {
                let left = filter.bound() - filter.cost(&ledger).unwrap();
                let next = event(
                    6.0 + f64::from(step % 7) + 0.01 / left.max(1e-3),
                    Some(0.5).filter(|_| step % 3 == 0),
                );
                match filter.admit(&ledger, &next) {
                    Ok(()) => ledger.record(next).unwrap(),
                    Err(FilterError::Exceeded(exceeded)) => {
                        assert!(exceeded.cost > exceeded.bound);
                        break;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            let cost = filter.cost(&ledger).unwrap();
            assert!(cost <= filter.bound() && cost > 0.8 * filter.bound(), "{cost} {filter:?}");
            let spent = filter.epsilon(cost, budget.delta());
            assert!(spent <= budget.epsilon(), "{spent}");
            assert!(rdp::epsilon(&ledger, budget.delta(), 1).unwrap().epsilon <= budget.epsilon());
        }
    }

    #[test]
    fn a_filter_without_a_meaning_is_refused() {
        let budget = Budget::new(3.0, 1e-6).unwrap();
        for order in [1.0, 0.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Filter::new(budget, Measure::Renyi { order }).unwrap_err().parameter, "order");
        }
        let pure = Budget::new(3.0, 0.0).unwrap();
        assert_eq!(Filter::new(pure, Measure::Concentrated).unwrap_err().parameter, "delta");
        // At order 2 and this δ no ε below 13 can be stated at all.
        let low = Budget::new(0.1, 1e-6).unwrap();
        assert_eq!(Filter::new(low, Measure::Renyi { order: 2.0 }).unwrap_err().parameter, "epsilon");
        let mut planned = Ledger::new(Unit::Client, Adjacency::ZeroOut);
        planned.record(event(4.0, None)).unwrap();
        let Measure::Renyi { order } = Filter::best_order(&planned, 1e-6).unwrap() else { panic!() };
        assert!(order > 10.0 && order < 40.0, "{order}");
    }
}
