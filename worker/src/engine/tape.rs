//! Records what a forward pass did and runs it backwards.
//!
//! Operations are recorded through a thread-local, so that networks read like formulas and a tape
//! stays on its thread. A gradient is moved where it can be, never added to zeros.

use super::clipped::Clip;
use super::cuda;
use super::ops;
use super::tensor::{Result, Tensor, bail};
use std::cell::RefCell;
use std::fmt::Debug;

thread_local! {
    static RECORDING: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// What happens to tensors: a value and its derivative.
pub(super) trait Operation: Debug {
    /// The result; keeps in `self` what only the way back needs.
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor>;

    /// Gradients of the inputs (nothing for those that are not tracked), given that of the result.
    fn backward(&self, inputs: &[Tensor], result: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>>;

    /// The operation for operands on a device, before `forward`. `None`: there is none.
    fn on_device(&self) -> Option<Box<dyn Operation>> {
        None
    }

    /// As `backward`, where the first dimension of data is `examples`, but with the parameters' gradients
    /// told apart by example. `None`: the operation cannot.
    fn split(&self, _: &[Tensor], _: &Tensor, _: &Tensor, _examples: usize) -> Result<Option<Split>> {
        Ok(None)
    }
}

/// The backward pass of one operation before it is known how much each example counts.
pub(super) struct Split {
    /// Gradient of the first input, if it is tracked; the others are parameters.
    pub(super) input: Option<Tensor>,
    /// For each example the squared norm of its gradient of the parameters.
    pub(super) squares: Vec<f64>,
    /// Gradients of the parameters (the inputs after the first), each example times its factor.
    pub(super) weighted: Weighted,
}

/// From the examples' factors to gradients.
pub(super) type Weighted = Box<dyn FnOnce(&[f32]) -> Vec<Tensor>>;

struct Step {
    operation: Box<dyn Operation>,
    inputs: Vec<Tensor>,
    result: Tensor,
}

/// What one forward pass did, in order.
pub(super) struct Tape(Vec<Step>);

/// Gradients of the leaves.
#[derive(Debug, Default)]
pub(super) struct Gradients(Vec<(Tensor, Tensor)>);

/// Applies `operation` to `inputs`.
pub(super) fn apply(operation: impl Operation + 'static, inputs: &[&Tensor]) -> Result<Tensor> {
    let mut operation: Box<dyn Operation> = Box::new(operation);
    if inputs.iter().any(|input| input.is_on_device()) {
        match operation.on_device() {
            Some(there) => operation = there,
            None => bail!("{operation:?} has no kernel for a GPU; train with `device = \"cpu\"`"),
        }
    }
    apply_as(operation, inputs)
}

/// As [`apply`], where it is known that the operation is made for where its operands lie.
pub(super) fn apply_as(mut operation: Box<dyn Operation>, inputs: &[&Tensor]) -> Result<Tensor> {
    let tracked = inputs.iter().any(|input| input.tracked());
    let result = operation.forward(inputs)?.tracked_if(tracked);
    if tracked {
        RECORDING.with_borrow_mut(|steps| {
            if let Some(steps) = steps {
                let inputs = inputs.iter().map(|&input| input.clone()).collect();
                steps.push(Step { operation, inputs, result: result.clone() });
            }
        });
    }
    Ok(result)
}

impl Tape {
    /// Runs `f` and keeps what it applied to tracked tensors.
    pub(super) fn record<R>(f: impl FnOnce() -> R) -> (R, Self) {
        /// Forgets what was recorded, also if `f` panics: it may hold what was lent.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                RECORDING.take();
            }
        }
        RECORDING.set(Some(Vec::new()));
        let _end = End;
        let result = f();
        (result, Self(RECORDING.take().unwrap_or_default()))
    }

    /// Gradients of the leaves, given the gradient `seed` of the recorded `result`.
    pub(super) fn gradients(self, result: &Tensor, seed: Tensor) -> Result<Gradients> {
        let mut found = Gradients(vec![(result.clone(), seed)]);
        for Step { operation, inputs, result } in self.0.into_iter().rev() {
            let Some(gradient) = found.take(&result) else { continue };
            let gradients = operation.backward(&inputs, &result, gradient)?;
            for (input, gradient) in inputs.iter().zip(gradients) {
                found.add(input, gradient)?;
            }
        }
        Ok(found)
    }
}

