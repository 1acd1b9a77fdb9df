//! Who is connected and which runs there are: the meeting point of sessions and run actors.
//!
//! Locks here are held for a lookup, never across an await.

use crate::{
    Clock,
    machine::Event,
    run::{Command, RunHandle, Shared},
    store::Store,
};
use proto::{
    digest::Digest,
    event::RunEvent,
    limits,
    v1::{self, CoordinatorMessage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Outgoing messages of one session.
pub(crate) type Outbox = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// A worker's live session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) outbox: Outbox,
    pub(crate) datasets: Vec<String>,
    /// Names of optional features that it has.
    pub(crate) capabilities: Vec<String>,
    pub(crate) program: String,
    pub(crate) address: String,
    pub(crate) last_seen: Arc<AtomicU64>,
    pub(crate) cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct Known {
    session: Option<Session>,
    program: String,
    datasets: Vec<String>,
    address: String,
    applied: u64,
    rejected: u64,
}

/// Workers and runs.
#[derive(Debug)]
pub(crate) struct Fleet {
    store: Arc<Store>,
    clock: Clock,
    workers: Mutex<BTreeMap<String, Known>>,
    runs: Mutex<BTreeMap<String, RunHandle>>,
    quarantined: Mutex<BTreeSet<String>>,
    vectors: Mutex<BTreeMap<String, [BTreeSet<Digest>; 2]>>,
    sessions: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    pub(crate) fn new(store: Arc<Store>, clock: Clock, quarantined: BTreeSet<String>) -> Self {
        Self {
            store,
            clock,
            workers: Mutex::default(),
            runs: Mutex::default(),
            quarantined: Mutex::new(quarantined),
            vectors: Mutex::default(),
            sessions: AtomicU64::new(0),
        }
    }

    /// A number that no session has had.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers a session, unless a live one has the name. One that was silent for half the allowed
    /// time gives way: its peer was probably restarted.
    pub(crate) fn enter(
        &self,
        worker: &str,
        session: Session,
        workers_max: usize,
    ) -> Result<(), (v1::ErrorCode, String)> {
        let mut workers = lock(&self.workers);
        let connected = workers.values().filter(|known| known.session.is_some()).count();
        let known = workers.entry(worker.to_owned()).or_default();
        if let Some(old) = &known.session {
            let silent = self.clock.now().saturating_sub(old.last_seen.load(Ordering::Relaxed));
            if !old.outbox.is_closed() && silent < limits::SILENCE.as_millis() as u64 / 2 {
                let detail = format!("`{worker}` is already connected from {}", old.address);
                return Err((v1::ErrorCode::Name, detail));
            }
            old.cancel.cancel();
        } else if connected >= workers_max {
            return Err((v1::ErrorCode::Limit, format!("{workers_max} workers are connected already")));
        }
        known.program.clone_from(&session.program);
        known.datasets.clone_from(&session.datasets);
        known.address.clone_from(&session.address);
        known.session = Some(session);
        Ok(())
    }

    /// Removes a session; false when another one has taken its place.
    pub(crate) fn leave(&self, worker: &str, number: u64) -> bool {
        let mut workers = lock(&self.workers);
        let Some(known) = workers.get_mut(worker) else { return false };
        known.session.take_if(|session| session.number == number).is_some()
    }

    /// Tells every run that can use a worker that it came or went.
    pub(crate) async fn tell_runs(&self, worker: &str, session: &Session, joined: bool) {
        let runs: Vec<RunHandle> = lock(&self.runs).values().cloned().collect();
        for run in runs {
            if run.log.borrow().1 {
                continue;
            }
            if !run.shared.is_eligible(&session.datasets, &session.capabilities) {
                let ours = proto::CAPABILITIES.map(str::to_owned);
                if joined && run.shared.is_eligible(&session.datasets, &ours) {
                    tracing::warn!(
                        worker,
                        run = run.shared.id,
                        "cannot send updates as this run needs them; a newer worker can"
                    );
                }
                continue;
            }
            let worker = worker.to_owned();
            let event = if joined { Event::Joined { worker } } else { Event::Left { worker } };
            run.send(Command::Machine(event)).await;
        }
    }

    /// Connected workers that can train a run.
    pub(crate) fn eligible(&self, run: &Shared) -> Vec<String> {
        lock(&self.workers)
            .iter()
            .filter(|(_, known)| {
                known.session.as_ref().is_some_and(|s| run.is_eligible(&s.datasets, &s.capabilities))
            })
            .map(|(worker, _)| worker.clone())
            .collect()
    }

    /// Sends to a worker, if it is connected. A session whose queue is full is ended: it will
    /// reconnect and be told again.
    pub(crate) fn send(&self, worker: &str, message: CoordinatorMessage) {
        let session = lock(&self.workers).get(worker).and_then(|known| known.session.clone());
        let Some(session) = session else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = session.outbox.try_send(Ok(message)) {
            tracing::warn!(worker, "the session's queue is full; ending it");
            session.cancel.cancel();
        }
    }

    /// Adds a run.
    pub(crate) fn add_run(&self, handle: RunHandle) {
        lock(&self.runs).insert(handle.shared.id.clone(), handle);
    }

    /// A run by its id, or by its name when only one run has it.
    pub(crate) fn run(&self, id: &str) -> Option<RunHandle> {
        let runs = lock(&self.runs);
        if let Some(run) = runs.get(id) {
            return Some(run.clone());
        }
        let mut named = runs.values().filter(|run| run.shared.spec.name == id);
        named.next().filter(|_| named.next().is_none()).cloned()
    }

    /// Every run, in order of submission.
    pub(crate) fn runs(&self) -> Vec<RunHandle> {
        let mut runs: Vec<RunHandle> = lock(&self.runs).values().cloned().collect();
        runs.sort_by_key(|run| run.number);
        runs
    }

    /// Workers that may not send updates.
    pub(crate) fn quarantined(&self) -> Vec<String> {
        lock(&self.quarantined).iter().cloned().collect()
    }

    /// Puts a worker into quarantine or releases it, durably and in every run.
    pub(crate) async fn set_quarantine(&self, worker: &str, on: bool) {
        let changed = {
            let mut quarantined = lock(&self.quarantined);
            if on { quarantined.insert(worker.to_owned()) } else { quarantined.remove(worker) }
        };
        if !changed {
            return;
        }
        let (store, name) = (Arc::clone(&self.store), worker.to_owned());
        match tokio::task::spawn_blocking(move || store.set_quarantine(&name, on)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(worker, %error, "the quarantine is not durable"),
            Err(error) => tracing::error!(worker, %error, "the quarantine is not durable"),
        }
        let text = if on {
            "quarantined after repeated rejections: updates are refused until an operator releases this worker"
        } else {
            "released from quarantine"
        };
        let notice = v1::Notice { text: text.to_owned() };
        self.send(worker, CoordinatorMessage { body: Some(v1::coordinator_message::Body::Notice(notice)) });
        for run in self.runs() {
            let event = Event::Quarantine { worker: worker.to_owned(), on };
            // Called from a run's own task too: never wait for its queue here.
            run.try_send(Command::Machine(event));
        }
    }

    /// Counts what an event says about a worker.
    pub(crate) fn count_event(&self, event: &RunEvent) {
        let mut workers = lock(&self.workers);
        match event {
            RunEvent::UpdateApplied { worker, .. } | RunEvent::UpdateBuffered { worker, .. } => {
                workers.entry(worker.clone()).or_default().applied += 1;
            }
            RunEvent::UpdateRejected { worker, .. } => {
                if let Some(known) = workers.get_mut(worker) {
                    known.rejected += 1;
                }
            }
            _ => {}
        }
    }

    /// Removes vectors that no run needs: each keeps those of its last two commits, the older ones for
    /// downloads that are under way.
    pub(crate) fn collect_vectors(&self, run: &str, current: BTreeSet<Digest>) {
        // Locked until the files are gone: no other run may name a vector in between.
        let mut vectors = lock(&self.vectors);
        let kept = vectors.entry(run.to_owned()).or_default();
        kept.swap(0, 1);
        self.store.blobs().named(&current);
        kept[0] = current;
        let keep: BTreeSet<Digest> = vectors.values().flatten().flatten().copied().collect();
        if let Err(error) = self.store.blobs().retain(&keep) {
            tracing::warn!(%error, "old vectors cannot be removed");
        }
    }

    /// The vectors that a run starts with.
    pub(crate) fn keep_vectors(&self, run: &str, current: BTreeSet<Digest>) {
        let mut vectors = lock(&self.vectors);
        self.store.blobs().named(&current);
        vectors.entry(run.to_owned()).or_default()[0] = current;
    }

    /// A vector that a run needs from now on until its next commit but one.
    pub(crate) fn keep_also(&self, run: &str, digest: Digest) {
        let mut vectors = lock(&self.vectors);
        self.store.blobs().named(&BTreeSet::from([digest]));
        vectors.entry(run.to_owned()).or_default()[0].insert(digest);
    }

    /// How many workers there are of each kind.
    pub(crate) fn census(&self) -> page::view::Census {
        let quarantined = lock(&self.quarantined).len();
        let workers = lock(&self.workers);
        let connected = workers.values().filter(|known| known.session.is_some()).count();
        page::view::Census { known: workers.len(), connected, quarantined }
    }

    /// Workers as operators see them.
    pub(crate) fn workers(&self) -> Vec<v1::WorkerSummary> {
        let quarantined = lock(&self.quarantined).clone();
        let now = self.clock.now();
        lock(&self.workers)
            .iter()
            .map(|(name, known)| v1::WorkerSummary {
                name: name.clone(),
                connected: known.session.is_some(),
                quarantined: quarantined.contains(name),
                program: known.program.clone(),
                datasets: known.datasets.clone(),
                silent_ms: known
                    .session
                    .as_ref()
                    .map_or(0, |session| now.saturating_sub(session.last_seen.load(Ordering::Relaxed))),
                applied: known.applied,
                rejected: known.rejected,
                address: known.address.clone(),
            })
            .collect()
    }
}
