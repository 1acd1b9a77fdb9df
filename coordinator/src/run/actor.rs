//! The task that owns a run: feeds the machine, does what it says, keeps the log.
//!
//! Everything that the machine decided is done in the order in which it decided it; what must be
//! durable is durable before the next action. The actor never computes: folding, committing and
//! evaluating happen on blocking threads.

use super::{
    Command, Delivery, RunHandle, Shared,
    aggregate::fold,
    commit::{Done, Job},
    metrics::Pending,
};
use crate::{
    Clock, ModelHost,
    fleet::Fleet,
    health::Health,
    machine::{Action, Counted, Decision, End, Event, Machine, Opening, Rules, Token},
    store::{RunRecord, Store, Stored, StoredEvent},
    view,
};
use algorithms::{Algorithm, RoundFacts, fold::Accumulator};
use proto::{
    event::{Metrics, RunEvent},
    v1::{self, CoordinatorMessage, coordinator_message::Body},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// What every run's task shares with the rest of the coordinator.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) host: Arc<dyn ModelHost>,
    pub(crate) health: Health,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    pub(crate) config: Arc<crate::Config>,
}

/// The task of one run.
pub(crate) struct Actor {
    parts: Parts,
    shared: Arc<Shared>,
    spec_json: String,
    algorithm: Arc<dyn Algorithm>,
    machine: Machine,
    record: RunRecord,
    accumulators: Vec<Accumulator>,
    timers: BTreeSet<(u64, Token)>,
    commands: mpsc::Receiver<Command>,
    own: mpsc::Sender<Command>,
    summary: watch::Sender<v1::RunSummary>,
    log: watch::Sender<(u64, bool)>,
    next_sequence: u64,
    events: Vec<StoredEvent>,
    pending: Pending,
    ending: Option<End>,
    progress: BTreeMap<String, String>,
    rejections: BTreeMap<String, u64>,
    work: JoinSet<()>,
    stale: bool,
}

impl Actor {
    /// An actor for a stored run, and its handle.
    pub(crate) fn new(parts: Parts, record: RunRecord) -> Result<(Self, RunHandle), String> {
        let algorithm: Arc<dyn Algorithm> =
            Arc::from(record.spec.algorithm.make().map_err(|error| error.to_string())?);
        let next_sequence = parts.store.next_sequence(&record.id).map_err(|error| error.to_string())?;
        let payload = record.length * 4 * algorithm.upload().len() as u64;
        let shared = Arc::new(Shared {
            id: record.id.clone(),
            spec: record.spec.clone(),
            upload: algorithm.upload(),
            folds: algorithm.folds(),
            length: record.length as usize,
            bytes_up: 0.into(),
            bytes_down: 0.into(),
            slots: Arc::new(Semaphore::new(parts.config.upload_slots(payload))),
            parked: Mutex::default(),
        });
        let machine = Machine::new(Rules::from(&record.spec), record.restored());
        let (own, commands) = mpsc::channel(super::QUEUE);
        let summary = watch::Sender::new(view::summary(&record, &machine));
        let ended = !matches!(record.state, Stored::Active {} | Stored::Paused {});
        let log = watch::Sender::new((next_sequence, ended));
        let handle = RunHandle {
            shared: Arc::clone(&shared),
            number: record.number,
            commands: own.clone(),
            summary: summary.subscribe(),
            log: log.subscribe(),
        };
        let spec_json = record.spec.to_json();
        let actor = Self {
            parts,
            shared,
            spec_json,
            algorithm,
            machine,
            record,
            accumulators: Vec::new(),
            timers: BTreeSet::new(),
            commands,
            own,
            summary,
            log,
            next_sequence,
            events: Vec::new(),
            pending: Pending::default(),
            ending: None,
            progress: BTreeMap::new(),
            rejections: BTreeMap::new(),
            work: JoinSet::new(),
            stale: false,
        };
        Ok((actor, handle))
    }

