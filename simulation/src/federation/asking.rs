//! Assignments of the virtual coordinator, as `coordinator::run::Actor` makes them.

use super::Federation;
use crate::Millis;
use algorithms::MODEL;
use std::{sync::Arc, time::Duration};
use worker::message::{Assignment, Command};

impl Federation {
    pub(super) fn assign(&mut self, worker: &str, round: u64, committed: Option<u64>, remaining_ms: Millis) {
        self.check_assignment(worker, round);
        let model = self.server.record.versions.get(&round).copied();
        let old = model.and_then(|digest| self.server.named(MODEL, digest));
        let names = std::iter::once(MODEL).chain(self.algorithm.down().iter().copied());
        let now = names.filter_map(|name| match (name, &old) {
            (MODEL, Some(old)) => Some(old.clone()),
            _ => self.server.wanted(name),
        });
        let then = committed.and_then(|round| self.server.record.recalled.get(&round));
        let again = then.into_iter().flat_map(|then| {
            let named = |(name, under): &(&str, &str)| self.server.named(under, *then.get(*name)?);
            self.algorithm.recalled().iter().filter_map(named)
        });
        let vectors = now.chain(again).collect();
        let clip_norm = self.norm_for(round);
        let assignment = Assignment {
            run: self.server.run.clone(),
            round,
            spec: Arc::clone(&self.spec),
            lr: self.spec.lr(round),
            committed,
            vectors,
            clip_norm,
            remaining: Duration::from_millis(remaining_ms),
        };
        self.tell(worker, Command::Assign(Box::new(assignment)));
    }
}
