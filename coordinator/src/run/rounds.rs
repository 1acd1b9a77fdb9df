//! The actor's part in closing rounds: handing the commit to a blocking thread, taking its result,
//! and evaluating the committed model beside the next round.

use super::{
    Command,
    actor::Actor,
    commit::{Done, Job, Refused},
    metrics::Evaluated,
};
use crate::{
    machine::{Action, Counted, Event},
    store::RunRecord,
};
use algorithms::{RoundFacts, Vector, average::Average};
use proto::{
    digest::Digest,
    event::{Metrics, RunEvent},
    v1::VectorRef,
};
use std::{collections::BTreeMap, sync::Arc};

impl Actor {
    /// Starts the blocking part of a commit.
    pub(super) fn commit(&mut self, action: Action) {
        let Action::Commit { round, counted, population, population_before, rejected, opened_at } = action
        else {
            return;
        };
        // Without rounds, what is on its way is for the next version.
        if !self.shared.is_asynchronous() {
            self.shared.drop_parked();
        }
        // Later events are written while the commit is under way: the log must not get ahead of these.
        self.flush();
        let record = self.record_after(round, &counted, population);
        let noise = self.noise(round);
        let (bytes_down, bytes_up) = self.shared.take_bytes();
        let seconds = self.parts.clock.now().saturating_sub(opened_at) as f64 / 1_000.0;
        let mut metrics = Metrics {
            round,
            seconds,
            participants: counted.len(),
            rejected,
            train_loss: train_loss(&counted),
            eval_loss: None,
            eval_accuracy: None,
            federated_loss: None,
            federated_accuracy: None,
            clients: None,
            bytes_down,
            bytes_up,
            averages: BTreeMap::new(),
            epsilon: None,
            asynchronous: self.asynchrony(seconds),
            model_digest: self.record.vectors[algorithms::MODEL],
        };
        self.discreet_metrics(&mut metrics);
        self.committing = true;
        let job = Job {
            shared: Arc::clone(&self.shared),
            store: Arc::clone(&self.parts.store),
            health: self.parts.health.clone(),
            stop: self.parts.stop.clone(),
            algorithm: Arc::clone(&self.algorithm),
            accumulators: std::mem::take(&mut self.accumulators),
            spool: self.spool.take(),
            batch: self.batch(),
            facts: self.facts(RoundFacts { included: counted.len(), population, population_before }),
            noise,
            payment: self.payment(round),
            record,
            events: std::mem::take(&mut self.events),
            metrics,
        };
        let own = self.own.clone();
        self.work.spawn(async move {
            // A panic in the job ends this task with a JoinError, which the loop above reports.
            let done =
                tokio::task::spawn_blocking(move || job.run()).await.expect("the commit did not panic");
            if let Some(done) = done {
                let _ = own.send(Command::Committed(Box::new((round, done)))).await;
            }
        });
    }

    /// The record as the commit of a round shall leave it, but for its vectors.
    fn record_after(&self, round: u64, counted: &[Counted], population: usize) -> RunRecord {
        let mut record = self.record.clone();
        if let Some(ongoing) = self.machine.ongoing() {
            record.follow(ongoing, true);
        }
        record.round = round + 1;
        record.opening = None;
        record.members.clone_from(self.machine.members());
        record.population_before = population;
        if self.shared.is_asynchronous() {
            record.committed.clone_from(self.machine.committed());
        } else {
            record.committed.extend(counted.iter().map(|counted| (counted.worker.clone(), round)));
        }
        if self.machine.rules().cap.is_some() {
            for counted in counted {
                *record.participations.entry(counted.worker.clone()).or_default() += 1;
            }
        }
        record.profile(counted);
        record
    }

    pub(super) async fn committed(&mut self, round: u64, done: Result<Done, Refused>) {
        let Done { record, metrics, model, averages, accumulators, last } = match done {
            Ok(done) => done,
            Err(refused) => {
                self.committing = false;
                let Refused { spent, reason, events } = refused;
                self.events.splice(0..0, events);
                let event = if spent { Event::Spent { round, reason } } else { Event::Failed { reason } };
                self.handle(event).await;
                return self.deliver_held().await;
            }
        };
        let digest = metrics.model_digest;
        self.committing = false;
        self.timers.retain(|(_, token)| !token.is_over(round) && !self.machine.is_void(token));
        // An operator may have paused or cancelled the run meanwhile.
        let state = std::mem::replace(&mut self.record, record).state;
        self.record.state = state;
        self.progress.clear();
        let due = is_due(self.shared.spec.evaluation.every, round, self.shared.spec.rounds);
        let central = due && self.shared.spec.evaluation.central;
        let federated = due && self.shared.spec.evaluation.federated;
        self.pending.insert(metrics, central, federated);
        self.accumulators = accumulators;
        if central {
            self.evaluate(round, model, averages);
        } else {
            self.shared.reuse(averages.into_iter().map(|(_, average)| average).chain([model]));
        }
        self.publish_metrics();
        self.parts.fleet.collect_vectors(&self.shared.id, self.record.digests());
        if let Some(reason) = last {
            self.handle(Event::Spent { round: round + 1, reason }).await;
        }
        self.handle(Event::Committed { round, digest }).await;
        self.deliver_held().await;
        if self.machine.cohort().is_empty() {
            // Nothing is on its way: the memory is not needed soon.
            self.release();
        }
        if std::mem::take(&mut self.persist_due) {
            self.persist().await;
        }
    }

