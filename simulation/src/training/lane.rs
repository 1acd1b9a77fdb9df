//! A lane: one thread that is one client after the other, exactly as a worker is.

use super::{
    SimulationError,
    desk::Desk,
    secrets::Secrets,
    shares::Shares,
    states::{States, load},
};
use algorithms::{Algorithm, Vector, Vectors, compress::Packing, local::LocalPlan, personal::Own};
use coordinator::store::Blobs;
use privacy::ClipNorm;
use proto::{digest::Digest, spec::RunSpec};
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};
use worker::{
    data::Dataset,
    engine::Model,
    trainer::{
        LocalResult, Outgoing, Private, Progress, Promise, Seal, ShareMaker, TrainError, TrainJob, Trained,
        Turn, Way, clips_layers, local_run, outgoing, packing_seed,
    },
};

/// A client's part of a round.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) client: usize,
    pub(super) name: String,
    pub(super) round: u64,
    pub(super) lr: f32,
    /// To which an upload is shortened, in a run that promises privacy.
    pub(super) clip_norm: Option<ClipNorm>,
    /// What every member receives.
    pub(super) down: Vectors,
    /// What this one receives again.
    pub(super) recalled: Vec<(String, Digest)>,
}

/// What a client sends, and what it will keep.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) examples: u64,
    pub(super) steps: u32,
    pub(super) loss: f64,
    /// As the coordinator reads it.
    pub(super) upload: Vectors,
    /// What travelled.
    pub(super) bytes: u64,
    pub(super) next: Vectors,
}

/// How an order went.
#[derive(Debug)]
pub(super) enum Report {
    Done(Box<Update>),
    Declined(TrainError),
    Broken(SimulationError),
}

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) spec: Arc<RunSpec>,
    pub(super) algorithm: &'a dyn Algorithm,
    pub(super) packing: Option<&'a Packing>,
    /// Which parts of the model stay with their client.
    pub(super) own: Option<&'a Own>,
    pub(super) model: &'a Model,
    pub(super) shares: &'a Shares,
    pub(super) states: &'a Mutex<States>,
    pub(super) blobs: &'a Blobs,
    pub(super) desk: &'a Desk,
    /// Where clients add the noise together.
    pub(super) maker: Option<&'a ShareMaker>,
    pub(super) promise: Option<Arc<Promise>>,
    pub(super) secrets: &'a Secrets,
}

impl Ground<'_> {
    /// Serves the desk until it closes.
    pub(super) fn serve(&self) {
        while let Some((key, order, flag)) = self.desk.next() {
            let mut go = |_: Progress| {
                if flag.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            // As in the worker: a bug of the engine costs an update, not the simulation.
            let caught = catch_unwind(AssertUnwindSafe(|| self.work(order, &mut go)));
            let report = caught.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "no message".into());
                Report::Declined(TrainError::Training(format!("internal error: {text}")))
            });
            self.desk.done(key, report);
        }
    }

    fn work(&self, order: Order, go: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Report {
        let Order { client, name, round, lr, clip_norm, mut down, recalled } = order;
        let found = self.states.lock().unwrap_or_else(PoisonError::into_inner).find(client);
        let state = match load(found) {
            Ok(state) => state,
            Err(error) => return Report::Broken(error),
        };
        for (under, digest) in recalled {
            match self.blobs.get(digest, Vec::new) {
                Ok(vector) => drop(down.insert(under, vector)),
                Err(error) => return Report::Broken(error.into()),
            }
        }
        let mut trained = || {
            let secret = |promise: &Arc<Promise>| {
                Private::new(Arc::clone(promise), self.secrets.client(client, round))
            };
            let private = self.promise.as_ref().map(secret);
            let layers = if clips_layers(&self.spec) { self.model.layers() } else { Vec::new() };
            let key = self.secrets.client(client, round).release(0);
            let seal = match (&private, clip_norm, self.maker) {
                (.., Some(maker)) => Seal::Shared { maker, key: &key, round },
                (Some(private), ..) => private.seal(&layers),
                (None, Some(norm), _) => Seal::Clipped(norm, &layers),
                (None, None, _) => Seal::Open,
            };
            let spec = Arc::clone(&self.spec);
            let hidden = (1, spec.local.steps.unwrap_or(1), 0.0);
            let (own, examples) = (self.own, self.shares.of(client));
            let turn =
                Turn { spec: &spec, algorithm: self.algorithm, own, round, lr, private: private.clone() };
            let received = std::mem::take(&mut down);
            let Trained { result: trained, down, kept } =
                turn.train(received, &state, &mut |job| local_run(self.model, &examples, job, &name, go));
            let (examples, steps, loss) = match &trained {
                Ok(LocalResult { run, examples, loss }) if private.is_none() && self.maker.is_none() => {
                    (*examples, run.steps, *loss)
                }
                _ => hidden,
            };
            let run = trained.map(|trained| trained.run);
            let seed = packing_seed(self.spec.seed, &name);
            let packing = self.packing.map(|packing| (packing, seed));
            let way = Way { round, seal, packing, own: own.map(|own| (own, &kept)) };
            let Outgoing { payload, read, next } =
                outgoing(self.algorithm, run, (&down, &state), &way, &mut |_| ())?;
            let bytes = payload.values().map(|vector| vector.len() as u64 * 4).sum();
            Ok(Update { examples, steps, loss, upload: read, bytes, next })
        };
        match trained() {
            Ok(update) => Report::Done(Box::new(update)),
            Err(error) => Report::Declined(error),
        }
    }
}

/// Local runs without a federation around them.
#[derive(Debug, Clone, Copy)]
pub struct LocalWork<'a> {
    /// Local training.
    pub spec: &'a Arc<RunSpec>,
    /// The network.
    pub model: &'a Model,
    /// A client's examples.
    pub examples: &'a Dataset,
    /// From which weights.
    pub w: &'a Vector,
}

/// The training steps of a client's round and nothing else: no state, no update, no aggregation. What a
/// round costs beyond it is the cost of federation.
///
/// # Errors
/// As for the worker's local run.
pub fn bare(work: &LocalWork<'_>, client: usize, round: u64) -> Result<LocalResult, TrainError> {
    let job = TrainJob {
        spec: Arc::clone(work.spec),
        round,
        lr: work.spec.lr(round),
        model: Arc::clone(work.w),
        plan: LocalPlan::default(),
        private: None,
    };
    let name = super::client_name(client);
    local_run(work.model, work.examples, &job, &name, &mut |_| ControlFlow::Continue(()))
}
