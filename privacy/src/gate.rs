//! Whether the next release may happen: asked at submission and again before every release.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{
    Accountant, Budget, Event, Ledger, LedgerError, Report,
    accountants::{
        calibrate::{self, CalibrationError},
        filter::{Filter, FilterError, Measure},
        report,
    },
    parameters::Short,
};

/// How the cost of what was released is summed up for the decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// The events were fixed before the run: by one accountant, or by the least ε of all.
    Schedule {
        /// Which; the best one if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accountant: Option<Accountant>,
    },
    /// Events may be chosen after seeing what was released: by a sum that was bounded before the run.
    Filter {
        /// What is summed. Must not change during a run.
        measure: Measure,
    },
}

/// A budget and how it is watched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// What must not be exceeded.
    pub budget: Budget,
    /// How it is summed up.
    pub rule: Rule,
}

/// Why a release must not happen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GateError {
    /// The budget would be exceeded.
    #[error(
        "the release would bring ε to {} at δ = {:e}, above the budget of {} (by the accountant `{}`)",
        Short(.after.epsilon), .budget.delta(), Short(.budget.epsilon()), .after.accountant.name()
    )]
    Exceeded {
        /// ε with the release.
        after: Report,
        /// The budget.
        budget: Budget,
    },
    /// The sum that was bounded before the run would exceed its bound.
    #[error("{error}, which ε = {} at δ = {:e} allows", Short(.budget.epsilon()), .budget.delta())]
    Filtered {
        /// What the filter said.
        error: FilterError,
        /// The budget.
        budget: Budget,
    },
    /// The event makes no sense in this ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Gate {
    /// ε of what a ledger holds, as this gate counts it; infinite where its accountant makes no statement.
    pub fn epsilon(&self, ledger: &Ledger) -> Report {
        let delta = self.budget.delta();
        match self.rule {
            Rule::Schedule { accountant: None } => report::epsilon(ledger, delta, 1),
            Rule::Schedule { accountant: Some(accountant) } => {
                let epsilon = accountant.epsilon(ledger, delta, 1).unwrap_or(f64::INFINITY);
                Report { epsilon, accountant }
            }
            Rule::Filter { measure } => {
                let epsilon = Filter::new(self.budget, measure)
                    .ok()
                    .and_then(|filter| Some(filter.epsilon(filter.cost(ledger).ok()?, delta)));
                Report { epsilon: epsilon.unwrap_or(f64::INFINITY), accountant: Accountant::Rdp }
            }
        }
    }

    /// ε after the event, if it may happen.
    ///
    /// # Errors
    /// If it may not, with the ε that it would bring.
    pub fn admit(&self, ledger: &Ledger, event: &Event) -> Result<Report, GateError> {
        let mut next = ledger.clone();
        next.record(event.clone())?;
        let (budget, after) = (self.budget, self.epsilon(&next));
        if let Rule::Filter { measure } = self.rule {
            let filter = Filter::new(budget, measure).map_err(FilterError::Parameter);
            filter
                .and_then(|filter| filter.admit(ledger, event))
                .map_err(|error| GateError::Filtered { error, budget })?;
            return Ok(after);
        }
        // An ε that is no number must not pass.
        if after.epsilon <= budget.epsilon() { Ok(after) } else { Err(GateError::Exceeded { after, budget }) }
    }

    /// Whether the event must not happen.
    pub fn would_exceed(&self, ledger: &Ledger, event: &Event) -> bool {
        self.admit(ledger, event).is_err()
    }

    /// The largest number of applications of the event that fits; 0 if not even one does.
    ///
    /// # Errors
    /// If the event makes no sense in the ledger.
    pub fn rounds(&self, ledger: &Ledger, event: &Event) -> Result<u64, GateError> {
        if let Rule::Schedule { accountant } = self.rule {
            return match calibrate::rounds(ledger, event, self.budget, accountant) {
                Ok(rounds) => Ok(rounds.get()),
                Err(CalibrationError::Ledger(error)) => Err(error.into()),
                Err(_) => Ok(0),
            };
        }
        let fits = |n: u64| {
            NonZeroU64::new(n)
                .is_some_and(|count| self.admit(ledger, &Event { count, ..event.clone() }).is_ok())
        };
        ledger.clone().record(event.clone())?;
        if !fits(1) {
            return Ok(0);
        }
        let doublings = (1..53).take_while(|power| fits(1 << power)).count();
        let (mut low, mut high) = (1_u64 << doublings, 2_u64 << doublings);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adjacency, Mechanism, NoiseMultiplier, Probability, Sampling, Unit};

    fn round() -> Event {
        Event {
            mechanism: Mechanism::Gaussian { noise_multiplier: NoiseMultiplier::new(1.0).unwrap() },
            sampling: Sampling::Poisson { rate: Probability::new(0.01).unwrap() },
            count: NonZeroU64::MIN,
        }
    }

    fn gates() -> Vec<Gate> {
        let budget = Budget::new(2.0, 1e-5).unwrap();
        let mut planned = Ledger::new(Unit::Client, Adjacency::ZeroOut);
        planned.record(Event { count: NonZeroU64::new(1500).unwrap(), ..round() }).unwrap();
        let measure = Filter::best_order(&planned, 1e-5).unwrap();
        let rules = [
            Rule::Schedule { accountant: None },
            Rule::Schedule { accountant: Some(Accountant::Rdp) },
            Rule::Filter { measure },
        ];
        rules.map(|rule| Gate { budget, rule }).to_vec()
    }

    #[test]
    fn what_fits_is_admitted_and_one_more_is_not() {
        let mut most = Vec::new();
        for gate in gates() {
            let mut ledger = Ledger::new(Unit::Client, Adjacency::ZeroOut);
            let rounds = gate.rounds(&ledger, &round()).unwrap();
            most.push(rounds);
            let whole = Event { count: NonZeroU64::new(rounds).unwrap(), ..round() };
            let after = gate.admit(&ledger, &whole).unwrap();
            assert!(after.epsilon <= 2.0 && after.epsilon > 1.95, "{gate:?} {after:?}");
            ledger.record(whole).unwrap();
            assert!(gate.would_exceed(&ledger, &round()), "{gate:?}");
            assert_eq!(gate.rounds(&ledger, &round()), Ok(0));
            let message = gate.admit(&ledger, &round()).unwrap_err().to_string();
            assert!(message.contains("above") && message.contains("1e-5"), "{message}");
        }
        // The filter pays for being valid under adaptive choice, and for having one order.
        assert!(most[0] > most[1] && most[1] >= most[2] && most[2] > 100, "{most:?}");
    }

    #[test]
    fn an_accountant_without_a_statement_admits_nothing() {
        let gate = Gate {
            budget: Budget::new(1e6, 1e-5).unwrap(),
            rule: Rule::Schedule { accountant: Some(Accountant::Pure) },
        };
        let ledger = Ledger::new(Unit::Client, Adjacency::ZeroOut);
        assert!(gate.would_exceed(&ledger, &round()));
        assert_eq!(gate.rounds(&ledger, &round()), Ok(0));
    }

    #[test]
    fn gates_survive_a_round_trip() {
        for gate in gates() {
            let text = serde_json::to_string(&gate).unwrap();
            assert_eq!(serde_json::from_str::<Gate>(&text).unwrap(), gate);
        }
        let bad = r#"{"budget":{"epsilon":2,"delta":1e-5},"rule":{"kind":"filter","measure":{"kind":"renyi","order":0.5}}}"#;
        assert!(serde_json::from_str::<Gate>(bad).unwrap_err().to_string().contains("order"));
    }
}
