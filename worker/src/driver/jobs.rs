//! The one task that works: client state, fetching, training, uploading, one job after the other.
//!
//! Trainer and client state live here and are lent to a blocking thread for whatever computes or
//! touches the disk. A job may be cancelled while it waits for the network at once, while it trains at
//! the next step, and never while it writes client state.

mod account;
mod bench;

use super::{Tagged, report::Reporter};
use crate::{
    client_state::{Pending, States},
    message::{self, Assignment, Evaluation, Wanted},
    session::{Event, JobId, Work},
    trainer::{Judged, Scores, Train},
    transfer::{Cache, Line, Offer, TransferError, Verdict, fetch, upload},
};
pub(super) use account::Account;
use algorithms::{Algorithm, MODEL, Vector, Vectors};
use bench::{Bench, Next};
use proto::{
    digest::Digest,
    names::{RunId, WorkerName},
    spec::RunSpec,
    v1::{self, DeclineReason, Phase, WorkerMessage, worker_message::Body},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// A job to be done.
pub(super) struct Order {
    pub(super) id: JobId,
    pub(super) work: Work,
    pub(super) cancel: CancellationToken,
}

/// Why a job did not come to its end.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It is void, or the worker stops.
    Cancelled,
    /// The coordinator must know.
    Declined(DeclineReason, String),
}

impl From<TransferError> for Ended {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Stopping(_) => Self::Cancelled,
            other => Self::Declined(DeclineReason::Transfer, other.to_string()),
        }
    }
}

/// Everything that jobs need.
pub(super) struct Jobs {
    worker: WorkerName,
    line: Line,
    cache: Cache,
    bench: Bench,
    /// The last upload of a run that was found faulty: never sent again.
    faulty: BTreeMap<RunId, Digest>,
}

impl Jobs {
    pub(super) fn new(
        worker: WorkerName,
        line: Line,
        trainer: Box<dyn Train>,
        (states, account): (States, Account),
    ) -> Self {
        let bench = Bench::new(trainer, states, account);
        Self { worker, line, cache: Cache::default(), bench, faulty: BTreeMap::new() }
    }

    /// Works until nobody orders any more.
    pub(super) async fn serve(mut self, mut orders: mpsc::Receiver<Order>, events: mpsc::Sender<Tagged>) {
        while let Some(Order { id, work, cancel }) = orders.recv().await {
            match work {
                Work::Train(assignment) => self.train_or_decline(&assignment, &cancel).await,
                Work::Evaluate(evaluation) => self.evaluate_or_report(&evaluation, &cancel).await,
                Work::Settle { run, round, included } => self.bench.settle(run, round, included).await,
                Work::Forget { run } => {
                    self.cache.forget(&run);
                    self.faulty.remove(&run);
                    self.bench.forget(run).await;
                }
            }
            let _ = events.send((None, Event::Ended(id))).await;
        }
    }

    async fn train_or_decline(&mut self, order: &Assignment, cancel: &CancellationToken) {
        let Assignment { run, round, .. } = order;
        match self.train(order, cancel).await {
            Ok(()) => {}
            Err(Ended::Cancelled) => tracing::info!(%run, round, "stopped"),
            Err(Ended::Declined(reason, detail)) => {
                tracing::warn!(%run, round, reason = reason.label(), detail, "declined");
                let decline =
                    v1::Decline { run: run.to_string(), round: *round, reason: reason.into(), detail };
                self.tell(Body::Decline(decline), cancel).await;
            }
        }
    }

    async fn train(&mut self, order: &Assignment, cancel: &CancellationToken) -> Result<(), Ended> {
        let Assignment { run, round, .. } = order;
        let algorithm: Arc<dyn Algorithm> = match order.spec.algorithm.make() {
            Ok(algorithm) => algorithm.into(),
            Err(error) => return Err(Ended::Declined(DeclineReason::Spec, error.to_string())),
        };
        tracing::info!(%run, round, algorithm = order.spec.algorithm.kind, "assigned");
        let pending = match self.bench.next(order, order.spec.has_client_state(algorithm.as_ref())).await? {
            Next::Counted => {
                tracing::info!(%run, round, "nothing to do: this round was counted already");
                return Ok(());
            }
            Next::Offer(pending) => pending,
            Next::Train(state) => {
                let length = self.bench.prepare(Arc::clone(&order.spec)).await?;
                self.bench.admit(order, Arc::clone(&algorithm), length).await?;
                let down = self.vectors(order, algorithm.as_ref(), length, cancel).await?;
                let reporter = Reporter::new(&self.line, run, *round, Phase::Training);
                let task =
                    bench::Task { order: order.clone(), algorithm: Arc::clone(&algorithm), down, state };
                self.bench.train(task, reporter, cancel.clone()).await?
            }
        };
        if order.spec.has_local_noise() {
            self.bench.pay(order, algorithm, &pending).await?;
        }
        let packed = order.spec.packs_uploads();
        self.offer(run, (&pending, packed), cancel).await
    }

