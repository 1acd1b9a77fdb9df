//! Vectors that the worker holds, by what they contain: a vector that the last order of a run named is
//! not fetched again.

use algorithms::Vector;
use proto::{digest::Digest, names::RunId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Vectors by digest, kept as long as the last order of some run names them.
#[derive(Debug, Default)]
pub struct Cache {
    vectors: BTreeMap<Digest, Vector>,
    named: BTreeMap<RunId, BTreeSet<Digest>>,
    /// The memory of the last vector that was dropped: its successor is received into it.
    spare: Vec<f32>,
}

impl Cache {
    /// The vector, if it is held.
    pub fn get(&self, digest: &Digest) -> Option<Vector> {
        self.vectors.get(digest).cloned()
    }

    /// Names what `run` needs now and drops what no run needs any more, before anything is fetched:
    /// the old model and the new one need not be in memory together.
    pub fn keep(&mut self, run: &RunId, digests: impl IntoIterator<Item = Digest>) {
        self.named.insert(run.clone(), digests.into_iter().collect());
        self.sweep();
    }

    /// Names one vector more that `run` needs.
    pub fn keep_also(&mut self, run: &RunId, digest: Digest) {
        self.named.entry(run.clone()).or_default().insert(digest);
    }

    /// Adds a vector that some run has named.
    pub fn insert(&mut self, digest: Digest, vector: Vector) {
        self.vectors.insert(digest, vector);
    }

    /// Memory for a vector of that length, with any content.
    pub fn room(&mut self, length: usize) -> Vec<f32> {
        let mut room = std::mem::take(&mut self.spare);
        room.resize(length, 0.0);
        room
    }

    /// The run needs nothing any more.
    pub fn forget(&mut self, run: &RunId) {
        self.named.remove(run);
        self.sweep();
        self.spare = Vec::new();
    }

    fn sweep(&mut self) {
        let named: BTreeSet<&Digest> = self.named.values().flatten().collect();
        for (_, dropped) in self.vectors.extract_if(.., |digest, _| !named.contains(digest)) {
            if let Ok(spare) = Arc::try_unwrap(dropped) {
                self.spare = spare;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_run_names_is_dropped() {
        let (a, b): (RunId, RunId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let [one, two] = [Digest::of(b"1"), Digest::of(b"2")];
        let mut cache = Cache::default();
        cache.keep(&a, [one]);
        cache.keep(&b, [one]);
        cache.insert(one, Arc::new(vec![1.0]));
        cache.keep(&a, [two]);
        assert!(cache.get(&one).is_some(), "b still names it");
        cache.forget(&b);
        assert!(cache.get(&one).is_none());
    }

    #[test]
    fn the_memory_of_a_dropped_vector_is_used_again() {
        let run: RunId = "a".parse().unwrap();
        let mut cache = Cache::default();
        cache.keep(&run, [Digest::of(b"1")]);
        let vector = vec![1.0; 9];
        let at = vector.as_ptr();
        cache.insert(Digest::of(b"1"), Arc::new(vector));
        cache.keep(&run, [Digest::of(b"2")]);
        let room = cache.room(7);
        assert_eq!((room.len(), room.as_ptr()), (7, at));
        assert_eq!(cache.room(3), [0.0; 3], "given once");
    }
}
