//! Runs without rounds: the updates of the open version are in memory, each with the model that it was
//! trained on. What the coordinator does from its disk (`coordinator::run::flow`).
//!
//! Where such a simulation stands is one file of its own (`round/pause.rs`).

use super::server::Server;
use algorithms::{
    MODEL, Vector, Vectors,
    fold::{accumulators_of, fold_into},
    staleness::mix,
};
use coordinator::machine::{Buffered, Kept};
use proto::{digest::Digest, spec::AsyncSpec};
use std::sync::Arc;

/// Updates that wait, in the order of the machine's buffer.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    updates: Vec<(Vectors, Vector)>,
}

impl Buffer {
    /// These.
    pub(super) fn of(updates: Vec<(Vectors, Vector)>) -> Self {
        Self { updates }
    }

    /// What waits.
    pub(super) fn updates(&self) -> &[(Vectors, Vector)] {
        &self.updates
    }

    /// An update and the model that it was trained on.
    pub(super) fn push(&mut self, upload: Vectors, base: Vector) {
        self.updates.push((upload, base));
    }
}

/// What names an update, as the coordinator names it.
pub(super) fn kept(upload: &Vectors, (steps, lr): (u32, f32)) -> Kept {
    // Its change of the model is all that a rule of such a run uploads.
    let digest = upload.values().next().map_or(Digest([0; 32]), |change| Digest::of_vector(change));
    Kept { digest, steps, lr }
}

impl Server<'_> {
    /// The mean of the buffer, which is empty after that; `buffered` is what the machine knows of it.
    pub(super) fn of_buffer(&mut self, rules: &AsyncSpec, buffered: &[Buffered]) -> Vectors {
        let updates = std::mem::take(&mut self.buffer.updates);
        assert_eq!(updates.len(), buffered.len(), "the machine counts what was stored");
        let weight = |one: &Buffered| rules.weight(one.staleness);
        match rules {
            AsyncSpec::FedBuff { .. } => {
                let shapes = self.algorithm.upload(self.record.length as usize);
                if self.accumulators.is_empty() {
                    self.accumulators = accumulators_of(self.spec.folds(self.algorithm), &shapes);
                }
                for accumulator in &mut self.accumulators {
                    for ((upload, _), one) in updates.iter().zip(buffered) {
                        let x = &upload[accumulator.fold().from];
                        let factor = self.spec.combiner.map_or(1.0, |combiner| combiner.factor_of(x));
                        let (sum, scale) = accumulator.parts(&one.fold_facts());
                        fold_into(sum, x, scale * (factor * weight(one)));
                    }
                }
                self.drained()
            }
            AsyncSpec::FedAsync { .. } => {
                let mut means = Vectors::new();
                for (fold, ((upload, base), one)) in
                    self.spec.folds(self.algorithm).iter().zip(updates.into_iter().zip(buffered))
                {
                    let mut change = upload[fold.from].to_vec();
                    mix(&mut change, &base, &self.vectors[MODEL], weight(one) as f32);
                    means.insert(fold.into.to_owned(), Arc::new(change));
                }
                means
            }
        }
    }
}
