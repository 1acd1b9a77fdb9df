//! The training engine: what does one mini-batch say about a vector of weights?
//!
//! Own tensors, tape and kernels: see `tape.rs` and `ops`. Everything outside sees flat `f32` vectors in which the model's
//! tensors lie in the order of their sorted names, with PyTorch's names and layouts. Equal inputs give
//! equal bytes on any number of threads: a batch is always cut into the same shards, a shard is
//! computed by one thread, and shards are summed in order.

mod buffer;
mod clipped;
pub mod cuda;
mod error;
mod export;
mod late;
mod layers;
mod layout;
mod models;
mod ops;
mod shards;
mod tape;
mod tensor;
#[cfg(test)]
mod tests;
pub mod vectors;

pub use clipped::{Clip, Clipped};
pub use error::EngineError;
pub use export::{load_safetensors, save_safetensors};
pub use layout::TensorSpec;
pub use ops::gemm::instructions;

use crate::data::{Batch, DataInfo};
use buffer::{Buffer, lend};
use cuda::{Device, Lanes, Placement};
use layout::{Layout, Params};
use models::Fitted;
use ops::loss::{Tally, cross_entropy};
use proto::spec::ModelSpec;
use shards::{Runner, Shard};
use std::sync::Arc;
use tape::{Gradients, Tape};
use tensor::Tensor;

/// What a mini-batch measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Mean cross-entropy over the predictions, natural logarithm; 0 if there are none.
    pub loss: f64,
    /// Predictions whose most likely class was the label.
    pub correct: u64,
    /// Number of predictions: examples, or positions of text.
    pub predictions: u64,
}

/// A network, the shapes of its tensors and the threads that it may use. Holds no weights.
#[derive(Debug)]
pub struct Model {
    layout: Layout,
    /// `None`: the bare vector that no step changes.
    network: Option<Fitted>,
    runner: Runner,
    /// What the data looks like.
    info: DataInfo,
    /// `None`: the CPU.
    gpu: Option<Lanes>,
}

impl Model {
    /// Fits `spec` to the data's shape; uses one thread.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] if the model cannot take such inputs or its own keys contradict.
    pub fn new(spec: &ModelSpec, info: &DataInfo) -> Result<Self, EngineError> {
        let mut layout = Layout::default();
        let network = models::build(spec, info, &mut layout)?;
        layout.seal();
        Ok(Self { layout, network, runner: Runner::new(1), info: info.clone(), gpu: None })
    }

    /// Moves gradients, evaluations and local runs to a GPU, if one was chosen. Clipped gradients of examples stay on the CPU,
    /// and so does a model without a network.
    #[must_use]
    pub fn placed(mut self, placement: &Placement) -> Self {
        if self.network.is_some() {
            self.gpu = Lanes::new(placement);
        }
        self
    }

    /// The GPU that it trains on.
    pub fn device(&self) -> Option<&Arc<Device>> {
        self.gpu.as_ref().map(Lanes::device)
    }

    /// Predictions that it makes of one example.
    fn predictions(&self) -> usize {
        self.network.as_ref().map_or(0, |(_, task)| task.predictions())
    }