    pub(super) fn evaluate(&mut self, round: u64, model: Vector, averages: Vec<(Average, Vector)>) {
        let (host, shared, own) = (Arc::clone(&self.parts.host), Arc::clone(&self.shared), self.own.clone());
        self.work.spawn(async move {
            let evaluate = move || {
                let Some(found) = host.evaluate(&shared.spec, &model)? else { return Ok(None) };
                let mut evaluated = Evaluated { model: found, averages: Vec::new() };
                shared.reuse([model]);
                for (which, average) in averages {
                    let found = host.evaluate(&shared.spec, &average)?;
                    evaluated.averages.extend(found.map(|found| (which, found)));
                    shared.reuse([average]);
                }
                Ok(Some(evaluated))
            };
            let result =
                tokio::task::spawn_blocking(evaluate).await.unwrap_or_else(|error| Err(error.to_string()));
            let _ = own.send(Command::Central { round, result }).await;
        });
    }

    pub(super) fn vector_ref(&self, name: &str, digest: Digest) -> VectorRef {
        VectorRef { name: name.to_owned(), digest: digest.0.to_vec(), length: self.record.length_of(name) }
    }

    /// From what workers can make the model, if that is shorter.
    pub(super) fn packed_ref(&self) -> Option<VectorRef> {
        let name = self.algorithm.packed()?;
        Some(self.vector_ref(name, *self.record.vectors.get(name)?))
    }

    /// After a restart: says what the coordinator, stopped between a commit and its announcement, did
    /// not say, and evaluates the last round if that was not done.
    pub(super) fn catch_up(&mut self) {
        let Some(round) = self.record.round.checked_sub(1) else { return };
        let last = self.parts.store.metrics(&self.shared.id).ok().and_then(|mut lines| lines.pop());
        let Some(metrics) = last.filter(|line| line.round == round) else { return };
        let from = self.next_sequence.saturating_sub(RECENT as u64);
        let said = self.parts.store.events(&self.shared.id, from, RECENT).unwrap_or_default();
        let committed =
            |event: &RunEvent| matches!(event, RunEvent::RoundCommitted { round: r, .. } if *r == round);
        if !said.iter().any(|line| committed(&line.event)) {
            let (participants, model_digest) = (metrics.participants, metrics.model_digest);
            self.publish(RunEvent::RoundCommitted { round, participants, model_digest });
        }
        let evaluation = &self.shared.spec.evaluation;
        let due = evaluation.central && is_due(evaluation.every, round, self.shared.spec.rounds);
        let shown =
            |event: &RunEvent| matches!(event, RunEvent::RoundMetrics { metrics } if metrics.round == round);
        if said.iter().any(|line| shown(&line.event)) {
            return;
        }
        let digest = metrics.model_digest;
        self.pending.insert(metrics, due, false);
        if due {
            let read = |digest| self.parts.store.blobs().get(digest, Vec::new);
            let kept = Average::ALL.iter().filter_map(|which| {
                let digest = self.record.vectors.get(&which.vector())?;
                Some(read(*digest).map(|average| (*which, average)))
            });
            let averages = kept.collect::<Result<Vec<_>, _>>();
            match read(digest).and_then(|model| Ok((model, averages?))) {
                Ok((model, averages)) => self.evaluate(round, model, averages),
                Err(error) => {
                    tracing::warn!(%error, "the last round cannot be evaluated");
                    self.pending.central(round, None);
                }
            }
        }
        self.publish_metrics();
    }
}

/// Events at the end of the log among which those of the last round are looked for.
const RECENT: usize = 4_096;

/// Whether a round is evaluated.
fn is_due(every: u64, round: u64, rounds: u64) -> bool {
    every > 0 && ((round + 1).is_multiple_of(every) || round + 1 == rounds)
}

/// Mean over the counted updates, by examples, in name order.
fn train_loss(counted: &[Counted]) -> Option<f64> {
    let known = counted.iter().filter_map(|c| Some((c.facts.train_loss?, c.facts.examples as f64)));
    let (sum, weight) = known.fold((0.0, 0.0), |(sum, weight), (loss, n)| (sum + loss * n, weight + n));
    (weight > 0.0).then(|| sum / weight)
}
