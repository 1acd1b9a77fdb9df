//! Where a run without rounds stands, in one file: the machine, who trains on which model until when, and what
//! waits in the buffer. It is written between two things that happen on the virtual clock; who was training
//! trains again from the same model, so that the bytes are those of an undisturbed simulation.

use super::{Awaited, Drive, Key, Millis, Step};
use crate::{
    snapshot,
    training::{Setup, SimulationError, client_index, client_name, flow::Buffer, lane::Order, server::STATE},
};
use algorithms::{MODEL, Vector, Vectors};
use coordinator::{
    machine::{Machine, Token},
    store::RunRecord,
};
use proto::digest::Digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

/// Vectors are named by where they lie in the list.
type Names = BTreeMap<String, usize>;

/// What is kept beside the vectors, as JSON: parts of it describe themselves.
#[derive(Debug, Serialize, Deserialize)]
struct Facts<M = Machine, R = RunRecord> {
    machine: M,
    record: R,
    now: Millis,
    timers: BTreeSet<(Millis, Token)>,
    awaited: Vec<(Key, Waiting)>,
    orders: u64,
    server: Names,
    buffer: Vec<(Names, usize)>,
    bytes: (u64, u64),
    quarantined: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    worker: String,
    round: u64,
    since: Millis,
    base: usize,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File<V = Vec<Vec<f32>>> {
    facts: String,
    vectors: V,
}

/// A simulation that was interrupted.
#[derive(Debug)]
pub(in crate::training) struct Paused {
    facts: Facts,
    vectors: Vec<Vector>,
}

fn file(setup: &Setup) -> PathBuf {
    setup.folder.join(STATE).join("flow")
}

impl Paused {
    /// Reads where this simulation was interrupted, if it was.
    pub(in crate::training) fn read(setup: &Setup) -> Result<Option<Self>, SimulationError> {
        if setup.spec.asynchronous.is_none() {
            return Ok(None);
        }
        let path = file(setup);
        let Some(File { facts, vectors }) = snapshot::read::<File>(&path)? else { return Ok(None) };
        let facts: Facts =
            serde_json::from_str(&facts).map_err(|error| SimulationError::file(path, error))?;
        let same = facts.record.spec == setup.spec && facts.record.members.len() == setup.clients;
        Ok(same.then(|| Self { facts, vectors: vectors.into_iter().map(Arc::new).collect() }))
    }

    /// The run's record and the server's vectors.
    pub(in crate::training) fn server(&self) -> (RunRecord, Vectors) {
        (self.facts.record.clone(), self.named(&self.facts.server))
    }

    fn vector(&self, at: usize) -> Vector {
        self.vectors.get(at).cloned().unwrap_or_default()
    }

    fn named(&self, names: &Names) -> Vectors {
        names.iter().map(|(name, at)| (name.clone(), self.vector(*at))).collect()
    }
}

/// Vectors, each once.
#[derive(Debug, Default)]
struct Shelf {
    places: BTreeMap<Digest, usize>,
    vectors: Vec<Vector>,
}

impl Shelf {
    fn place(&mut self, vector: &Vector) -> usize {
        let next = self.vectors.len();
        let at = *self.places.entry(Digest::of_vector(vector)).or_insert(next);
        if at == next {
            self.vectors.push(Arc::clone(vector));
        }
        at
    }

    fn names(&mut self, vectors: &Vectors) -> Names {
        vectors.iter().map(|(name, vector)| (name.clone(), self.place(vector))).collect()
    }
}

impl Drive<'_, '_> {
    /// Between two things that happen: keeps where a run without rounds stands, when it is time or `now`.
    pub(super) fn keep(&mut self, now: bool) -> Step {
        let quiet = self.due.is_empty() && self.line.is_none() && self.ended.is_none();
        if self.server.spec.asynchronous.is_none() || !quiet || !(now || self.pace.due()) {
            return Ok(());
        }
        let mut shelf = Shelf::default();
        let waiting = |(key, awaited): (&Key, &Awaited)| {
            let Awaited { worker, round, since, base } = awaited;
            let base = shelf.place(base.as_ref()?);
            Some((*key, Waiting { worker: worker.clone(), round: *round, since: *since, base }))
        };
        let awaited = self.awaited.iter().filter_map(waiting).collect();
        let buffered = |(upload, base): &(Vectors, Vector)| (shelf.names(upload), shelf.place(base));
        let buffer = self.server.buffer.updates().iter().map(buffered).collect();
        let facts = Facts {
            machine: &self.machine,
            record: &self.server.record,
            now: self.now,
            timers: self.timers.clone(),
            awaited,
            orders: self.orders,
            server: shelf.names(&self.server.vectors),
            buffer,
            bytes: self.server.bytes,
            quarantined: self.server.quarantined.clone(),
        };
        let path = self.server.folder.join("flow");
        let facts = serde_json::to_string(&facts).map_err(|error| SimulationError::file(&path, error))?;
        let vectors: Vec<&[f32]> = shelf.vectors.iter().map(|vector| vector.as_slice()).collect();
        self.pace.pay(|| snapshot::write(&path, &File { facts, vectors }))
    }

    /// Goes on with what was kept; who was training is asked again.
    pub(super) fn go_on(&mut self, paused: Paused) {
        let updates = paused.facts.buffer.iter().map(|(names, at)| (paused.named(names), paused.vector(*at)));
        self.server.buffer = Buffer::of(updates.collect());
        for (key, Waiting { worker, round, since, base }) in &paused.facts.awaited {
            let Some(client) = client_index(worker) else { continue };
            let base = paused.vector(*base);
            let order = Order {
                client,
                name: client_name(client),
                round: *round,
                lr: self.server.spec.lr(*round),
                clip_norm: None,
                down: Vectors::from([(MODEL.to_owned(), Arc::clone(&base))]),
                recalled: Vec::new(),
            };
            self.desk.order(*key, order);
            self.keys.insert(worker.clone(), *key);
            let awaited = Awaited { worker: worker.clone(), round: *round, since: *since, base: Some(base) };
            self.awaited.insert(*key, awaited);
        }
        let Facts { machine, now, timers, orders, bytes, quarantined, .. } = paused.facts;
        (self.machine, self.now, self.timers, self.orders) = (machine, now, timers, orders);
        (self.server.bytes, self.server.quarantined) = (bytes, quarantined);
    }
}
