//! A lane's vectors for one model, and the steps that were captured on it.
//!
//! Every step of one kind has the same addresses, so it is captured once as a graph and then launched
//! without the host: what changes from step to step (which examples, where the tallies go) is read from a
//! counter on the device.

use super::array::Array;
use super::feed::{Feed, Records, Resident, records_memory};
use super::lane::{Lane, args};
use super::ops::loss::{Tallies, cross_entropy};
use super::placement::Precision;
use super::walk::Shape;
use crate::engine::layout::Params;
use crate::engine::shards::Shard;
use crate::engine::tape::Tape;
use crate::engine::tensor::Tensor;
use crate::engine::{EngineError, Model};
use cudarc::driver::CudaGraph;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Steps between two waits for the device, so that a cancelled run ends soon.
const STEPS_AHEAD: usize = 64;
/// Numbers of a round and of a step, as in `steps.cu`.
pub(super) const NUMBERS: usize = 15;
/// Blocks of a sum of squares.
pub(super) const SQUARE_BLOCKS: usize = 512;

/// What a captured step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Loss and hits.
    Evaluate,
    /// A local step.
    Step(Shape),
}

/// Steps that are one graph: of resident data (by address), examples of a batch, task.
type Key = (usize, usize, Task);

struct Captured {
    graph: CudaGraph,
    feed: Feed,
    /// Stays as long as the graph reads it.
    _data: Arc<Resident>,
}

#[allow(unsafe_code, reason = "a graph is an address; the driver allows one thread at a time")]
// SAFETY: a session is used by one thread at a time.
unsafe impl Send for Captured {}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Captured")
    }
}

/// A lane at work on one model.
#[derive(Debug)]
pub(super) struct Session {
    graphs: BTreeMap<Key, Captured>,
    pub(super) lane: Arc<Lane>,
    pub(super) weights: Array,
    pub(super) gradient: Array,
    /// The place of the next forward pass in bfloat16: whoever changes that place keeps it.
    pub(super) narrow: Option<Array>,
    pub(super) numbers: Array,
    pub(super) partial: Array,
    tallies: Tallies,
    records: Array,
    /// Vectors of plans, by what they are.
    pub(super) vectors: BTreeMap<&'static str, Array>,
}

impl Session {
    pub(super) fn new(lane: Arc<Lane>, parameters: usize) -> Result<Self, EngineError> {
        let narrow = lane.precision() == Precision::Bf16;
        Ok(Self {
            graphs: BTreeMap::new(),
            weights: lane.fresh::<f32>(parameters)?,
            gradient: lane.fresh::<f32>(parameters)?,
            narrow: narrow.then(|| lane.fresh::<u16>(parameters)).transpose()?,
            numbers: lane.fresh::<f32>(NUMBERS)?,
            partial: lane.fresh::<f64>(SQUARE_BLOCKS)?,
            tallies: tallies(&lane, 1)?,
            records: records_memory(&lane, 1)?,
            vectors: BTreeMap::new(),
            lane,
        })
    }

    /// Sets the weights.
    pub(super) fn place_weights(&self, w: &[f32]) -> Result<(), EngineError> {
        self.lane.upload(&self.weights, w)?;
        self.round_weights()
    }

    /// After a change of the weights.
    pub(super) fn round_weights(&self) -> Result<(), EngineError> {
        let (w, n) = (&self.weights, self.weights.len());
        match &self.narrow {
            Some(narrow) => self.lane.each("narrow_all", n, args![w, narrow, n]),
            None => Ok(()),
        }
    }

    fn params(&self, model: &Model, at: &Array, gradient: Option<&Array>) -> Params {
        Params::on_device(&model.layout, at, gradient, self.narrow.as_ref())
    }

    /// Asks for the logits at `at`.
    pub(super) fn forward(&self, model: &Model, feed: &Feed) -> Result<Tensor, EngineError> {
        let params = self.params(model, &self.weights, None);
        network(model)?.forward(&params, &shard(feed))
    }

