//! The peers: a machine each, with what its driver would keep, and the work that they do between two messages.

use crate::{
    parallel::in_order,
    training::{STEP_MS, Setup, Shares, SimulationError, client_name},
};
use algorithms::Vector;
use gossip::{
    Schedule,
    machine::{Action, Done, Errand, Event, Machine, Member, Membership, State},
    sketch::sketch,
};
use proto::{
    peers::id_of,
    spec::{Mixing, RunSpec},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use worker::{
    engine::Model,
    peer::{Form, Turn, answer, difference_seed},
    trainer::{LocalResult, TrainError, local_run, packing_seed, steps_due},
};

/// So many rounds before an evaluation a large model is measured, too, for the prediction.
const WINDOW: u64 = gossip::predict::KEPT as u64;
/// Up to so many parameters a sketch of every model in every round costs nothing.
const SMALL: usize = 200_000;

/// A peer.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) machine: Machine<f32>,
    pub(super) name: String,
    /// Its share of the data.
    pub(super) share: usize,
    /// Where its last local run ended, for relaxed starts.
    last_end: Option<Vec<f32>>,
    /// Of its last local run: a sketch of the change, and the mean loss.
    pub(super) trained: (Vec<f32>, f64),
}

/// What a peer's driver must not forget.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Memory<M = State<f32>> {
    machine: M,
    last_end: Option<Vec<f32>>,
    trained: (Vec<f32>, f64),
}

/// What a peer does until its machine hears of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Mixing goes on within a round; nothing is trained.
    Idle,
    /// A local run of that round.
    Local(u64, Box<Errand<f32>>),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) done: Done<f32>,
    /// Sketch of the change, mean loss, and the end if the local rule wants it.
    facts: Option<(Vec<f32>, f64, Option<Vec<f32>>)>,
}

/// All of them, in the order of their ids, which is the topology's.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) spec: Arc<RunSpec>,
    pub(super) mixing: Mixing,
    pub(super) schedule: Schedule,
    pub(super) model: Model,
    pub(super) shares: Shares,
    pub(super) threads: usize,
    nodes: Vec<Mutex<Node>>,
    places: BTreeMap<u64, usize>,
    form: Form,
    /// The model that all start from.
    origin: Vector,
}

impl Fleet {
    /// Everybody before the first round.
    pub(super) fn new(setup: &Setup) -> Result<Self, SimulationError> {
        let Setup { spec, train, .. } = setup;
        let wrong = |text: String| SimulationError::Setup(text);
        let mixing = spec.mixing().map_err(|error| wrong(error.to_string()))?;
        let n = mixing.nodes;
        if setup.clients != n {
            return Err(wrong(format!("{} clients, expected the {n} of `topology.nodes`", setup.clients)));
        }
        if spec.privacy.is_some() {
            return Err(wrong(
                "privacy: simulated peers keep no ledger; train with `starling peer`, or remove the section"
                    .into(),
            ));
        }
        let division = spec.data.partition.as_ref().ok_or_else(|| {
            wrong("data.partition: missing; expected how the data is divided among the peers, e.g. { kind = \"iid\" }".into())
        })?;
        let shares = Shares::divide(train, division, n, spec.seed)?;
        let model = Model::new(&spec.model, train.info()).map_err(|error| wrong(error.to_string()))?;
        let model = model.placed(&setup.placement);
        let shapes: Vec<Vec<usize>> = model.tensors().iter().map(|tensor| tensor.shape.clone()).collect();
        let form = Form::new(&mixing, &shapes).map_err(|error| wrong(error.to_string()))?;
        let origin = Arc::new(model.initial(spec.seed));
        let mut nodes = Vec::with_capacity(n);
        let member = |share: usize| Member { id: id_of(&client_name(share)), incarnation: 0 };
        let mut members = Membership::new((0..n).map(member));
        if mixing.config.weighted {
            (0..n).for_each(|share| members.weigh(member(share), shares.size(share) as u64));
        }
        for share in 0..n {
            let start = (0, origin.as_ref().clone());
            let machine = Machine::new(mixing.config.clone(), member(share), members.clone(), start);
            let machine = machine.map_err(|error| wrong(error.to_string()))?.from_origin(&origin);
            let (name, trained) = (client_name(share), (Vec::new(), 0.0));
            nodes.push(Node { machine, name, share, last_end: None, trained });
        }
        nodes.sort_by_key(|node| node.machine.me().id);
        let places = nodes.iter().enumerate().map(|(at, node)| (node.machine.me().id, at)).collect();
        Ok(Self {
            spec: Arc::new(spec.clone()),
            schedule: mixing.schedule(),
            mixing,
            model,
            shares,
            threads: setup.threads.max(1),
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            places,
            form,
            origin,
        })
    }

    /// What all peers must not forget, to `write`.
    pub(super) fn memories<T>(&self, write: impl FnOnce(&[Memory<&State<f32>>]) -> T) -> T {
        let nodes: Vec<MutexGuard<'_, Node>> = (0..self.len()).map(|at| self.node(at)).collect();
        let memory = |node: &'_ Node| (node.last_end.clone(), node.trained.clone());
        let all = nodes.iter().map(|node| {
            let (last_end, trained) = memory(node);
            Memory { machine: node.machine.state(), last_end, trained }
        });
        write(&all.collect::<Vec<_>>())
    }

