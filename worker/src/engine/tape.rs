//! The backward pass over candle's custom operations.
//!
//! candle's own driver starts every gradient as a tensor of zeros and adds to it with its parallel
//! element-wise kernel: two more passes over memory per gradient, and every one a meeting of all
//! threads of the process behind one lock, which undoes running shards side by side. A tape keeps the
//! same operations and their candle gradients, moves a first gradient instead of adding it, and stays
//! on its thread. Operations are recorded through a thread-local, so that networks read like formulas.

use super::ops::{shaped, values};
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, TensorId};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static RECORDING: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

enum Operation {
    One(Arc<Box<dyn CustomOp1 + Send + Sync>>, Tensor),
    Two(Arc<Box<dyn CustomOp2 + Send + Sync>>, [Tensor; 2]),
    Three(Arc<Box<dyn CustomOp3 + Send + Sync>>, [Tensor; 3]),
}

struct Step {
    operation: Operation,
    result: Tensor,
}

/// What one forward pass did, in order.
pub(super) struct Tape(Vec<Step>);

/// Gradients of the leaves.
#[derive(Debug, Default)]
pub(super) struct Gradients(Vec<(TensorId, Tensor)>);

/// Applies `op` to `x`.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp1 + Send + Sync>> = Arc::new(Box::new(op));
    let result = x.apply_op1_arc(op.clone())?;
    record(&result, || Operation::One(op, x.clone()));
    Ok(result)
}

/// Applies `op` to `x` and `y`.
pub(super) fn apply2(x: &Tensor, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp2 + Send + Sync>> = Arc::new(Box::new(op));
    let result = x.apply_op2_arc(y, op.clone())?;
    record(&result, || Operation::Two(op, [x.clone(), y.clone()]));
    Ok(result)
}

/// Applies `op` to `x`, `y` and `z`.
pub(super) fn apply3(
    x: &Tensor,
    y: &Tensor,
    z: &Tensor,
    op: impl CustomOp3 + Send + Sync + 'static,
) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp3 + Send + Sync>> = Arc::new(Box::new(op));
    let result = x.apply_op3_arc(y, z, op.clone())?;
    record(&result, || Operation::Three(op, [x.clone(), y.clone(), z.clone()]));
    Ok(result)
}

fn record(result: &Tensor, operation: impl FnOnce() -> Operation) {
    if result.track_op() {
        RECORDING.with_borrow_mut(|steps| {
            if let Some(steps) = steps {
                steps.push(Step { operation: operation(), result: result.clone() });
            }
        });
    }
}

impl Tape {
    /// Runs `f` and keeps what it applied to tracked tensors.
    pub(super) fn record<R>(f: impl FnOnce() -> R) -> (R, Self) {
        RECORDING.set(Some(Vec::new()));
        let result = f();
        (result, Self(RECORDING.take().unwrap_or_default()))
    }

    /// Gradients of the leaves, given the gradient `seed` of the recorded `result`.
    pub(super) fn gradients(self, result: &Tensor, seed: Tensor) -> Result<Gradients> {
        let mut found = Gradients(vec![(result.id(), seed)]);
        for Step { operation, result } in self.0.into_iter().rev() {
            let Some(gradient) = found.take(result.id()) else { continue };
            match operation {
                Operation::One(op, x) => found.add(&x, op.bwd(&x, &result, &gradient)?)?,
                Operation::Two(op, [x, y]) => {
                    let (dx, dy) = op.bwd(&x, &y, &result, &gradient)?;
                    found.add(&x, dx)?;
                    found.add(&y, dy)?;
                }
                Operation::Three(op, [x, y, z]) => {
                    let (dx, dy, dz) = op.bwd(&x, &y, &z, &result, &gradient)?;
                    found.add(&x, dx)?;
                    found.add(&y, dy)?;
                    found.add(&z, dz)?;
                }
            }
        }
        Ok(found)
    }
}

impl Gradients {
    /// The gradient of a leaf, `None` if the result does not depend on it.
    pub(super) fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.iter().find(|(id, _)| *id == tensor.id()).map(|(_, gradient)| gradient)
    }

    fn take(&mut self, id: TensorId) -> Option<Tensor> {
        let place = self.0.iter().position(|(other, _)| *other == id)?;
        Some(self.0.swap_remove(place).1)
    }

    fn add(&mut self, tensor: &Tensor, gradient: Option<Tensor>) -> Result<()> {
        let Some(gradient) = gradient.filter(|_| tensor.track_op()) else { return Ok(()) };
        let sum = match self.take(tensor.id()) {
            None => gradient,
            Some(before) => {
                let sum =
                    values(&before)?.iter().zip(values(&gradient)?.iter()).map(|(a, b)| a + b).collect();
                shaped(sum, tensor)?
            }
        };
        self.0.push((tensor.id(), sum));
        Ok(())
    }
}