impl Tape {
    /// Sum of the examples' gradients, each (or each layer of each) scaled down to norm `clip` if it is
    /// longer, and their norms before that; `None` if an operation cannot tell examples apart. One pass: the
    /// gradients of parameters are formed last, when norms are known (Bu et al. 2023, "book-keeping").
    pub(super) fn clipped(
        self,
        (result, seed): (&Tensor, Tensor),
        examples: usize,
        clip: Clip,
    ) -> Result<Option<(Gradients, Vec<f64>)>> {
        let mut found = Gradients(vec![(result.clone(), seed)]);
        let mut squares = vec![0.0; examples];
        let mut late = Vec::new();
        for Step { operation, inputs, result } in self.0.into_iter().rev() {
            let Some(gradient) = found.take(&result) else { continue };
            if !inputs.iter().any(Tensor::is_leaf) {
                let gradients = operation.backward(&inputs, &result, gradient)?;
                inputs.iter().zip(gradients).try_for_each(|(input, gradient)| found.add(input, gradient))?;
                continue;
            }
            let Some(split) = operation.split(&inputs, &result, &gradient, examples)? else {
                return Ok(None);
            };
            squares.iter_mut().zip(&split.squares).for_each(|(sum, square)| *sum += square);
            found.add(&inputs[0], split.input)?;
            late.push((inputs, split.weighted, split.squares));
        }
        let norms: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
        let factors: Vec<f32> = norms.iter().map(|norm| factor(*norm, clip.norm())).collect();
        for (inputs, weighted, squares) in late {
            let own: Vec<f32>;
            let factors = match clip {
                Clip::Flat(_) => &factors,
                Clip::PerLayer(norm) => {
                    own = squares.into_iter().map(|square| factor(square.sqrt(), norm)).collect();
                    &own
                }
            };
            for (parameter, gradient) in inputs[1..].iter().zip(weighted(factors)) {
                if found.get(parameter).is_some() {
                    // A parameter that is used twice has a norm that is not the sum of both.
                    return Ok(None);
                }
                found.add(parameter, Some(gradient))?;
            }
        }
        Ok(Some((found, norms)))
    }
}

/// `min(1, clip / norm)`
pub(super) fn factor(norm: f64, clip: f64) -> f32 {
    if norm > clip { (clip / norm) as f32 } else { 1.0 }
}

impl Gradients {
    /// That of one leaf alone, taken out.
    pub(super) fn split_off(&mut self, leaf: &Tensor) -> Option<(Tensor, Tensor)> {
        self.take(leaf).map(|gradient| (leaf.clone(), gradient))
    }

    /// Of these leaves.
    pub(super) fn of(leaves: Vec<(Tensor, Tensor)>) -> Self {
        Self(leaves)
    }

    /// Sum of the squares of all elements.
    pub(super) fn square(&self) -> f64 {
        self.0.iter().map(|(_, gradient)| ops::square(gradient.values())).sum()
    }

    /// Adds another one's gradients; they are moved while there are none.
    pub(super) fn absorb(&mut self, other: Self) -> Result<()> {
        if self.0.is_empty() {
            *self = other;
            return Ok(());
        }
        other.0.into_iter().try_for_each(|(leaf, gradient)| self.add(&leaf, Some(gradient)))
    }

    /// Adds `factor` times another one's gradients of the same leaves.
    pub(super) fn add_scaled(&mut self, other: Self, factor: f32) -> Result<()> {
        for (leaf, gradient) in other.0 {
            let mut scaled = gradient.into_buffer();
            scaled.iter_mut().for_each(|v| *v *= factor);
            self.add(&leaf, Some(Tensor::new(scaled, leaf.shape())))?;
        }
        Ok(())
    }

    /// The gradient of a leaf, `None` if the result does not depend on it.
    pub(super) fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.iter().find(|(of, _)| of.is(tensor)).map(|(_, gradient)| gradient)
    }

    fn take(&mut self, tensor: &Tensor) -> Option<Tensor> {
        let place = self.0.iter().position(|(of, _)| of.is(tensor))?;
        Some(self.0.swap_remove(place).1)
    }

    fn add(&mut self, tensor: &Tensor, gradient: Option<Tensor>) -> Result<()> {
        let Some(gradient) = gradient.filter(|_| tensor.tracked()) else { return Ok(()) };
        let sum = match self.take(tensor) {
            None => gradient,
            Some(_) if gradient.is_on_device() && tensor.is_leaf() => {
                bail!("a parameter is used twice, which has no kernel for a GPU")
            }
            Some(before) if gradient.is_on_device() => {
                cuda::ops::elementwise::added(&before, &gradient, false)?
            }
            Some(before) => {
                let late = before.late().zip(gradient.late());
                if let Some(sum) = late.and_then(|(first, second)| first.plus(second)) {
                    Tensor::of_late(sum, tensor.shape())
                } else {
                    let mut sum = before.into_buffer();
                    ops::add(&mut sum, gradient.values());
                    Tensor::new(sum, tensor.shape())
                }
            }
        };
        self.0.push((tensor.clone(), sum));
        Ok(())
    }
}