    /// The vectors that the algorithm sends down, each of the model's length.
    async fn vectors(
        &mut self,
        order: &Assignment,
        algorithm: &dyn Algorithm,
        length: usize,
        cancel: &CancellationToken,
    ) -> Result<Vectors, Ended> {
        let wanted = |name: &str| {
            let found = order.vectors.iter().find(|vector| vector.name == name);
            let wrong = |detail| Ended::Declined(DeclineReason::Spec, detail);
            let vector = found.ok_or_else(|| wrong(format!("the assignment lacks vector `{name}`")))?;
            check_length(vector, length).map_err(wrong)?;
            Ok(vector.clone())
        };
        let again = algorithm.recalled().iter().map(|(_, under)| *under);
        // A worker that was never counted receives nothing again.
        let again = again.filter(|name| order.vectors.iter().any(|vector| vector.name == *name));
        let names = algorithm.down().iter().copied().chain(again);
        let (model, others) = (wanted(MODEL)?, names.map(wanted).collect::<Result<Vec<Wanted>, Ended>>()?);
        let packed =
            algorithm.packed().and_then(|name| order.vectors.iter().find(|vector| vector.name == name));
        let named = others.iter().chain([&model]).chain(packed).map(|vector| vector.digest);
        self.cache.keep(&order.run, named);
        let (run, round, spec) = (&order.run, order.round, &order.spec);
        let mut down = Vectors::new();
        down.insert(MODEL.to_owned(), self.model((run, round, spec), (&model, packed), cancel).await?);
        for vector in others {
            let value = self.vector(run, round, &vector, cancel).await?;
            down.insert(vector.name, value);
        }
        Ok(down)
    }

    /// A model: from what is held, or made from something shorter, or as it is.
    async fn model(
        &mut self,
        (run, round, spec): (&RunId, u64, &Arc<RunSpec>),
        (model, packed): (&Wanted, Option<&Wanted>),
        cancel: &CancellationToken,
    ) -> Result<Vector, Ended> {
        let shorter = packed.filter(|packed| packed.length < model.length);
        let Some(packed) = shorter.filter(|_| self.cache.get(&model.digest).is_none()) else {
            return self.vector(run, round, model, cancel).await;
        };
        let words = self.vector(run, round, packed, cancel).await?;
        let made = self.bench.unpack(Arc::clone(spec), words).await?;
        let digest = Digest::of_vector(&made);
        if digest != model.digest {
            let detail = format!("`{}` makes the model {digest}, expected {}", packed.name, model.digest);
            return Err(Ended::Declined(DeclineReason::Transfer, detail));
        }
        self.cache.insert(digest, Arc::clone(&made));
        Ok(made)
    }

    async fn vector(
        &mut self,
        run: &RunId,
        round: u64,
        wanted: &Wanted,
        cancel: &CancellationToken,
    ) -> Result<Vector, Ended> {
        if let Some(held) = self.cache.get(&wanted.digest) {
            return Ok(held);
        }
        let (began, length) = (Instant::now(), wanted.length as usize);
        let mut reporter = Reporter::new(&self.line, run, round, Phase::Fetching);
        let mut report = |done| reporter.report(done, length as u64 * 4);
        let room = self.cache.room(length);
        let fetching = fetch(&mut self.line, run.as_str(), wanted.digest, room, &mut report);
        let vector = Arc::new(unless(cancel, fetching).await??);
        let (mb, seconds) = (length as f64 * 4e-6, began.elapsed().as_secs_f64());
        tracing::info!(%run, round, vector = wanted.name, mb, seconds, "fetched");
        self.cache.insert(wanted.digest, Arc::clone(&vector));
        Ok(vector)
    }

