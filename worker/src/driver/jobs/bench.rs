//! Where a job blocks: trainer and client state, lent to a thread that may, and given back.
//!
//! A panic in there is a bug of the engine or of a data format. It is caught and declined: one run
//! that trips over it must not take the worker from the others.

use super::{Account, Ended, Reporter};
use crate::{
    client_state::{Durable, Facts, Pending, StateError, States, Verdict},
    message::{Assignment, Evaluation},
    trainer::{
        EvaluateJob, Judged, LocalResult, Outgoing, Private, Progress, Seal, ShareMaker, Train, TrainError,
        Trained, Turn, Way, clips_layers, draw_key, outgoing, packing_seed, personal_model,
    },
};
use algorithms::{Algorithm, MODEL, Vector, Vectors, compress::Packing, personal::Own};
use proto::{
    digest::Digest,
    names::{RunId, WorkerName},
    spec::{RunSpec, SpecError},
    v1::DeclineReason,
};
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;

/// What an assignment asks for.
pub(super) enum Next {
    /// Train from this client state.
    Train(Vectors),
    /// Offer what was made before.
    Offer(Pending),
    /// Nothing.
    Counted,
}

/// One local run with all that it needs.
pub(super) struct Task {
    pub(super) order: Assignment,
    pub(super) algorithm: Arc<dyn Algorithm>,
    pub(super) down: Vectors,
    pub(super) state: Vectors,
}

struct Tools {
    trainer: Box<dyn Train>,
    states: States,
    account: Account,
}

impl Tools {
    /// The model that this worker uses itself.
    fn personal(&mut self, run: &RunId, job: &EvaluateJob) -> Result<Option<Vector>, Ended> {
        let spec = &job.spec;
        let algorithm = spec.algorithm.make().map_err(wrong)?;
        if !spec.has_personal_models(algorithm.as_ref()) {
            return Ok(None);
        }
        let own = own(self.trainer.as_mut(), spec)?;
        let state = &self.states.get(run, &spec.algorithm.kind, true)?.state;
        Ok(personal_model(spec, algorithm.as_ref(), own.as_ref(), (&job.model, state)))
    }
}

/// Trainer, client state and privacy ledgers.
pub(super) struct Bench(Option<Tools>);

impl From<TrainError> for Ended {
    fn from(error: TrainError) -> Self {
        error.decline().map_or(Self::Cancelled, |reason| Self::Declined(reason, error.to_string()))
    }
}

impl From<StateError> for Ended {
    fn from(error: StateError) -> Self {
        Self::Declined(DeclineReason::State, error.to_string())
    }
}

impl Bench {
    pub(super) fn new(trainer: Box<dyn Train>, states: States, account: Account) -> Self {
        Self(Some(Tools { trainer, states, account }))
    }