    /// The number of threads that a call may use, at least 1; results do not depend on it.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.runner = Runner::new(threads);
        self
    }

    /// The number of threads that a call may use.
    pub fn threads(&self) -> usize {
        self.runner.threads()
    }

    /// Names and shapes, in the order in which the tensors lie in the flat vector.
    pub fn tensors(&self) -> &[TensorSpec] {
        self.layout.specs()
    }

    /// Name and dimensions of each tensor, in that order.
    pub fn named_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors().iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect()
    }

    /// Name and length of each tensor, in that order.
    pub fn named_lengths(&self) -> Vec<(String, usize)> {
        let length = |spec: &TensorSpec| (spec.name.clone(), spec.shape.iter().product());
        self.tensors().iter().map(length).collect()
    }

    /// Lengths of the layers, in the order in which they lie in the flat vector: those of the runs of tensors
    /// whose names agree up to the last dot.
    pub fn layers(&self) -> Vec<usize> {
        self.layout.layers()
    }

    /// Length of the flat vector.
    pub fn parameters(&self) -> usize {
        self.layout.parameters()
    }

    /// Fresh weights by PyTorch's default distributions. Each tensor's numbers depend on `seed` and its
    /// name alone.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        self.layout.initial(seed)
    }

    /// Overwrites `grad` by the gradient of the mean loss at `w`.
    ///
    /// # Errors
    /// If a length does not fit, or the batch does not suit the model (see [`EngineError`]).
    pub fn gradient(&self, w: &[f32], batch: &Batch, grad: &mut [f32]) -> Result<Outcome, EngineError> {
        self.check_length("weights", w.len())?;
        self.check_length("gradient", grad.len())?;
        let Some((network, task)) = &self.network else {
            grad.fill(0.0);
            return Ok(NOTHING);
        };
        let predictions = task.check(batch)?;
        if let Some(gpu) = &self.gpu {
            return gpu.gradient(self, (w, batch), grad);
        }
        let scale = (1.0 / predictions as f64) as f32;
        let mut total = Tally::default();
        lend(w, |w| {
            let params = Params::tracked(&self.layout, w);
            let mut sum = Gradients::default();
            let step = |shard: Shard<'_>| {
                let (logits, tape) = Tape::record(|| network.forward(&params, &shard));
                let logits = logits?;
                let mut slope = Buffer::any(logits.len());
                let tally = cross_entropy(logits.values(), shard.labels, Some((&mut slope, scale)));
                let slope = Tensor::new(slope, logits.shape());
                Ok((tally, tape.gradients(&logits, slope)?))
            };
            self.runner.run(task.shards(batch), step, |(tally, grads)| {
                add(&mut total, tally);
                sum.absorb(grads)
            })?;
            params.store(&self.layout, &sum, grad, &self.runner);
            Ok::<_, EngineError>(())
        })?;
        Ok(outcome(total, predictions))
    }

    /// Loss and hits at `w`, forward only.
    ///
    /// # Errors
    /// As for [`Model::gradient`].
    pub fn evaluate(&self, w: &[f32], batch: &Batch) -> Result<Outcome, EngineError> {
        self.check_length("weights", w.len())?;
        let Some((network, task)) = &self.network else { return Ok(NOTHING) };
        let predictions = task.check(batch)?;
        if let Some(gpu) = &self.gpu {
            return gpu.evaluate(self, w, batch);
        }
        let mut total = Tally::default();
        lend(w, |w| {
            let params = Params::constant(&self.layout, w);
            let step = |shard: Shard<'_>| {
                let logits = network.forward(&params, &shard)?;
                Ok(cross_entropy(logits.values(), shard.labels, None))
            };
            self.runner.run(task.shards(batch), step, |tally| {
                add(&mut total, tally);
                Ok(())
            })
        })?;
        Ok(outcome(total, predictions))
    }

    /// The network's output at `w`, row-major `predictions × classes`.
    ///
    /// # Errors
    /// As for [`Model::gradient`].
    pub fn logits(&self, w: &[f32], batch: &Batch) -> Result<Vec<f32>, EngineError> {
        self.check_length("weights", w.len())?;
        let Some((network, task)) = &self.network else { return Ok(Vec::new()) };
        task.check(batch)?;
        if let Some(gpu) = &self.gpu {
            return gpu.logits(self, w, batch);
        }
        let mut all = Vec::new();
        lend(w, |w| {
            let params = Params::constant(&self.layout, w);
            let step = |shard: Shard<'_>| Ok(network.forward(&params, &shard)?.values().to_vec());
            self.runner.run(task.shards(batch), step, |logits| {
                all.extend(logits);
                Ok(())
            })
        })?;
        Ok(all)
    }

    fn check_length(&self, what: &'static str, got: usize) -> Result<(), EngineError> {
        let expected = self.parameters();
        if got == expected { Ok(()) } else { Err(EngineError::Length { what, got, expected }) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        Buffer::forget_all();
    }
}

const NOTHING: Outcome = Outcome { loss: 0.0, correct: 0, predictions: 0 };

fn add(total: &mut Tally, shard: Tally) {
    total.loss += shard.loss;
    total.correct += shard.correct;
}

fn outcome(total: Tally, predictions: usize) -> Outcome {
    Outcome { loss: total.loss / predictions as f64, correct: total.correct, predictions: predictions as u64 }
}