    async fn offer(
        &mut self,
        run: &RunId,
        (pending, packed): (&Pending, bool),
        cancel: &CancellationToken,
    ) -> Result<(), Ended> {
        let round = pending.round;
        if self.faulty.get(run) == Some(&pending.basis) {
            tracing::warn!(%run, round, "not sent again: the coordinator has found this update faulty");
            return Ok(());
        }
        let offer =
            Offer { header: header(run, &self.worker, (pending, packed)), vectors: pending.upload.clone() };
        let bytes = pending.upload.values().map(|vector| vector.len() as u64 * 4).sum();
        let mut reporter = Reporter::new(&self.line, run, round, Phase::Uploading);
        let mut report = |done| reporter.report(done, bytes);
        let began = Instant::now();
        let verdict = unless(cancel, upload(&mut self.line, &offer, &mut report)).await?;
        let (mb, seconds) = (bytes as f64 * 1e-6, began.elapsed().as_secs_f64());
        match verdict {
            Ok(Verdict::Counted { again }) => tracing::info!(%run, round, mb, seconds, again, "uploaded"),
            Ok(Verdict::Rejected { reason, detail }) => {
                let reason_text = reason.label();
                tracing::warn!(%run, round, reason = reason_text, detail, "rejected: this update does not count");
                if reason.is_fault() {
                    self.faulty.insert(run.clone(), pending.basis);
                }
            }
            // The update is kept: if the round is assigned again, it is offered again.
            Err(error) => tracing::warn!(%run, round, %error, "not uploaded"),
        }
        Ok(())
    }

    async fn evaluate_or_report(&mut self, order: &Evaluation, cancel: &CancellationToken) {
        let Evaluation { run, round, .. } = order;
        let scores = match self.evaluate(order, cancel).await {
            Ok(scores) => scores,
            Err(Ended::Cancelled) => return,
            // No predictions, so that nobody waits for a report that cannot come.
            Err(Ended::Declined(_, detail)) => {
                tracing::warn!(%run, round, detail, "cannot evaluate, reporting no predictions");
                Judged::default()
            }
        };
        let Scores { predictions, correct, .. } = scores.shared;
        tracing::info!(%run, round, predictions, correct, "evaluated");
        self.tell(Body::Evaluation(message::report(run, *round, scores)), cancel).await;
    }

    async fn evaluate(&mut self, order: &Evaluation, cancel: &CancellationToken) -> Result<Judged, Ended> {
        let length = self.bench.prepare(Arc::clone(&order.spec)).await?;
        check_length(&order.model, length).map_err(|detail| Ended::Declined(DeclineReason::Spec, detail))?;
        for vector in [&order.model].into_iter().chain(&order.packed) {
            self.cache.keep_also(&order.run, vector.digest);
        }
        let named = (&order.run, order.round, &order.spec);
        let model = self.model(named, (&order.model, order.packed.as_ref()), cancel).await?;
        self.bench.evaluate(order, model, cancel.clone()).await
    }

    /// Says something that must be heard: waits for a session.
    async fn tell(&mut self, body: Body, cancel: &CancellationToken) {
        let telling = async {
            if let Ok(live) = self.line.live().await {
                let _ = live.out.send(WorkerMessage { body: Some(body) }).await;
            }
        };
        let _ = unless(cancel, telling).await;
    }
}

async fn unless<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Ended> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Ended::Cancelled),
        done = work => Ok(done),
    }
}

fn check_length(vector: &Wanted, length: usize) -> Result<(), String> {
    if vector.length == length as u64 {
        return Ok(());
    }
    let Wanted { name, length: given, .. } = vector;
    Err(format!("vector `{name}` has {given} elements, but the model has {length} on this worker's data"))
}

fn header(run: &RunId, worker: &WorkerName, (pending, packed): (&Pending, bool)) -> v1::UploadHeader {
    let element = if packed { v1::ElementType::Packed } else { v1::ElementType::F32 };
    let shape = |(name, vector): (&String, &Vector)| v1::VectorShape {
        name: name.clone(),
        length: vector.len() as u64,
        element: element.into(),
    };
    v1::UploadHeader {
        run: run.to_string(),
        round: pending.round,
        worker: worker.to_string(),
        vectors: pending.upload.iter().map(shape).collect(),
        digest: pending.digest.0.to_vec(),
        examples: pending.facts.examples,
        steps: pending.facts.steps,
        lr: pending.facts.lr,
        train_loss: pending.facts.train_loss,
        seconds: pending.facts.seconds,
    }
}