    /// Goes on with what was kept.
    pub(super) fn remember(&mut self, memories: Vec<Memory>) -> Result<(), SimulationError> {
        for (node, Memory { machine, last_end, trained }) in self.nodes.iter_mut().zip(memories) {
            let node = node.get_mut().unwrap_or_else(PoisonError::into_inner);
            let machine = Machine::resume(self.mixing.config.clone(), machine);
            node.machine = machine.map_err(|error| SimulationError::Failed(error.to_string()))?;
            (node.last_end, node.trained) = (last_end, trained);
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, at: usize) -> MutexGuard<'_, Node> {
        self.nodes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the peer of that id stands.
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// Virtual milliseconds of a local run.
    pub(super) fn duration(&self, at: usize, round: u64) -> u64 {
        let examples = self.shares.size(self.node(at).share);
        u64::from(steps_due(&self.spec, round, examples)) * STEP_MS
    }

    /// What each of these peers does on its events, side by side.
    pub(super) fn wave(
        &self,
        now: u64,
        events: BTreeMap<usize, Vec<Event<f32>>>,
    ) -> Vec<(usize, Vec<Action<f32>>)> {
        let all: Vec<(usize, Mutex<Vec<Event<f32>>>)> =
            events.into_iter().map(|(at, events)| (at, Mutex::new(events))).collect();
        in_order(self.threads, all.len(), |index| {
            let (at, events) = &all[index];
            let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
            let mut node = self.node(*at);
            (*at, events.into_iter().flat_map(|event| node.machine.handle(event, now)).collect())
        })
    }

    /// Does what these peers have to do, side by side.
    pub(super) fn work(&self, todo: Vec<(usize, Work)>) -> Vec<(usize, Result<Finished, TrainError>)> {
        let all: Vec<(usize, Mutex<Option<Work>>)> =
            todo.into_iter().map(|(at, work)| (at, Mutex::new(Some(work)))).collect();
        in_order(self.threads, all.len(), |index| {
            let (at, work) = &all[index];
            let work = work.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Work::Idle);
            (*at, self.one(*at, work))
        })
    }

    fn one(&self, at: usize, work: Work) -> Result<Finished, TrainError> {
        let Work::Local(round, mut errand) = work else {
            return Ok(Finished { done: vec![0.0; self.origin.len()].into(), facts: None });
        };
        let (name, share, last_end) = {
            let node = self.node(at);
            (node.name.clone(), node.share, node.last_end.clone())
        };
        let (spec, local) = (&self.spec, &self.mixing.local);
        let model = std::mem::take(&mut errand.model);
        let turn = Turn { spec, local, round, last_end: last_end.as_deref() };
        let job = turn.job(&model, errand.shift.clone());
        let go = &mut |_| ControlFlow::Continue(());
        let LocalResult { run, loss, .. } = local_run(&self.model, &self.shares.of(share), &job, &name, go)?;
        let mut change: Vec<f32> = run.end.iter().zip(model.iter()).map(|(end, z)| end - z).collect();
        errand.weigh(&mut change);
        let sketch = self.sketch(round, &change);
        let seed = difference_seed(packing_seed(spec.seed, &name), round);
        let pack = |off: Vec<f32>| self.form.pack(&off, seed).map_err(|error| error.to_string());
        let far = (spec.lr(round).into(), run.steps.into());
        let done = answer(*errand, (&model, change), far, (&self.origin, pack))?;
        let end = (local.relax != 0.0).then_some(run.end);
        Ok(Finished { done, facts: Some((sketch, loss, end)) })
    }

    /// Whether models are evaluated after that round.
    pub(super) fn is_due(&self, round: u64) -> bool {
        let every = self.spec.evaluation.every;
        every > 0 && ((round + 1).is_multiple_of(every) || round + 1 == self.spec.rounds)
    }

    /// Whether it is measured how far peers are apart after that round: always for small models, else where models
    /// are evaluated, and before that as far as the prediction looks back.
    pub(super) fn is_measured(&self, round: u64) -> bool {
        let near = || (round..round + WINDOW).any(|round| self.is_due(round));
        self.origin.len() <= SMALL || self.spec.evaluation.every == 0 || near()
    }

    /// A sketch of a peer's vector in that round; empty where nothing is measured.
    pub(super) fn sketch(&self, round: u64, x: &[f32]) -> Vec<f32> {
        if self.is_measured(round) { sketch(self.spec.seed, x) } else { Vec::new() }
    }

    /// Keeps what a peer's driver keeps, and gives what the machine gets.
    pub(super) fn keep(&self, at: usize, finished: Finished) -> Done<f32> {
        let mut node = self.node(at);
        if let Some((sketch, loss, end)) = finished.facts {
            node.trained = (sketch, loss);
            node.last_end = end.or_else(|| node.last_end.take());
        }
        finished.done
    }
}
