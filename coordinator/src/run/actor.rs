//! The task that owns a run: feeds the machine, does what it says, keeps the log.
//!
//! Everything that the machine decided is done in the order in which it decided it; what must be
//! durable is durable before the next action. The actor never computes: folding, committing and
//! evaluating happen on blocking threads.

use super::{Command, Delivery, RunHandle, Shared, buffers::Buffers, metrics::Pending, private::Private};
use crate::{
    Clock, ModelHost,
    access::{Access, audit, audit::Note},
    fleet::Fleet,
    health::Health,
    machine::{Action, Decision, End, Event, Machine, Rules, Token},
    private::Guard,
    spool::Spool,
    store::{RunRecord, Store, Stored, StoredEvent},
    view,
};
use algorithms::{Algorithm, compress::Packing, fold::Accumulator};
use proto::v1::{self, CoordinatorMessage, coordinator_message::Body};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
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
    pub(crate) access: Arc<Access>,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    pub(crate) config: Arc<crate::Config>,
}

/// The task of one run.
pub(crate) struct Actor {
    pub(super) parts: Parts,
    pub(super) shared: Arc<Shared>,
    pub(super) spec_json: String,
    pub(super) algorithm: Arc<dyn Algorithm>,
    pub(super) machine: Machine,
    pub(super) record: RunRecord,
    pub(super) accumulators: Vec<Accumulator>,
    /// The updates of the open round, where the combiner needs them all.
    pub(super) spool: Option<Spool>,
    pub(super) timers: BTreeSet<(u64, Token)>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) own: mpsc::Sender<Command>,
    pub(super) summary: watch::Sender<v1::RunSummary>,
    pub(super) log: watch::Sender<(u64, bool)>,
    pub(super) next_sequence: u64,
    pub(super) events: Vec<StoredEvent>,
    pub(super) pending: Pending,
    pub(super) ending: Option<End>,
    pub(super) progress: BTreeMap<String, String>,
    pub(super) rejections: BTreeMap<String, u64>,
    pub(super) work: JoinSet<()>,
    pub(super) stale: bool,
    /// A commit job owns the record on disk: nothing else is written to it meanwhile.
    pub(super) committing: bool,
    /// A `Persist` that waits for the commit job.
    pub(super) persist_due: bool,
    /// Updates that came during a commit, in a run without rounds.
    pub(super) held: Vec<(Box<Delivery>, oneshot::Sender<Decision>)>,
    /// In a run that promises privacy.
    pub(super) private: Option<Private>,
}