    /// Asks for the gradient of the mean loss at `at`, and for loss and hits if `counted`.
    pub(super) fn backward(
        &self,
        model: &Model,
        (at, feed): (&Array, &Feed),
        counted: bool,
    ) -> Result<(), EngineError> {
        let params = self.params(model, at, Some(&self.gradient));
        let network = network(model)?;
        let (logits, tape) = Tape::record(|| network.forward(&params, &shard(feed)));
        let logits = logits?;
        let scale = (1.0 / feed.labels().len() as f64) as f32;
        let tallies = counted.then_some(&self.tallies);
        let slope = cross_entropy(&logits, feed.labels(), tallies, Some(scale))?;
        let Some(slope) = slope else { return Ok(()) };
        let found = tape.gradients(&logits, slope)?;
        params.each_without(&found, |gradient| self.lane.clear(gradient))
    }

    /// Asks for loss and hits.
    fn evaluate_step(&self, model: &Model, feed: &Feed) -> Result<(), EngineError> {
        let logits = self.forward(model, feed)?;
        cross_entropy(&logits, feed.labels(), Some(&self.tallies), None)?;
        Ok(())
    }

    fn ask(&self, model: &Model, data: &Resident, feed: &Feed, task: Task) -> Result<(), EngineError> {
        feed.gather(data, &self.records, &self.tallies.state)?;
        match task {
            Task::Evaluate => self.evaluate_step(model, feed)?,
            Task::Step(shape) => self.step(model, feed, shape)?,
        }
        self.lane.grid("advance", (1, 1), args![&self.tallies.state, feed.size()])
    }

    /// Makes room for so many steps and examples, and captures what is not captured yet. A step that is
    /// captured is first done once, so that libraries and memory are ready: vectors must be set afterwards.
    pub(super) fn prepare(
        &mut self,
        model: &Model,
        data: &Arc<Resident>,
        (sizes, task): (&[usize], Task),
    ) -> Result<(), EngineError> {
        let examples: usize = sizes.iter().sum();
        let (steps, room) = (self.tallies.hits.len(), self.records.bytes() / 20);
        if sizes.len() > steps || examples > room {
            // Graphs know the old places.
            self.graphs.clear();
            self.lane.wait()?;
            self.tallies = tallies(&self.lane, sizes.len().max(steps).next_power_of_two())?;
            self.records = records_memory(&self.lane, examples.max(room).next_power_of_two())?;
        }
        for size in sizes.iter().copied().collect::<BTreeSet<_>>() {
            let key = (Arc::as_ptr(data) as usize, size, task);
            if self.graphs.contains_key(&key) {
                continue;
            }
            self.lane.clear(&self.tallies.state)?;
            self.lane.clear(&self.records)?;
            let feed = Feed::new(&self.lane, data, size)?;
            self.ask(model, data, &feed, task)?;
            self.lane.wait()?;
            let graph = self.lane.capture(|| self.ask(model, data, &feed, task))?;
            self.graphs.insert(key, Captured { graph, feed, _data: Arc::clone(data) });
        }
        Ok(())
    }