    async fn lend<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Tools) -> Result<T, Ended> + Send + 'static,
    ) -> Result<T, Ended> {
        let mut tools = self.0.take().ok_or(Ended::Cancelled)?;
        let lent = spawn_blocking(move || {
            let done = catch_unwind(AssertUnwindSafe(|| work(&mut tools)));
            (tools, done)
        });
        // Only a runtime that is shutting down does not run it.
        let (tools, done) = lent.await.map_err(|_| Ended::Cancelled)?;
        self.0 = Some(tools);
        done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Ended::Declined(DeclineReason::Training, format!("internal error of the worker: {text}")))
        })
    }

    /// Settles client state by what the coordinator has counted, and says what is to be done.
    pub(super) async fn next(&mut self, order: &Assignment, stateful: bool) -> Result<Next, Ended> {
        let (order, basis) = (order.clone(), order.basis());
        self.lend(move |tools| {
            let Assignment { run, round, committed, .. } = &order;
            let keeps = keeps(&order.spec, stateful);
            let durable = tools.states.get(run, &order.spec.algorithm.kind, keeps)?;
            match durable.assigned(*round, basis, *committed, stateful) {
                Verdict::Counted => Ok(Next::Counted),
                Verdict::Offer => Ok(durable.pending.clone().map_or(Next::Counted, Next::Offer)),
                Verdict::Train => Ok(Next::Train(durable.state.clone())),
                Verdict::Lost { ours } => Err(Ended::Declined(DeclineReason::State, lost(ours, *committed))),
            }
        })
        .await
    }

    pub(super) async fn prepare(&mut self, spec: Arc<RunSpec>) -> Result<usize, Ended> {
        self.lend(move |tools| Ok(tools.trainer.prepare(&spec)?)).await
    }

    /// Whether the worker may take part, before anything is fetched.
    pub(super) async fn admit(
        &mut self,
        order: &Assignment,
        algorithm: Arc<dyn Algorithm>,
        length: usize,
    ) -> Result<(), Ended> {
        let order = order.clone();
        self.lend(move |tools| tools.account.admit(&order, algorithm.as_ref(), length)).await
    }

    /// Pays for an upload that is pending.
    pub(super) async fn pay(
        &mut self,
        order: &Assignment,
        algorithm: Arc<dyn Algorithm>,
        pending: &Pending,
    ) -> Result<(), Ended> {
        let (order, pending) = (order.clone(), pending.clone());
        self.lend(move |tools| {
            let length = tools.trainer.prepare(&order.spec)?;
            tools.account.pay(&order, algorithm.as_ref(), (length, &pending))
        })
        .await
    }

    /// Trains, and keeps the upload as pending before anything leaves the machine.
    pub(super) async fn train(
        &mut self,
        task: Task,
        mut reporter: Reporter,
        cancel: CancellationToken,
    ) -> Result<Pending, Ended> {
        self.lend(move |tools| {
            let (run, round) = (task.order.run.clone(), task.order.round);
            let mut report = |progress: Progress| {
                reporter.report(progress.done, progress.due);
                flow(&cancel)
            };
            let kind = task.order.spec.algorithm.kind.clone();
            let stateful = task.order.spec.has_client_state(task.algorithm.as_ref());
            let keeps = keeps(&task.order.spec, stateful);
            let length = task.down[MODEL].len();
            let private = tools.account.private(&task.order.spec, task.algorithm.as_ref(), length)?;
            let worker = tools.states.worker().clone();
            let pending = local_run(tools.trainer.as_mut(), (task, &worker), private.as_ref(), &mut report)?;
            let Facts { steps, train_loss, seconds, .. } = pending.facts;
            tracing::info!(%run, round, steps, train_loss, seconds, "trained");
            let durable: &mut Durable = tools.states.get(&run, &kind, keeps)?;
            durable.pending = Some(pending.clone());
            tools.states.save(&run)?;
            Ok(pending)
        })
        .await
    }

    /// The model that the run's algorithm makes from something shorter.
    pub(super) async fn unpack(&mut self, spec: Arc<RunSpec>, words: Vector) -> Result<Vector, Ended> {
        self.lend(move |tools| {
            let algorithm = spec.algorithm.make().map_err(wrong)?;
            let tensors = tools.trainer.tensors(&spec)?;
            let shapes: Vec<Vec<usize>> = tensors.into_iter().map(|(_, dimensions)| dimensions).collect();
            let made = algorithm.unpack(&words, &shapes).ok_or_else(|| {
                let detail = "what was sent instead of the model is no such model".to_owned();
                Ended::Declined(DeclineReason::Transfer, detail)
            })?;
            Ok(Arc::new(made))
        })
        .await
    }

    /// Judges the committed model, and the worker's own where there are such.
    pub(super) async fn evaluate(
        &mut self,
        order: &Evaluation,
        model: Vector,
        cancel: CancellationToken,
    ) -> Result<Judged, Ended> {
        let (run, job) = (order.run.clone(), EvaluateJob { spec: Arc::clone(&order.spec), model });
        self.lend(move |tools| {
            let report = &mut |_| flow(&cancel);
            let shared = tools.trainer.evaluate(&job, report)?;
            let asked = job.spec.evaluation.details;
            let details = asked.then(|| tools.trainer.details(&job, report)).transpose()?;
            let personal = match tools.personal(&run, &job)? {
                None => None,
                Some(model) => {
                    let job = EvaluateJob { spec: Arc::clone(&job.spec), model };
                    Some(tools.trainer.evaluate(&job, report)?)
                }
            };
            Ok(Judged { shared, personal, details })
        })
        .await
    }

    pub(super) async fn settle(&mut self, run: RunId, round: u64, included: bool) {
        let settled = self
            .lend(move |tools| {
                let made = tools.states.upload(&run);
                let known = tools.states.closed(&run, round, included)?;
                let dropped = made.into_values().filter_map(|vector| Arc::try_unwrap(vector).ok());
                dropped.for_each(|vector| tools.trainer.reuse(vector));
                if known || included {
                    tracing::info!(%run, round, included, "round closed");
                }
                Ok(())
            })
            .await;
        note(settled);
    }

    pub(super) async fn forget(&mut self, run: RunId) {
        note(self.lend(move |tools| Ok(tools.states.forget(&run)?)).await);
    }
}

