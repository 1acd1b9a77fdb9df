//! What differs in a private run. The cohort is drawn by secret coins: nobody stands in for a worker that
//! does not answer, a round closes with whatever came, even with nothing, and a round that was given up
//! is opened again with the same coins. Whoever took part as often as was paid for is not asked again.

use super::{Action, End, Machine, Opening, Phase};
use crate::private::Secret;

impl Machine {
    /// Whether a secret must be lent before the next event.
    pub fn needs_secret(&self) -> bool {
        self.rules.noised && self.fresh.is_none()
    }

    /// Lends a secret, drawn from the operating system, for the next round that opens.
    pub fn lend(&mut self, secret: Secret) {
        self.fresh = Some(secret);
    }

    /// The secret of the open round.
    pub fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// The durable fact that a round is open, or that its coins are thrown.
    pub fn opening(&self) -> Option<Opening> {
        if self.cohort.is_empty() && self.secret.is_none() {
            return None;
        }
        Some(Opening { round: self.round, cohort: self.drawn(), secret: self.secret.clone() })
    }

    /// How often each worker was counted.
    pub fn participations(&self) -> &std::collections::BTreeMap<String, u64> {
        &self.participations
    }

    /// That of a round that was given up, or the fresh one.
    pub(super) fn next_secret(&self) -> Option<&Secret> {
        self.secret.as_ref().or(self.fresh.as_ref()).filter(|_| self.rules.noised)
    }

    /// The next round has it from now on.
    pub(super) fn use_secret(&mut self) {
        if self.rules.noised && self.secret.is_none() {
            self.secret = self.fresh.take();
        }
    }

    /// How many updates a round must have to be committed.
    pub(super) fn needed(&self) -> usize {
        if self.rules.rate.is_some() { 0 } else { self.rules.min_updates }
    }

    /// Whether the cap on a worker's rounds lets it take part in the next one.
    pub(super) fn has_rounds_left(&self, worker: &str) -> bool {
        let Some((most, separation)) = self.rules.cap else { return true };
        let taken = self.participations.get(worker).copied().unwrap_or(0);
        let far = self.committed.get(worker).is_none_or(|last| self.round - last >= separation);
        taken < most && far
    }

    pub(super) fn spend(&mut self, round: u64, reason: String, out: &mut Vec<Action>) {
        if round > self.round || self.phase == Phase::Evaluating {
            // `advance` ends the run.
            self.spent = Some(reason);
        } else {
            self.end(End::Exhausted(reason), out);
        }
    }
}