    /// Does prepared steps, batches of these sizes out of `records`; `eager` without graphs. Gives each
    /// step's sum of losses and hits; `None`: `report` has cancelled.
    pub(super) fn run(
        &self,
        model: &Model,
        data: &Arc<Resident>,
        (sizes, task, eager, records): (&[usize], Task, bool, &Records),
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<(f64, u32)>>, EngineError> {
        self.lane.clear(&self.tallies.state)?;
        self.lane.upload(&self.records, records.values())?;
        for (done, &size) in sizes.iter().enumerate() {
            let key = (Arc::as_ptr(data) as usize, size, task);
            match self.graphs.get(&key) {
                Some(captured) if eager => self.ask(model, data, &captured.feed, task)?,
                Some(captured) => captured.graph.launch().map_err(super::device::DeviceError::from)?,
                None => return Err(EngineError::Device("a step was not prepared".into())),
            }
            if (done + 1).is_multiple_of(STEPS_AHEAD) {
                self.lane.wait()?;
            }
            if report(done + 1).is_break() {
                self.lane.wait()?;
                return Ok(None);
            }
        }
        let (mut losses, mut hits) = (vec![0.0; sizes.len()], vec![0; sizes.len()]);
        self.lane.download::<f64>(&mut losses, &self.tallies.losses)?;
        self.lane.download::<u32>(&mut hits, &self.tallies.hits)?;
        Ok(Some(losses.into_iter().zip(hits).collect()))
    }

    /// The logits of the examples of `records` at the session's weights, in batches of `size`.
    pub(super) fn logits(
        &self,
        model: &Model,
        data: &Resident,
        (size, records): (usize, &Records),
    ) -> Result<Vec<f32>, EngineError> {
        let state = self.lane.fresh::<u32>(2)?;
        let count = records.len();
        let rows = records_memory(&self.lane, count)?;
        self.lane.upload(&rows, records.values())?;
        let (mut all, mut feeds) = (Vec::new(), BTreeMap::new());
        for size in (0..count).step_by(size.max(1)).map(|first| size.min(count - first)) {
            let feed = match feeds.entry(size) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Feed::new(&self.lane, data, size)?),
            };
            feed.gather(data, &rows, &state)?;
            let logits = self.forward(model, feed)?;
            let before = all.len();
            all.resize(before + logits.len(), 0.0);
            self.lane.download(&mut all[before..], logits.array()?)?;
            self.lane.grid("advance", (1, 1), args![&state, size])?;
        }
        self.lane.wait()?;
        Ok(all)
    }

    /// The vector of a plan that is called `name`.
    pub(super) fn vector(&mut self, name: &'static str) -> Result<Array, EngineError> {
        if let Some(known) = self.vectors.get(name) {
            return Ok(known.clone());
        }
        let array = self.lane.fresh::<f32>(self.weights.len())?;
        self.vectors.insert(name, array.clone());
        Ok(array)
    }

    /// One batch of its own: its feed, gathered.
    pub(super) fn feed(&self, model: &Model, batch: &crate::data::Batch) -> Result<Feed, EngineError> {
        let data = Resident::of_batch(&self.lane, batch, &model.info)?;
        let records = records_memory(&self.lane, batch.size)?;
        self.lane.upload(&records, Records::of_batch(batch).values())?;
        self.lane.clear(&self.tallies.state)?;
        let feed = Feed::new(&self.lane, &data, batch.size)?;
        feed.gather(&data, &records, &self.tallies.state)?;
        // The batch goes.
        self.lane.wait()?;
        Ok(feed)
    }

    /// Loss and hits of the first step since the state was cleared.
    pub(super) fn first_tally(&self) -> Result<(f64, u32), EngineError> {
        let (mut loss, mut hits) = ([0.0f64], [0u32]);
        self.lane.download(&mut loss, &self.tallies.losses)?;
        self.lane.download(&mut hits, &self.tallies.hits)?;
        Ok((loss[0], hits[0]))
    }

    /// Loss and hits of one batch.
    pub(super) fn evaluate_batch(
        &self,
        model: &Model,
        batch: &crate::data::Batch,
    ) -> Result<(f64, u32), EngineError> {
        let feed = self.feed(model, batch)?;
        self.evaluate_step(model, &feed)?;
        self.first_tally()
    }
}

impl Session {
    /// Its lane, for another model.
    pub(super) fn into_lane(self) -> Arc<Lane> {
        Arc::clone(&self.lane)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing may run on memory that goes; a failure was or will be told elsewhere.
        let _ = self.lane.wait();
    }
}

fn tallies(lane: &Arc<Lane>, steps: usize) -> Result<Tallies, EngineError> {
    let (losses, hits) = (lane.fresh::<f64>(steps)?, lane.fresh::<u32>(steps)?);
    Ok(Tallies { losses, hits, state: lane.fresh::<u32>(2)? })
}

fn network(model: &Model) -> Result<&dyn crate::engine::models::Network, EngineError> {
    match &model.network {
        Some((network, _)) => Ok(&**network),
        None => Err(EngineError::Device("a bare vector has nothing to train".into())),
    }
}

fn shard(feed: &Feed) -> Shard<'_> {
    Shard { size: feed.size(), dense: &[], tokens: &[], labels: &[], device: Some(feed) }
}
