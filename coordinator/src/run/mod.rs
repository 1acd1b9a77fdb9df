//! One run as a task: the actor that owns its machine, and the handle by which the services reach it.

mod actor;
pub(crate) mod aggregate;
mod buffers;
pub(crate) mod combine;
mod commit;
pub(crate) mod flow;
mod journal;
mod metrics;
mod packed;
mod private;
mod rounds;

pub(crate) use actor::{Actor, Parts};
pub(crate) use private::payment;

use crate::{
    machine::{self, Decision, Event, Facts},
    private::Guard,
};
use aggregate::Survey;
use algorithms::{
    Vector,
    compress::Packing,
    fold::{Fold, UploadFacts},
};
use buffers::Buffers;
use proto::{
    chunk::Assembler,
    digest::Digest,
    limits,
    spec::RunSpec,
    v1::{Progress, RunDetail, RunSummary},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Commands that wait for one run's actor before senders have to.
const QUEUE: usize = 1_024;

/// What the services say to a run.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something for the machine.
    Machine(Event),
    /// May this worker upload?
    Offer { worker: String, round: u64, reply: oneshot::Sender<Decision> },
    /// A vetted payload.
    Deliver { upload: Box<Delivery>, reply: oneshot::Sender<Decision> },
    /// A payload or header that failed vetting.
    Refuse { event: Event, reply: oneshot::Sender<Decision> },
    /// An operator's command.
    Control { command: machine::Command, reply: oneshot::Sender<RunSummary> },
    /// Everything about the run.
    Show { reply: oneshot::Sender<RunDetail> },
    /// The little that a page tells of the present round, and rejections by reason.
    Look { reply: oneshot::Sender<Look> },
    /// How far a worker is.
    Progress { worker: String, progress: Progress },
    /// The central evaluation of a round is done.
    Central { round: u64, result: Result<Option<metrics::Evaluated>, String> },
    /// The disk has the round.
    Committed(Box<(u64, Result<commit::Done, commit::Refused>)>),
}

/// What only the run's task knows of what a page shows.
pub(crate) type Look = (page::view::Cohort, BTreeMap<String, u64>);

/// A vetted payload and its scalars.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) worker: String,
    pub(crate) round: u64,
    pub(crate) facts: Facts,
    pub(crate) fold_facts: UploadFacts,
    /// The vectors end to end.
    pub(crate) values: Vec<f32>,
}

/// An upload on its way.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) assembler: Assembler,
    pub(crate) survey: Survey,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// An upload whose stream broke; the rest may follow.
#[derive(Debug)]
pub(crate) struct Parked {
    round: u64,
    incoming: Incoming,
}

/// What the services may use of a run without asking its actor.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: String,
    pub(crate) spec: RunSpec,
    /// Names and lengths of the vectors in an upload, in order.
    pub(crate) upload: Vec<(&'static str, usize)>,
    /// How uploads are compressed.
    pub(crate) packing: Option<Packing>,
    /// The same vectors as they travel: names and four-byte words.
    pub(crate) wire: Vec<(&'static str, usize)>,
    pub(crate) folds: Vec<Fold>,
    pub(crate) bytes_up: AtomicU64,
    pub(crate) bytes_down: AtomicU64,
    pub(crate) buffers: Buffers,
    slots: Arc<Semaphore>,
    /// Uploads that wait for a slot.
    waiting: AtomicUsize,
    parked: Mutex<BTreeMap<String, Parked>>,
    /// What a private run promised.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Rounds whose lines of metrics will not change any more.
    pub(crate) told: AtomicU64,
}

impl Shared {
    /// Four-byte words of an upload on its way.
    pub(crate) fn words(&self) -> usize {
        self.wire.iter().map(|(_, words)| words).sum()
    }

    /// Whether a worker with these data sets and capabilities can train the run.
    pub(crate) fn is_eligible(&self, datasets: &[String], capabilities: &[String]) -> bool {
        let holds_data = matches!(self.spec.model, proto::spec::ModelSpec::Flat { .. })
            || datasets.contains(&self.spec.data.name);
        let needed = [
            (self.packing.is_some(), proto::COMPRESSION),
            (self.packing.is_some() && self.spec.keeps_parts(), proto::PERSONAL_PARTS),
        ];
        let has = |needed: &str| capabilities.iter().any(|name| name == needed);
        holds_data && needed.into_iter().all(|(needs, name)| !needs || has(name))
    }

    /// A place to receive a payload into: the parked part of a broken transfer, or an empty one once a
    /// slot is free. Parked parts give way to live ones.
    pub(crate) async fn place(&self, worker: &str, round: u64, digest: Digest) -> Incoming {
        if let Some(parked) = self.parked().remove(worker)
            && parked.round == round
            && parked.incoming.assembler.announced() == digest
        {
            return parked.incoming;
        }
        if self.slots.available_permits() == 0 {
            let evicted = self.parked().pop_first();
            drop(evicted);
        }
        let permit = {
            // A caller that gives up is no longer waiting.
            let _waits = Waits::new(&self.waiting);
            Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed")
        };
        let (buffer, survey) = self.receptacle();
        Incoming { assembler: Assembler::filling(buffer, digest), survey, permit }
    }

    /// Bytes that a transfer must move in so much time. While others wait for its place, so many that it
    /// could be done within a round.
    pub(crate) fn pace(&self, elapsed: Duration) -> u64 {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return limits::PACE_BYTES;
        }
        let round = Duration::from_secs(self.spec.cohort.deadline_s).as_secs_f64();
        let share = self.words() as f64 * 4.0 * elapsed.as_secs_f64() / round;
        limits::PACE_BYTES.max(share as u64)
    }

    /// Keeps the received part of a broken transfer.
    pub(crate) fn park(&self, worker: &str, round: u64, incoming: Incoming) {
        if incoming.assembler.received() > 0 {
            self.parked().insert(worker.to_owned(), Parked { round, incoming });
        }
    }

    /// Keeps the memory of vectors that nobody else holds.
    pub(crate) fn reuse(&self, vectors: impl IntoIterator<Item = Vector>) {
        for vector in vectors.into_iter().filter_map(|vector| Arc::try_unwrap(vector).ok()) {
            self.buffers.give(vector);
        }
    }

    /// Forgets every parked part.
    pub(crate) fn drop_parked(&self) {
        self.parked().clear();
    }

    fn parked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes moved since the last call, down and up.
    pub(crate) fn take_bytes(&self) -> (u64, u64) {
        (self.bytes_down.swap(0, Ordering::Relaxed), self.bytes_up.swap(0, Ordering::Relaxed))
    }
}

/// Counted among those who wait, until dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run, for the services.
#[derive(Debug, Clone)]
pub(crate) struct RunHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u64,
    commands: mpsc::Sender<Command>,
    pub(crate) summary: watch::Receiver<RunSummary>,
    /// The sequence number after the newest event, and whether the run has ended.
    pub(crate) log: watch::Receiver<(u64, bool)>,
}

impl RunHandle {
    /// Sends a command; false when the run's task is gone (the coordinator is stopping).
    pub(crate) async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// Sends a command if there is room; for senders that must not wait.
    pub(crate) fn try_send(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::warn!(run = self.shared.id, %error, "a command was dropped");
        }
    }

    /// Asks something that may stay without an answer, when the run has no time for it.
    pub(crate) async fn ask_if_idle<T>(
        &self,
        patience: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).ok()?;
        tokio::time::timeout(patience, answer).await.ok()?.ok()
    }

    /// Sends a command that wants an answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
