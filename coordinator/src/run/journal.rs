//! The actor's writing: the event log, the durable record, what watchers are told, and the end.

use super::actor::Actor;
use crate::{
    health::Part,
    machine::End,
    store::{Stored, StoredEvent},
    view,
};
use proto::{
    event::RunEvent,
    v1::{self, coordinator_message::Body},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

impl Actor {
    pub(super) fn publish_metrics(&mut self) {
        while let Some(metrics) = self.pending.pop() {
            if let Err(error) = self.parts.store.append(&self.shared.id, &[], Some(&metrics)) {
                tracing::error!(%error, "metrics cannot be written");
                self.parts.health.failed(Part::Store, &error.to_string());
            }
            self.shared.told.store(metrics.round + 1, Ordering::Relaxed);
            self.publish(RunEvent::RoundMetrics { metrics });
        }
    }

    pub(super) fn publish(&mut self, event: RunEvent) {
        let Some(event) = self.sayable(event) else { return };
        view::log_event(&self.shared.id, &event);
        if let RunEvent::UpdateRejected { reason, .. } = &event {
            *self.rejections.entry(reason.clone()).or_default() += 1;
        }
        self.parts.fleet.count_event(&event);
        let time_ms = self.parts.clock.unix_ms();
        self.events.push(StoredEvent { sequence: self.next_sequence, time_ms, event });
        self.next_sequence += 1;
        self.stale = true;
    }

    /// Writes the record with the events so far; waits until the disk takes it.
    pub(super) async fn persist(&mut self) {
        self.record.members.clone_from(self.machine.members());
        if let Stored::Active {} | Stored::Paused {} = self.record.state {
            self.record.state = if self.machine.is_paused() { Stored::Paused {} } else { Stored::Active {} };
        }
        if self.committing {
            self.persist_due = true;
            return;
        }
        self.record.opening = self.machine.opening();
        if let Some(ongoing) = self.machine.ongoing() {
            self.record.follow(ongoing, false);
            self.record.committed.clone_from(self.machine.committed());
        }
        let events = std::mem::take(&mut self.events);
        let mut pause = Duration::from_millis(500);
        loop {
            let (store, record, batch) = (Arc::clone(&self.parts.store), self.record.clone(), events.clone());
            let saved = tokio::task::spawn_blocking(move || store.save(&record, &batch, None)).await;
            let error = match saved {
                Ok(Ok(())) => break self.parts.health.works(Part::Store),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(run = self.shared.id, error, "the store failed; trying again in {pause:?}");
            self.parts.health.failed(Part::Store, &error);
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
            }
        }
        self.announce();
    }

    /// Writes events without a sync and tells those who watch.
    pub(super) fn flush(&mut self) {
        if !self.events.is_empty() {
            match self.parts.store.append(&self.shared.id, &self.events, None) {
                Ok(()) => self.events.clear(),
                Err(error) => {
                    tracing::error!(%error, "events cannot be written; they are kept in memory");
                    self.parts.health.failed(Part::Store, &error.to_string());
                }
            }
        }
        self.announce();
    }

    pub(super) fn announce(&mut self) {
        let summary = view::summary(&self.record, &self.machine);
        self.summary.send_if_modified(|old| {
            let changed = *old != summary;
            *old = summary;
            changed
        });
        if std::mem::take(&mut self.stale) && self.events.is_empty() {
            let ended = !matches!(self.record.state, Stored::Active {} | Stored::Paused {});
            self.log.send_replace((self.next_sequence, ended));
        }
    }

    /// Ends the run once every line of its metrics is out.
    pub(super) async fn finish_if_due(&mut self) {
        let waits =
            matches!(self.ending, Some(End::Finished | End::Exhausted(_))) && !self.pending.is_empty();
        let Some(end) = self.ending.take_if(|_| !waits) else { return };
        let (state, event, told) = match end {
            End::Finished => {
                let model_digest = self.record.vectors[algorithms::MODEL];
                let event = RunEvent::Finished { rounds: self.record.round, model_digest };
                (Stored::Finished {}, event, v1::AbandonReason::Finished)
            }
            End::Cancelled => (Stored::Cancelled {}, RunEvent::Cancelled {}, v1::AbandonReason::Cancelled),
            End::Exhausted(reason) => {
                let (rounds, model_digest) = (self.record.round, self.record.vectors[algorithms::MODEL]);
                let event = RunEvent::Exhausted { rounds, reason: reason.clone(), model_digest };
                (Stored::Exhausted { reason }, event, v1::AbandonReason::Finished)
            }
            End::Failed(reason) => {
                let event = RunEvent::Failed { reason: reason.clone() };
                (Stored::Failed { reason }, event, v1::AbandonReason::Failed)
            }
        };
        self.release();
        self.forget_secrets();
        self.record.state = state;
        self.publish(event);
        self.persist().await;
        let (run, round) = (self.shared.id.clone(), self.record.round);
        for worker in self.machine.members() {
            let body = Body::Abandon(v1::Abandon { run: run.clone(), round, reason: told.into() });
            self.send(worker, body);
        }
    }
}
