//! Softmax cross-entropy: the backward pass begins with its gradient.

use super::super::array::Array;
use super::super::lane::args;
use super::THREADS;
use crate::engine::tensor::{Result, Tensor};

/// Where the sums of each step go.
#[derive(Debug, Clone)]
pub(in crate::engine::cuda) struct Tallies {
    /// f64 each.
    pub(in crate::engine::cuda) losses: Array,
    /// u32 each.
    pub(in crate::engine::cuda) hits: Array,
    /// Two u32: the step, and the examples so far.
    pub(in crate::engine::cuda) state: Array,
}

/// Loss and hits of `logits` to the present step's place in `tallies`, if they are wanted, and with a
/// `scale` that times the gradient of the loss's sum.
pub(in crate::engine::cuda) fn cross_entropy(
    logits: &Tensor,
    labels: &Array,
    tallies: Option<&Tallies>,
    scale: Option<f32>,
) -> Result<Option<Tensor>> {
    let from = logits.array()?;
    let (lane, rows) = (from.lane(), labels.len());
    let classes = from.len() / rows.max(1);
    let slope = scale.map(|_| lane.scratch::<f32>(from.len())).transpose()?;
    let (losses, hits) = (lane.scratch::<f64>(rows)?, lane.scratch::<u32>(rows)?);
    let places = args![from, labels, slope.as_ref(), &losses, &hits, rows, classes, scale.unwrap_or(0.0)];
    lane.grid("cross_entropy", (rows.div_ceil(THREADS / 32), 1), places)?;
    if let Some(to) = tallies {
        lane.grid("tally", (1, 1), args![&losses, &hits, &to.losses, &to.hits, &to.state, rows])?;
    }
    Ok(slope.map(|slope| Tensor::device(slope, logits.shape())))
}
