//! Gradients of single examples, clipped and summed: what differentially private SGD takes a step by.
//!
//! Linear and convolutional layers tell the examples of one pass apart (see `Tape::clipped`); for
//! networks with other layers each example gets a pass of its own, which is right for every model.

use super::buffer::{Buffer, lend};
use super::layout::{Layout, Params};
use super::models::Network;
use super::ops::loss::{Tally, cross_entropy};
use super::shards::Shard;
use super::tape::{Gradients, Tape, factor};
use super::tensor::Tensor;
use super::{EngineError, Model, NOTHING, Outcome, add, outcome};
use crate::data::Batch;

/// What the norm of one example's gradient is bounded by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clip {
    /// The whole gradient, by this norm.
    Flat(f64),
    /// Each layer's part ([`Model::layers`]), by this norm.
    PerLayer(f64),
}

impl Clip {
    /// The norm.
    pub(super) fn norm(self) -> f64 {
        let (Self::Flat(norm) | Self::PerLayer(norm)) = self;
        norm
    }
}

impl From<f64> for Clip {
    fn from(norm: f64) -> Self {
        Self::Flat(norm)
    }
}

/// What [`Model::clipped_gradient`] measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Clipped {
    /// Loss and hits of the batch.
    pub outcome: Outcome,
    /// For each example, in order, the L2 norm of its gradient before clipping.
    pub norms: Vec<f64>,
}

impl Model {
    /// Overwrites `sum` by `Σᵢ gᵢ · min(1, clip / ‖gᵢ‖)`, where `gᵢ` is the gradient of the mean loss over
    /// the predictions of example `i` (Abadi et al. 2016, arXiv:1607.00133, algorithm 1, before noise); or the
    /// same for each layer by itself.
    ///
    /// # Errors
    /// As for [`Model::gradient`]; [`EngineError::Clip`] if `clip` is not positive and finite.
    pub fn clipped_gradient(
        &self,
        w: &[f32],
        batch: &Batch,
        clip: impl Into<Clip>,
        sum: &mut [f32],
    ) -> Result<Clipped, EngineError> {
        let clip = clip.into();
        self.check_length("weights", w.len())?;
        self.check_length("gradient", sum.len())?;
        if !(clip.norm() > 0.0 && clip.norm().is_finite()) {
            return Err(EngineError::Clip(clip.norm()));
        }
        let Some((network, task)) = &self.network else {
            sum.fill(0.0);
            return Ok(Clipped { outcome: NOTHING, norms: vec![0.0; batch.size] });
        };
        let predictions = task.check(batch)?;
        let (mut total, mut norms) = (Tally::default(), Vec::with_capacity(batch.size));
        lend(w, |w| {
            let params = Params::tracked(&self.layout, w);
            let mut all = Gradients::default();
            let step = |shard: Shard<'_>| shard_gradient(&**network, (&params, &self.layout), shard, clip);
            self.runner.run(task.shards(batch), step, |(tally, grads, some)| {
                add(&mut total, tally);
                norms.extend(some);
                all.absorb(grads)
            })?;
            params.store(&self.layout, &all, sum, &self.runner);
            Ok::<_, EngineError>(())
        })?;
        Ok(Clipped { outcome: outcome(total, predictions), norms })
    }
}

type Part = (Tally, Gradients, Vec<f64>);

fn shard_gradient(
    network: &dyn Network,
    (params, layout): (&Params, &Layout),
    shard: Shard<'_>,
    clip: Clip,
) -> Result<Part, EngineError> {
    let (tally, tape, logits, slope) = forward(network, params, shard)?;
    if let Some((grads, norms)) = tape.clipped((&logits, slope), shard.size, clip)? {
        return Ok((tally, grads, norms));
    }
    let (mut tally, mut sum, mut norms) = (Tally::default(), Gradients::default(), Vec::new());
    for one in shard.examples() {
        let (loss, tape, logits, slope) = forward(network, params, one)?;
        let grads = tape.gradients(&logits, slope)?;
        let norm = grads.square().sqrt();
        let parts = match clip {
            Clip::Flat(_) => vec![grads],
            Clip::PerLayer(_) => params.by_layer(layout, grads),
        };
        for part in parts {
            let factor = factor(part.square().sqrt(), clip.norm());
            sum.add_scaled(part, factor)?;
        }
        add(&mut tally, loss);
        norms.push(norm);
    }
    Ok((tally, sum, norms))
}

/// A recorded pass and the gradient of its logits, each example's loss for itself.
fn forward(
    network: &dyn Network,
    params: &Params,
    shard: Shard<'_>,
) -> Result<(Tally, Tape, Tensor, Tensor), EngineError> {
    let (logits, tape) = Tape::record(|| network.forward(params, &shard));
    let logits = logits?;
    let mut slope = Buffer::any(logits.len());
    let scale = shard.size as f32 / shard.labels.len() as f32;
    let tally = cross_entropy(logits.values(), shard.labels, Some((&mut slope, scale)));
    let slope = Tensor::new(slope, logits.shape());
    Ok((tally, tape, logits, slope))
}