impl Actor {
    /// An actor for a stored run with its promise, and its handle.
    pub(crate) fn new(
        parts: Parts,
        record: RunRecord,
        guard: Option<Arc<Guard>>,
    ) -> Result<(Self, RunHandle), String> {
        let algorithm = record.laid_out().map_err(|error| error.to_string())?;
        let next_sequence = parts.store.next_sequence(&record.id).map_err(|error| error.to_string())?;
        let upload = record.spec.upload(algorithm.as_ref(), record.length as usize);
        let payload = upload.iter().map(|(_, length)| *length as u64 * 4).sum();
        let packing =
            record.spec.packing(algorithm.as_ref(), &record.tensors).map_err(|error| error.to_string())?;
        let slots = parts.config.upload_slots(payload);
        let shared = Arc::new(Shared {
            id: record.id.clone(),
            spec: record.spec.clone(),
            wire: packing.as_ref().map_or_else(|| upload.clone(), Packing::wire),
            packing,
            upload,
            folds: record.spec.folds(algorithm.as_ref()),
            bytes_up: 0.into(),
            bytes_down: 0.into(),
            buffers: Buffers::new(slots),
            slots: Arc::new(Semaphore::new(slots)),
            waiting: 0.into(),
            parked: Mutex::default(),
            guard: guard.clone(),
            // The newest line may still wait for its evaluation.
            told: record.round.saturating_sub(1).into(),
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
            spool: None,
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
            committing: false,
            persist_due: false,
            held: Vec::new(),
            private: guard.map(Private::new),
        };
        Ok((actor, handle))
    }

    /// Runs until the coordinator stops. An ended run stays, to answer late updates and questions.
    pub(crate) async fn run(mut self) {
        if matches!(self.record.state, Stored::Active {} | Stored::Paused {}) {
            self.catch_up();
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
                let actions = self.decide(event);
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
                let mut detail = view::detail(summary, &self.record, &self.machine, &metrics, seen);
                if self.hides_cohort() {
                    detail.cohort.clear();
                }
                let _ = reply.send(detail);
            }
            Command::Look { reply } => {
                let seen = (&self.progress, &self.rejections);
                let _ = reply.send(view::look(&self.machine, seen, self.hides_cohort()));
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
            Command::Committed(done) => {
                let (round, done) = *done;
                self.committed(round, done).await;
            }
        }
    }

    pub(super) async fn handle(&mut self, event: Event) {
        let actions = self.decide(event);
        self.act(actions).await;
    }

    async fn deliver(&mut self, mut upload: Delivery, reply: oneshot::Sender<Decision>) {
        if self.shared.is_asynchronous() {
            return self.deliver_to_buffer(upload, reply).await;
        }
        let loss = upload.facts.train_loss;
        self.discreet(&mut upload);
        let Delivery { worker, round, facts, fold_facts, values } = upload;
        // Asked before folding: the verdict below is final, so the fold comes first.
        let mut event = Event::Update { worker: worker.clone(), round, facts };
        if self.machine.offer(&worker, round) == Decision::Accept {
            let draws = self.machine.draws(&worker);
            let folded = if self.sums_up() {
                self.sum_up(values, loss).await
            } else if self.shared.spec.spooled().is_some() {
                self.keep(&worker, values, (fold_facts, draws)).await
            } else {
                self.fold(values, (fold_facts, draws)).await
            };
            match folded {
                Ok(None) => {}
                Ok(Some((reason, detail))) => event = Event::Rejected { worker, round, reason, detail },
                Err(reason) => return self.handle(Event::Failed { reason }).await,
            }
        } else {
            self.shared.buffers.give(values);
        }
        let actions = self.decide(event);
        let _ = reply.send(decision_in(&actions));
        self.act(actions).await;
    }

    pub(super) async fn act(&mut self, actions: Vec<Action>) {
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
                    let digest = self.record.vectors[algorithms::MODEL];
                    let model = Some(self.vector_ref(algorithms::MODEL, digest));
                    let packed = self.packed_ref();
                    let (run, spec) = (self.shared.id.clone(), self.spec_json.clone());
                    let request = v1::EvaluationRequest { run, round, spec, model, packed };
                    self.send(&worker, Body::Evaluate(request));
                }
                Action::FederatedDone { round, sums, clients } => {
                    self.pending.federated(round, sums, clients);
                    self.publish_metrics();
                }
                Action::DropUploads => {
                    self.release();
                }
                Action::Commit { .. } => self.commit(action),
                Action::Quarantine { worker } => {
                    self.parts.access.note(Note::own(audit::Action::Quarantined, worker.as_str()));
                    self.parts.fleet.set_quarantine(&worker, true).await;
                }
                Action::Verdict { .. } => {}
                Action::End(end) => self.ending = Some(end),
            }
        }
        self.finish_if_due().await;
        self.flush();
    }

    /// Drops what was uploaded, and gives its memory, and files that no round needs, back to the system.
    pub(super) fn release(&mut self) {
        self.accumulators = Vec::new();
        self.spool = None;
        self.drop_sum();
        self.shared.drop_parked();
        self.shared.buffers.clear();
        let store = Arc::clone(&self.parts.store);
        self.work.spawn(async move {
            let shrunk = tokio::task::spawn_blocking(move || store.blobs().shrink());
            if let Ok(Err(error)) = shrunk.await {
                tracing::warn!(%error, "spare files cannot be removed");
            }
        });
    }

    fn assign(&mut self, worker: &str, round: u64, committed: Option<u64>, remaining_ms: u64) {
        let down = std::iter::once(algorithms::MODEL).chain(self.algorithm.down().iter().copied());
        let down = down.chain(self.algorithm.packed());
        let then = committed.and_then(|round| self.record.recalled.get(&round));
        let recalled = then.into_iter().flat_map(|then| {
            let digest = |(name, under): &(&str, &'static str)| Some((*under, *then.get(*name)?));
            self.algorithm.recalled().iter().filter_map(digest)
        });
        let digest = |name: &str| match name {
            algorithms::MODEL => self.record.model_of(round),
            other => self.record.vectors.get(other).copied(),
        };
        let vectors = down.filter_map(|name| Some((name, digest(name)?))).chain(recalled);
        let assignment = v1::Assignment {
            run: self.shared.id.clone(),
            round,
            spec: self.spec_json.clone(),
            lr: self.shared.spec.lr(round),
            committed,
            vectors: vectors.map(|(name, digest)| self.vector_ref(name, digest)).collect(),
            remaining_ms,
            clip_norm: self.clip_norm(),
        };
        self.send(worker, Body::Assignment(assignment));
    }

    pub(super) fn send(&self, worker: &str, body: Body) {
        self.parts.fleet.send(worker, CoordinatorMessage { body: Some(body) });
    }
}

pub(super) fn decision_in(actions: &[Action]) -> Decision {
    actions
        .iter()
        .find_map(|action| match action {
            Action::Verdict { decision, .. } => Some(decision.clone()),
            _ => None,
        })
        .expect("the machine answers every update")
}
