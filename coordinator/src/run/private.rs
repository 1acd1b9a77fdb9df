//! The actor's part in private runs: sums instead of means, secrets for the machine, payments for the
//! ledger, and what the log may tell.

use super::{Delivery, actor::Actor, aggregate::Refusal};
use crate::{
    machine::{Action, Event},
    private::{Guard, Secret, Sum, redact, redact_metrics},
    store::{Payment, RunRecord},
};
use algorithms::{RoundFacts, Vectors};
use privacy::{metrics::Told, rotation::Rotation};
use proto::event::{Metrics, RunEvent};
use std::sync::Arc;

const STANDING: &str = "the record of a private run lacks its standing";

/// A private run's guard, and the sum of the open round.
#[derive(Debug)]
pub(crate) struct Private {
    pub(super) guard: Arc<Guard>,
    sum: Option<Sum>,
}

/// What a commit needs to make a release of a sum.
#[derive(Debug)]
pub(crate) struct Noise {
    guard: Arc<Guard>,
    sum: Option<Sum>,
    /// `None`: the noise comes with the updates, under this public rotation.
    secret: Option<Secret>,
    rotation: Rotation,
    round: u64,
    lr: f32,
}

impl Noise {
    /// The means of the folds, with noise, and what may be told of the round; moves the run's standing. A
    /// function of what was stored with the opening: whoever tries again gets the same bits.
    pub(super) fn means(self, record: &mut RunRecord) -> Result<(Vectors, Option<Told>), String> {
        let standing = record.privacy.as_mut().ok_or(STANDING)?;
        let sum = self.sum.map_or_else(|| self.guard.sum(standing), Ok)?;
        let Some(secret) = &self.secret else {
            return Ok((self.guard.release_shares(&sum, self.lr, self.rotation)?, None));
        };
        let told = self.guard.tell(&sum, self.round, secret)?;
        Ok((self.guard.release(standing, sum, (self.round, self.lr), secret)?, told))
    }
}

impl Private {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, sum: None }
    }
}

/// What a release of a run costs.
pub(crate) fn payment(guard: &Guard, dataset: &str, round: u64) -> Payment {
    let spec = guard.spec();
    Payment {
        dataset: dataset.to_owned(),
        unit: spec.unit(),
        adjacency: spec.adjacency(),
        round,
        event: guard.cost(round).cloned(),
        gate: guard.plan().gate,
        delta: spec.delta(),
    }
}

impl Actor {
    /// What the machine says to an event; secrets are lent before.
    pub(super) fn decide(&mut self, mut event: Event) -> Vec<Action> {
        if self.machine.needs_secret() {
            match Secret::draw() {
                Ok(secret) => self.machine.lend(secret),
                Err(reason) => event = Event::Failed { reason },
            }
        }
        self.machine.handle(event, self.parts.clock.now())
    }

    /// Adds an update to the sum of the round, if it keeps to the bound.
    pub(super) async fn sum_up(
        &mut self,
        values: Vec<f32>,
        loss: Option<f64>,
    ) -> Result<Option<Refusal>, String> {
        let standing = self.record.privacy.as_ref().ok_or(STANDING)?;
        let Some(private) = &mut self.private else { return Ok(None) };
        let mut sum = private.sum.take().map_or_else(|| private.guard.sum(standing), Ok)?;
        let (shared, guard) = (Arc::clone(&self.shared), Arc::clone(&private.guard));
        let added = tokio::task::spawn_blocking(move || {
            let added = sum.add(&values);
            if added.is_ok() {
                guard.count(&mut sum, loss);
            }
            shared.buffers.give(values);
            (sum, added)
        });
        let (sum, added) = added.await.map_err(|error| format!("folding failed: {error}"))?;
        private.sum = Some(sum);
        Ok(added.err())
    }

    /// Whether updates go into a sum that gets noise here.
    pub(super) fn sums_up(&self) -> bool {
        self.private.as_ref().is_some_and(|private| private.guard.adds_noise())
    }

    /// The norm to which workers shorten what they send to such a sum.
    pub(super) fn clip_norm(&self) -> Option<f64> {
        let asked = self.shared.spec.has_central_noise();
        let standing = self.record.privacy.as_ref().filter(|_| asked);
        standing.map(|standing| standing.norm.get())
    }

    /// Hides what nobody paid for.
    pub(super) fn discreet(&self, upload: &mut Delivery) {
        if self.private.is_some() {
            (upload.facts.train_loss, upload.facts.examples) = (None, 1);
        }
    }

    pub(super) fn drop_sum(&mut self) {
        if let Some(private) = &mut self.private {
            private.sum = None;
        }
    }

    /// The event as the log may have it.
    pub(super) fn sayable(&self, event: RunEvent) -> Option<RunEvent> {
        if self.private.as_ref().is_some_and(|private| private.guard.hides_cohort()) {
            return redact(event);
        }
        Some(event)
    }

    /// Whether who is in the cohort is a secret.
    pub(super) fn hides_cohort(&self) -> bool {
        self.private.as_ref().is_some_and(|private| private.guard.hides_cohort())
    }

    pub(super) fn forget_secrets(&mut self) {
        self.record.opening = None;
        if let Some(standing) = &mut self.record.privacy {
            standing.stream = None;
        }
    }

    /// What the commit of a round adds and pays, and the facts that the rule may know: none that would tell
    /// who took part.
    pub(super) fn noise(&mut self, round: u64) -> Option<Noise> {
        let secret = self.machine.secret().cloned();
        let (lr, rotation) = (self.shared.spec.lr(round), self.shared.spec.rotation(round));
        let private = self.private.as_mut().filter(|private| private.guard.adds_noise())?;
        let guard = Arc::clone(&private.guard);
        let drawn = guard.has_shares() || secret.is_some();
        assert!(drawn, "a round with noise was opened with its secret");
        Some(Noise { guard, sum: private.sum.take(), secret, rotation, round, lr })
    }

    pub(super) fn payment(&self, round: u64) -> Option<Payment> {
        let private = self.private.as_ref()?;
        Some(payment(&private.guard, &self.shared.spec.data.name, round + 1))
    }

    pub(super) fn facts(&self, facts: RoundFacts) -> RoundFacts {
        let private = self.private.as_ref().filter(|private| private.guard.adds_noise());
        private.map_or(facts, |private| private.guard.round_facts())
    }

    pub(super) fn discreet_metrics(&self, metrics: &mut Metrics) {
        if self.hides_cohort() {
            redact_metrics(metrics);
        }
    }
}