/// A failure to settle is not lost: the file still holds what the next assignment settles by.
fn note(settled: Result<(), Ended>) {
    if let Err(Ended::Declined(_, detail)) = settled {
        tracing::warn!(detail, "client state was not brought up to date on disk");
    }
}

/// Whether the state of a run must survive the process: so must an upload that is paid for, or its noise would
/// have to be paid for twice.
fn keeps(spec: &RunSpec, stateful: bool) -> bool {
    stateful || spec.has_local_noise() || spec.has_shares()
}

fn flow(cancel: &CancellationToken) -> ControlFlow<()> {
    if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn lost(ours: Option<u64>, counted: Option<u64>) -> String {
    let round =
        |round: Option<u64>| round.map_or_else(|| "no round".into(), |round| format!("round {round}"));
    format!(
        "client state is lost: the coordinator has counted {} of this worker last, its own state contains {}; \
         restore the state directory, or start a new run (training on would bias this one for ever)",
        round(counted),
        round(ours)
    )
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn wrong(error: SpecError) -> Ended {
    Ended::Declined(DeclineReason::Spec, error.to_string())
}

fn packing(
    engine: &mut dyn Train,
    spec: &RunSpec,
    algorithm: &dyn Algorithm,
) -> Result<Option<Packing>, Ended> {
    if !spec.packs_uploads() {
        return Ok(None);
    }
    let tensors = engine.tensors(spec)?;
    spec.packing(algorithm, &tensors).map_err(wrong)
}

/// Which parts of the model are this worker's own.
fn own(engine: &mut dyn Train, spec: &RunSpec) -> Result<Option<Own>, Ended> {
    if spec.personal.is_none() {
        return Ok(None);
    }
    let tensors = engine.tensors(spec)?;
    spec.own(&tensors).map_err(wrong)
}

fn local_run(
    engine: &mut dyn Train,
    (task, worker): (Task, &WorkerName),
    private: Option<&Private>,
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Pending, Ended> {
    let Task { order, algorithm, down, state } = task;
    let basis = order.basis();
    let packing = packing(engine, &order.spec, algorithm.as_ref())?;
    let seed = packing_seed(order.spec.seed, worker.as_str());
    let Assignment { round, lr, spec, clip_norm, .. } = order;
    let maker = ShareMaker::of(&spec, algorithm.as_ref(), down[MODEL].len())?;
    let key = draw_key()?.release(0);
    let layers = if clips_layers(&spec) { engine.layers(&spec)? } else { Vec::new() };
    let began = Instant::now();
    let public_steps = spec.local.steps.unwrap_or(1);
    let told = spec.privacy.as_ref().is_some_and(|privacy| privacy.metrics().is_some());
    let own = own(engine, &spec)?;
    let turn = Turn {
        spec: &spec,
        algorithm: algorithm.as_ref(),
        own: own.as_ref(),
        round,
        lr,
        private: private.cloned(),
    };
    let Trained { result: trained, down, kept } =
        turn.train(down, &state, &mut |job| engine.train(job, report));
    let seconds = began.elapsed().as_secs_f64();
    let facts = match &trained {
        Ok(LocalResult { run, examples, loss })
            if clip_norm.is_none() && private.is_none() && maker.is_none() =>
        {
            Facts { examples: *examples, steps: run.steps, lr, train_loss: *loss, seconds }
        }
        Ok(LocalResult { loss, .. }) if told => {
            Facts { examples: 1, steps: public_steps, lr, train_loss: *loss, seconds: 0.0 }
        }
        // Nothing that was not paid for leaves the worker.
        _ => Facts { examples: 1, steps: public_steps, lr, train_loss: 0.0, seconds: 0.0 },
    };
    let seal = match (private, clip_norm, &maker) {
        (.., Some(maker)) => Seal::Shared { maker, key: &key, round },
        (Some(private), ..) => private.seal(&layers),
        (None, Some(norm), _) => Seal::Clipped(norm, &layers),
        (None, None, _) => Seal::Open,
    };
    // One pass over memory for finiteness and digest.
    let mut hasher = blake3::Hasher::new();
    let mut seen = |block: &[f32]| {
        hasher.update(bytemuck::cast_slice(block));
    };
    let run = trained.map(|trained| trained.run);
    let packing = packing.as_ref().map(|packing| (packing, seed));
    let way = Way { round, seal, packing, own: own.as_ref().map(|own| (own, &kept)) };
    let Outgoing { payload, next, .. } = outgoing(algorithm.as_ref(), run, (&down, &state), &way, &mut seen)?;
    let digest = Digest(*hasher.finalize().as_bytes());
    Ok(Pending { round, basis, facts, digest, upload: payload, next })
}
