//! Cuts a batch into shards and runs them on the model's threads.
//!
//! The cut depends on the batch's size alone, each shard is computed by one thread with single-threaded
//! kernels, and results are folded in the order of the shards. Threads therefore change when a result
//! is ready, never what it is.

use super::EngineError;
use super::buffer::Buffer;
use super::cuda::{Array, Feed};
use super::tensor::Tensor;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Scalars from which on it is worth to divide them among threads: below it, threads that were asleep take longer
/// to come than the work does.
const WORTH: usize = 1_024 * 1_024;

/// A run of consecutive examples of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shard<'a> {
    /// Number of examples.
    pub(super) size: usize,
    /// Their scalars; empty for text.
    pub(super) dense: &'a [f32],
    /// Their characters; empty unless text.
    pub(super) tokens: &'a [u32],
    /// One label per prediction.
    pub(super) labels: &'a [u32],
    /// Where inputs and labels are if not in memory; the slices are then empty.
    pub(super) device: Option<&'a Feed>,
}

/// Characters, and where they are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Characters<'a> {
    Host(&'a [u32]),
    Device(&'a Array),
}

impl<'a> Shard<'a> {
    /// The inputs as rows of `width`.
    pub(super) fn rows(&self, width: usize) -> Result<Tensor, EngineError> {
        match self.device {
            Some(feed) => feed.rows(self.size, width),
            None => Ok(Tensor::new(Buffer::copy(self.dense), &[self.size, width])),
        }
    }

    /// The characters of text.
    pub(super) fn characters(&self) -> Characters<'a> {
        match self.device {
            Some(feed) => Characters::Device(feed.inputs()),
            None => Characters::Host(self.tokens),
        }
    }

    /// Its examples, one by one.
    pub(super) fn examples(self) -> impl Iterator<Item = Shard<'a>> {
        let part = move |length: usize, i: usize| length / self.size * i..length / self.size * (i + 1);
        (0..self.size).map(move |i| Self {
            size: 1,
            dense: &self.dense[part(self.dense.len(), i)],
            tokens: &self.tokens[part(self.tokens.len(), i)],
            labels: &self.labels[part(self.labels.len(), i)],
            device: None,
        })
    }
}

/// Sizes of the shards of `batch` examples: as many shards as it takes for none to exceed `largest`,
/// and as equal as can be.
pub(super) fn sizes(batch: usize, largest: usize) -> impl Iterator<Item = usize> {
    let count = batch.div_ceil(largest);
    (0..count).map(move |i| batch * (i + 1) / count - batch * i / count)
}

/// The threads of one model.
#[derive(Debug)]
pub(super) struct Runner {
    /// `None`: the caller's thread alone.
    pool: Option<ThreadPool>,
}

/// Results that wait for their turn.
struct Fold<T, F> {
    next: usize,
    waiting: BTreeMap<usize, T>,
    consume: F,
    failed: Option<EngineError>,
}

impl<T, F: FnMut(T) -> Result<(), EngineError>> Fold<T, F> {
    fn arrive(&mut self, index: usize, result: Result<T, EngineError>) {
        match result {
            Ok(value) => {
                self.waiting.insert(index, value);
            }
            Err(error) => self.failed = Some(error),
        }
        while self.failed.is_none() {
            let Some(value) = self.waiting.remove(&self.next) else { break };
            self.next += 1;
            self.failed = (self.consume)(value).err();
        }
    }
}

impl Runner {
    /// A runner with `threads` threads (0 counts as 1). If the system refuses threads, the caller's is
    /// used: slower, same results.
    pub(super) fn new(threads: usize) -> Self {
        let build = || ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("engine-{i}"));
        let pool = (threads > 1).then(|| build().build());
        let pool = pool.and_then(|pool| {
            pool.inspect_err(|error| tracing::warn!(%error, "no engine threads, training on one")).ok()
        });
        Self { pool }
    }

    /// How many there are.
    pub(super) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Calls `write` for parts of `to`, which is rows of `width`, with the rows that they are: on all threads if it
    /// is worth it.
    pub(super) fn split(
        &self,
        to: &mut [f32],
        width: usize,
        write: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let rows = to.len() / width.max(1);
        let Some(pool) = self.pool.as_ref().filter(|_| to.len() >= WORTH) else { return write(0..rows, to) };
        let some = rows.div_ceil(pool.current_num_threads());
        let write = &write;
        pool.scope(|scope| {
            for (i, to) in to.chunks_mut(some * width).enumerate() {
                scope.spawn(move |_| write(i * some..i * some + to.len() / width, to));
            }
        });
    }

    /// Computes `step` for every shard and `fold`s the results in the order of the shards.
    pub(super) fn run<T: Send>(
        &self,
        shards: Vec<Shard<'_>>,
        step: impl Fn(Shard<'_>) -> Result<T, EngineError> + Sync,
        mut fold: impl FnMut(T) -> Result<(), EngineError> + Send,
    ) -> Result<(), EngineError> {
        let Some(pool) = self.pool.as_ref().filter(|_| shards.len() > 1) else {
            return shards.into_iter().try_for_each(|shard| fold(step(shard)?));
        };
        let state = Mutex::new(Fold { next: 0, waiting: BTreeMap::new(), consume: fold, failed: None });
        let taken = AtomicUsize::new(0);
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        pool.scope(|scope| {
            for _ in 0..pool.current_num_threads().min(shards.len()) {
                scope.spawn(|_| {
                    loop {
                        let index = taken.fetch_add(1, Ordering::Relaxed);
                        let Some(&shard) = shards.get(index) else { break };
                        let result = step(shard);
                        lock().arrive(index, result);
                    }
                });
            }
        });
        match state.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