    /// Runs until the coordinator stops. An ended run stays, to answer late updates and questions.
    pub(crate) async fn run(mut self) {
        if matches!(self.record.state, Stored::Active {} | Stored::Paused {}) {
            self.evaluate_again();
            self.handle(Event::Start).await;
            for worker in self.parts.fleet.quarantined() {
                self.handle(Event::Quarantine { worker, on: true }).await;
            }
            for worker in self.parts.fleet.eligible(&self.shared) {
                self.handle(Event::Joined { worker }).await;
            }
        } else {
            self.machine.set_ended(view::end_of(&self.record.state));
        }
        loop {
            let due = self.timers.first().map(|(at, _)| self.parts.clock.instant(*at));
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => break,
                Some(command) = self.commands.recv() => self.command(command).await,
                () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    if let Some((_, token)) = self.timers.pop_first() {
                        self.handle(Event::Timer(token)).await;
                    }
                }
                Some(finished) = self.work.join_next() => {
                    if let Err(error) = finished {
                        let reason = format!("a task of the run failed: {error}");
                        self.handle(Event::Failed { reason }).await;
                    }
                }
            }
        }
        self.flush();
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Machine(event) => self.handle(event).await,
            Command::Offer { worker, round, reply } => {
                let _ = reply.send(self.machine.offer(&worker, round));
            }
            Command::Deliver { upload, reply } => self.deliver(*upload, reply).await,
            Command::Refuse { event, reply } => {
                let actions = self.machine.handle(event, self.parts.clock.now());
                let decision = decision_in(&actions);
                self.act(actions).await;
                let _ = reply.send(decision);
            }
            Command::Control { command, reply } => {
                self.handle(Event::Command(command)).await;
                let _ = reply.send(self.summary.borrow().clone());
            }
            Command::Show { reply } => {
                let metrics = self.parts.store.metrics(&self.shared.id).unwrap_or_else(|error| {
                    tracing::error!(%error, "metrics cannot be read");
                    Vec::new()
                });
                let summary = self.summary.borrow().clone();
                let seen = (&self.progress, &self.rejections);
                let _ = reply.send(view::detail(summary, &self.record, &self.machine, &metrics, seen));
            }
            Command::Progress { worker, progress } => {
                self.progress.insert(worker, view::progress(&progress));
            }
            Command::Central { round, result } => {
                let evaluation = result.unwrap_or_else(|error| {
                    tracing::warn!(run = self.shared.id, round, error, "the model could not be evaluated");
                    None
                });
                self.pending.central(round, evaluation);
                self.publish_metrics();
                self.finish_if_due().await;
                self.flush();
            }
            Command::Committed(done) => self.committed(*done).await,
        }
    }

    async fn handle(&mut self, event: Event) {
        let actions = self.machine.handle(event, self.parts.clock.now());
        self.act(actions).await;
    }

    async fn deliver(&mut self, upload: Delivery, reply: oneshot::Sender<Decision>) {
        let Delivery { worker, round, facts, fold_facts, values } = upload;
        // Asked before folding: the verdict below is final, so the fold comes first.
        let mut decision = self.machine.offer(&worker, round);
        if decision == Decision::Accept {
            let mut accumulators = std::mem::take(&mut self.accumulators);
            let shared = Arc::clone(&self.shared);
            let folded = tokio::task::spawn_blocking(move || {
                if accumulators.is_empty() {
                    accumulators =
                        shared.folds.iter().map(|fold| Accumulator::new(*fold, shared.length)).collect();
                }
                fold(&mut accumulators, shared.upload, &values, &fold_facts);
                accumulators
            })
            .await;
            match folded {
                Ok(accumulators) => self.accumulators = accumulators,
                Err(error) => {
                    let reason = format!("folding failed: {error}");
                    return self.handle(Event::Failed { reason }).await;
                }
            }
        } else {
            drop(values);
        }
        let actions = self.machine.handle(Event::Update { worker, round, facts }, self.parts.clock.now());
        decision = decision_in(&actions);
        let _ = reply.send(decision);
        self.act(actions).await;
    }

    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Persist => self.persist().await,
                Action::Publish(event) => self.publish(event),
                Action::Arm { token, at } => drop(self.timers.insert((at, token))),
                Action::Assign { worker, round, committed, remaining_ms } => {
                    self.assign(&worker, round, committed, remaining_ms);
                }
                Action::Abandon { worker, round, reason } => {
                    let run = self.shared.id.clone();
                    self.send(&worker, Body::Abandon(v1::Abandon { run, round, reason: reason.into() }));
                }
                Action::Closed { worker, round, included } => {
                    let run = self.shared.id.clone();
                    self.send(&worker, Body::Closed(v1::RoundClosed { run, round, included }));
                }
                Action::Evaluate { worker, round } => {
                    let model = self.vector_ref(algorithms::MODEL);
                    let (run, spec) = (self.shared.id.clone(), self.spec_json.clone());
                    self.send(&worker, Body::Evaluate(v1::EvaluationRequest { run, round, spec, model }));
                }
                Action::FederatedDone { round, sums } => {
                    self.pending.federated(round, sums);
                    self.publish_metrics();
                }
                Action::DropUploads => {
                    self.accumulators.clear();
                    self.shared.drop_parked();
                }
                Action::Commit { .. } => self.commit(action),
                Action::Quarantine { worker } => self.parts.fleet.set_quarantine(&worker, true).await,
                Action::Verdict { .. } => {}
                Action::End(end) => self.ending = Some(end),
            }
        }
        self.finish_if_due().await;
        self.flush();
    }

    fn assign(&mut self, worker: &str, round: u64, committed: Option<u64>, remaining_ms: u64) {
        let down = std::iter::once(algorithms::MODEL).chain(self.algorithm.down().iter().copied());
        let assignment = v1::Assignment {
            run: self.shared.id.clone(),
            round,
            spec: self.spec_json.clone(),
            lr: self.shared.spec.lr(round),
            committed,
            vectors: down.filter_map(|name| self.vector_ref(name)).collect(),
            remaining_ms,
        };
        self.send(worker, Body::Assignment(assignment));
    }

    fn vector_ref(&self, name: &str) -> Option<v1::VectorRef> {
        let digest = self.record.vectors.get(name)?.0.to_vec();
        Some(v1::VectorRef { name: name.to_owned(), digest, length: self.record.length })
    }

    fn send(&self, worker: &str, body: Body) {
        self.parts.fleet.send(worker, CoordinatorMessage { body: Some(body) });
    }

    /// Starts the blocking part of a commit.
    fn commit(&mut self, action: Action) {
        let Action::Commit { round, counted, population, population_before, rejected, opened_at } = action
        else {
            return;
        };
        self.shared.drop_parked();
        let mut record = self.record.clone();
        record.round = round + 1;
        record.opening = None;
        record.members.clone_from(self.machine.members());
        record.population_before = population;
        record.committed.extend(counted.iter().map(|counted| (counted.worker.clone(), round)));
        let (bytes_down, bytes_up) = self.shared.take_bytes();
        let metrics = Metrics {
            round,
            seconds: self.parts.clock.now().saturating_sub(opened_at) as f64 / 1_000.0,
            participants: counted.len(),
            rejected,
            train_loss: train_loss(&counted),
            eval_loss: None,
            eval_accuracy: None,
            federated_loss: None,
            federated_accuracy: None,
            bytes_down,
            bytes_up,
            epsilon: None,
            model_digest: self.record.vectors[algorithms::MODEL],
        };
        let job = Job {
            store: Arc::clone(&self.parts.store),
            health: self.parts.health.clone(),
            stop: self.parts.stop.clone(),
            algorithm: Arc::clone(&self.algorithm),
            accumulators: std::mem::take(&mut self.accumulators),
            facts: RoundFacts { included: counted.len(), population, population_before },
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
                let _ = own.send(Command::Committed(Box::new(done))).await;
            }
        });
    }

    async fn committed(&mut self, done: Done) {
        let Done { round, record, metrics, model } = done;
        let digest = metrics.model_digest;
        self.record = record;
        self.progress.clear();
        let due = is_due(self.shared.spec.evaluation.every, round, self.shared.spec.rounds);
        let central = due && self.shared.spec.evaluation.central;
        let federated = due && self.shared.spec.evaluation.federated;
        self.pending.insert(metrics, central, federated);
        if central {
            self.evaluate(round, model);
        }
        self.publish_metrics();
        self.parts.fleet.collect_vectors(&self.shared.id, self.record.vectors.values().copied().collect());
        self.handle(Event::Committed { round, digest }).await;
    }

    fn evaluate(&mut self, round: u64, model: algorithms::Vector) {
        let (host, spec, own) = (Arc::clone(&self.parts.host), self.shared.spec.clone(), self.own.clone());
        self.work.spawn(async move {
            let result = tokio::task::spawn_blocking(move || host.evaluate(&spec, &model))
                .await
                .unwrap_or_else(|error| Err(error.to_string()));
            let _ = own.send(Command::Central { round, result }).await;
        });
    }

    /// After a restart: the last committed round may have been stopped before its evaluation.
    fn evaluate_again(&mut self) {
        let Some(round) = self.record.round.checked_sub(1) else { return };
        let evaluation = &self.shared.spec.evaluation;
        if !(evaluation.central && is_due(evaluation.every, round, self.shared.spec.rounds)) {
            return;
        }
        let last = self.parts.store.metrics(&self.shared.id).ok().and_then(|mut lines| lines.pop());
        let Some(metrics) = last.filter(|line| line.round == round && line.eval_loss.is_none()) else {
            return;
        };
        match self.parts.store.blobs().get(metrics.model_digest) {
            Ok(model) => {
                self.pending.insert(metrics, true, false);
                self.evaluate(round, model);
            }
            Err(error) => tracing::warn!(%error, "the last round cannot be evaluated"),
        }
    }

    fn publish_metrics(&mut self) {
        while let Some(metrics) = self.pending.pop() {
            if let Err(error) = self.parts.store.append(&self.shared.id, &[], Some(&metrics)) {
                tracing::error!(%error, "metrics cannot be written");
                self.parts.health.store_failed(&error.to_string());
            }
            self.publish(RunEvent::RoundMetrics { metrics });
        }
    }

    fn publish(&mut self, event: RunEvent) {
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
    async fn persist(&mut self) {
        self.record.members.clone_from(self.machine.members());
        if let Stored::Active {} | Stored::Paused {} = self.record.state {
            self.record.state = if self.machine.is_paused() { Stored::Paused {} } else { Stored::Active {} };
        }
        let cohort: Vec<String> = self.machine.cohort().keys().cloned().collect();
        self.record.opening = (!cohort.is_empty()).then(|| Opening { round: self.machine.round(), cohort });
        let events = std::mem::take(&mut self.events);
        let mut pause = Duration::from_millis(500);
        loop {
            let (store, record, batch) = (Arc::clone(&self.parts.store), self.record.clone(), events.clone());
            let saved = tokio::task::spawn_blocking(move || store.save(&record, &batch, None)).await;
            let error = match saved {
                Ok(Ok(())) => break self.parts.health.store_works(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(run = self.shared.id, error, "the store failed; trying again in {pause:?}");
            self.parts.health.store_failed(&error);
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
            }
        }
        self.announce();
    }

    /// Writes events without a sync and tells those who watch.
    fn flush(&mut self) {
        if !self.events.is_empty() {
            match self.parts.store.append(&self.shared.id, &self.events, None) {
                Ok(()) => self.events.clear(),
                Err(error) => {
                    tracing::error!(%error, "events cannot be written; they are kept in memory");
                    self.parts.health.store_failed(&error.to_string());
                }
            }
        }
        self.announce();
    }

    fn announce(&mut self) {
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
    async fn finish_if_due(&mut self) {
        let waits = matches!(self.ending, Some(End::Finished)) && !self.pending.is_empty();
        let Some(end) = self.ending.take_if(|_| !waits) else { return };
        let (state, event, told) = match end {
            End::Finished => {
                let model_digest = self.record.vectors[algorithms::MODEL];
                let event = RunEvent::Finished { rounds: self.record.round, model_digest };
                (Stored::Finished {}, event, v1::AbandonReason::Finished)
            }
            End::Cancelled => (Stored::Cancelled {}, RunEvent::Cancelled {}, v1::AbandonReason::Cancelled),
            End::Failed(reason) => {
                let event = RunEvent::Failed { reason: reason.clone() };
                (Stored::Failed { reason }, event, v1::AbandonReason::Failed)
            }
        };
        self.accumulators.clear();
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

fn decision_in(actions: &[Action]) -> Decision {
    actions
        .iter()
        .find_map(|action| match action {
            Action::Verdict { decision, .. } => Some(decision.clone()),
            _ => None,
        })
        .expect("the machine answers every update")
}

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
