//! What a worker pays for rounds in which it adds noise itself, and what its owner allows.

use super::Ended;
use crate::{
    client_state::Pending,
    ledger::{LedgerFault, Ledgers, Payment},
    message::Assignment,
    trainer::{Private, Promise, draw_key},
};
use algorithms::Algorithm;
use privacy::{Budget, Gate, Rule, accountants::filter::Measure};
use proto::{spec::RunSpec, v1::DeclineReason};
use std::{collections::BTreeMap, sync::Arc};

/// Ledgers, budgets, and the promise of the last run.
pub(in crate::driver) struct Account {
    ledgers: Ledgers,
    budgets: BTreeMap<String, Budget>,
    last: Option<(Arc<RunSpec>, usize, Option<Arc<Promise>>)>,
}

impl From<LedgerFault> for Ended {
    fn from(error: LedgerFault) -> Self {
        Self::Declined(DeclineReason::Privacy, error.to_string())
    }
}

impl Account {
    pub(in crate::driver) fn new(ledgers: Ledgers, budgets: BTreeMap<String, Budget>) -> Self {
        Self { ledgers, budgets, last: None }
    }

    fn promise(
        &mut self,
        spec: &Arc<RunSpec>,
        algorithm: &dyn Algorithm,
        length: usize,
    ) -> Result<Option<Arc<Promise>>, Ended> {
        if let Some((_, _, promise)) = self.last.as_ref().filter(|(of, l, _)| of == spec && *l == length) {
            return Ok(promise.clone());
        }
        let made = Promise::of(spec, algorithm, length);
        let made = made.map_err(|error| Ended::Declined(DeclineReason::Spec, error.to_string()))?;
        let promise = made.map(Arc::new);
        self.last = Some((Arc::clone(spec), length, promise.clone()));
        Ok(promise)
    }

    /// A secret for one local run, if this worker adds noise in it.
    pub(super) fn private(
        &mut self,
        spec: &Arc<RunSpec>,
        algorithm: &dyn Algorithm,
        length: usize,
    ) -> Result<Option<Private>, Ended> {
        let Some(promise) = self.promise(spec, algorithm, length)? else { return Ok(None) };
        Ok(Some(Private::new(promise, draw_key()?)))
    }

    /// Whether the round fits what the ledger has left, before anything is computed.
    pub(super) fn admit(
        &mut self,
        order: &Assignment,
        algorithm: &dyn Algorithm,
        length: usize,
    ) -> Result<(), Ended> {
        let data = &order.spec.data.name;
        match self.promise(&order.spec, algorithm, length)? {
            Some(promise) => Ok(self.ledgers.admit(&self.payment(order, &promise)?)?),
            None if self.budgets.contains_key(data) => Err(Ended::Declined(
                DeclineReason::Privacy,
                format!(
                    "this worker's owner has set a privacy budget for `{data}`, so that it takes part only in runs \
                     whose workers add the noise: `dp_sgd` or `local_gaussian`"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Pays for an upload before it is offered: once, however often it is.
    pub(super) fn pay(
        &mut self,
        order: &Assignment,
        algorithm: &dyn Algorithm,
        (length, pending): (usize, &Pending),
    ) -> Result<(), Ended> {
        let Some(promise) = self.promise(&order.spec, algorithm, length)? else { return Ok(()) };
        let payment = self.payment(order, &promise)?;
        Ok(self.ledgers.pay(&payment, &pending.digest.to_string())?)
    }

    fn payment(&self, order: &Assignment, promise: &Promise) -> Result<Payment, Ended> {
        let (spec, dataset) = (promise.spec(), order.spec.data.name.clone());
        let own = self.budgets.get(&dataset).map(|budget| {
            // Of what will be asked for nothing is known: the order follows from the budget alone.
            let measure = Measure::of(*budget)
                .map_err(|error| Ended::Declined(DeclineReason::Privacy, error.to_string()))?;
            Ok::<_, Ended>(Gate { budget: *budget, rule: Rule::Filter { measure } })
        });
        let gates = promise.plan().gate.into_iter().chain(own.transpose()?).collect();
        Ok(Payment {
            dataset,
            run: order.run.to_string(),
            round: order.round + 1,
            unit: spec.unit(),
            adjacency: spec.adjacency(),
            event: promise.cost().clone(),
            gates,
        })
    }
}
