//! The local steps of a round on a device, by a plan: what `algorithms::local::Walk` does in memory.

use super::array::Array;
use super::feed::Feed;
use super::lane::args;
use super::session::{NUMBERS, SQUARE_BLOCKS, Session, Task};
use crate::engine::{EngineError, Model};
use algorithms::local::{DUAL, LocalPlan, Probe, SECOND, StepSize, Update};
use algorithms::{Vector, Vectors};
use std::sync::Arc;

/// What a step's kernels depend on; numbers are read from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::struct_excessive_bools, reason = "each is a kernel that runs or does not")]
pub(super) struct Shape {
    probe: Place,
    update: Kind,
    shifted: bool,
    scaled: bool,
    clipped: bool,
    compat: bool,
    frozen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Here,
    Fixed,
    Ascent,
    Merged,
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Sgd,
    Sparse,
    Amsgrad,
    HeavyBall,
}

/// Places in the numbers, as in `steps.cu`.
const RHO: usize = 5;
const ONE: usize = 11;
const REACH: usize = 13;

impl Shape {
    pub(super) fn of(plan: &LocalPlan, size: &StepSize) -> Self {
        let probe = match plan.probe {
            Probe::Here => Place::Here,
            Probe::Fixed(_) => Place::Fixed,
            Probe::Ascent { .. } => Place::Ascent,
            Probe::Merged { .. } => Place::Merged,
            Probe::Dynamic { .. } => Place::Dynamic,
        };
        let update = match plan.update {
            Update::Sgd => Kind::Sgd,
            Update::Sparse { .. } => Kind::Sparse,
            Update::Amsgrad { .. } => Kind::Amsgrad,
            Update::HeavyBall { .. } => Kind::HeavyBall,
        };
        Self {
            probe,
            update,
            shifted: plan.shift.is_some(),
            scaled: plan.grad_scale != 1.0,
            clipped: size.clip.is_some(),
            compat: size.compat && update != Kind::Amsgrad,
            frozen: plan.frozen.is_some(),
        }
    }

    /// The vectors that such steps need besides weights and gradient.
    fn vectors(self) -> Vec<&'static str> {
        let mut names = vec!["start"];
        match self.probe {
            Place::Here => {}
            Place::Fixed => names.extend(["probe", "fixed"]),
            Place::Ascent => names.push("probe"),
            Place::Merged => names.extend(["probe", "kept"]),
            Place::Dynamic => names.extend(["probe", "dual", "anchor"]),
        }
        match self.update {
            Kind::Sgd | Kind::Sparse => {}
            Kind::Amsgrad => names.extend(["first", "second", "largest", "global"]),
            Kind::HeavyBall => names.push("velocity"),
        }
        if self.shifted {
            names.push("shift");
        }
        if self.frozen {
            names.push("frozen");
        }
        names
    }
}

/// The numbers of a round in the kernels' order.
fn numbers(plan: &LocalPlan, size: &StepSize) -> [f32; NUMBERS] {
    let (rho, merge) = match plan.probe {
        Probe::Here | Probe::Fixed(_) => (0.0, 0.0),
        Probe::Ascent { rho } | Probe::Dynamic { rho, .. } => (rho, 0.0),
        Probe::Merged { rho, merge } => (rho, merge),
    };
    let (momentum, beta1, beta2, mix) = match plan.update {
        Update::Sgd | Update::Sparse { .. } => (0.0, 0.0, 0.0, 0.0),
        Update::HeavyBall { momentum } => (momentum, 0.0, 0.0, 0.0),
        Update::Amsgrad { beta1, beta2, mix, .. } => (0.0, beta1, beta2, mix),
    };
    let threshold = if let Update::Sparse { threshold } = plan.update { threshold } else { 0.0 };
    let StepSize { lr, weight_decay, clip, .. } = *size;
    let (prox, scale) = (plan.prox, plan.grad_scale);
    let clip = clip.unwrap_or(0.0);
    [lr, weight_decay, clip, prox, scale, rho, merge, momentum, beta1, beta2, mix, 1.0, threshold, 0.0, 0.0]
}

impl Session {
    /// Makes the vectors that steps of this shape need.
    pub(super) fn make_vectors(&mut self, shape: Shape) -> Result<(), EngineError> {
        shape.vectors().into_iter().try_for_each(|name| self.vector(name).map(drop))
    }

    /// Sets everything for a round from `start`.
    pub(super) fn begin(
        &mut self,
        start: &[f32],
        plan: &LocalPlan,
        size: &StepSize,
    ) -> Result<(), EngineError> {
        self.lane.upload(&self.numbers, &numbers(plan, size))?;
        self.place_weights(start)?;
        let own = self.vector("start")?;
        self.lane.copy(&own, &self.weights)?;
        if let Some(shift) = &plan.shift {
            self.set("shift", shift)?;
        }
        if let Some(ranges) = &plan.frozen {
            let mut frozen = vec![0.0f32; start.len()];
            ranges.iter().for_each(|range| frozen[range.clone()].fill(1.0));
            self.set("frozen", &Arc::new(frozen))?;
        }
        match &plan.probe {
            Probe::Here | Probe::Ascent { .. } | Probe::Merged { .. } => {}
            Probe::Fixed(e) => self.set("fixed", e)?,
            Probe::Dynamic { dual, anchor, .. } => {
                self.set("dual", dual)?;
                self.set("anchor", anchor)?;
            }
        }
        match &plan.update {
            Update::Sgd | Update::Sparse { .. } => {}
            Update::HeavyBall { .. } => self.zero("velocity")?,
            Update::Amsgrad { second, global, .. } => {
                self.zero("first")?;
                self.set("second", second)?;
                self.set("largest", second)?;
                self.set("global", global)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &'static str, values: &Vector) -> Result<(), EngineError> {
        let expected = self.weights.len();
        if values.len() != expected {
            return Err(EngineError::Length { what: "vector of the plan", got: values.len(), expected });
        }
        let array = self.vector(name)?;
        self.lane.upload(&array, values.as_slice())
    }

    fn zero(&mut self, name: &'static str) -> Result<(), EngineError> {
        let array = self.vector(name)?;
        self.lane.clear(&array)
    }

    /// What the run carries out besides its weights.
    pub(super) fn carried(&self, plan: &LocalPlan) -> Result<Vectors, EngineError> {
        let mut carried = Vectors::new();
        let mut take = |key: &str, name: &str| {
            let mut values = vec![0.0f32; self.weights.len()];
            self.lane.download(&mut values, self.known(name)?)?;
            carried.insert(key.to_owned(), Arc::new(values));
            Ok::<_, EngineError>(())
        };
        if let Probe::Dynamic { .. } = plan.probe {
            take(DUAL, "dual")?;
        }
        if let Update::Amsgrad { .. } = plan.update {
            take(SECOND, "largest")?;
        }
        Ok(carried)
    }

    fn known(&self, name: &str) -> Result<&Array, EngineError> {
        self.vectors.get(name).ok_or_else(|| EngineError::Device(format!("there is no vector `{name}`")))
    }

    /// Asks for one step on the present batch.
    pub(super) fn step(&self, model: &Model, feed: &Feed, shape: Shape) -> Result<(), EngineError> {
        self.slope(model, feed, shape)?;
        self.descend(shape)?;
        if shape.update == Kind::Sparse || shape.update == Kind::Amsgrad || shape.frozen {
            self.change(shape)?;
            return self.round_weights();
        }
        Ok(())
    }

    /// What a step does to the weights behind its descent.
    fn change(&self, shape: Shape) -> Result<(), EngineError> {
        let (w, n) = (&self.weights, self.weights.len());
        if shape.update == Kind::Sparse {
            self.lane.each("shrink", n, args![w, &self.numbers, n])?;
        }
        if shape.frozen {
            let (start, frozen) = (self.known("start")?, self.known("frozen")?);
            self.lane.each("restore", n, args![w, start, frozen, n])?;
        }
        Ok(())
    }

    /// From the gradient to the weights.
    fn descend(&self, shape: Shape) -> Result<(), EngineError> {
        let (w, grad, n) = (&self.weights, &self.gradient, self.weights.len());
        let (start, numbers) = (self.known("start")?, &self.numbers);
        let shift = if shape.shifted { Some(self.known("shift")?) } else { None };
        if shape.scaled || shape.compat {
            self.lane.each("correct", n, args![grad, shift, start, numbers, shape.compat, n])?;
        }
        if shape.clipped {
            self.factor(true)?;
        }
        if shape.update == Kind::Amsgrad {
            let [first, second] = [self.known("first")?, self.known("second")?];
            let (largest, global) = (self.known("largest")?, self.known("global")?);
            let state = args![w, grad, start, shift, first, second, largest, global];
            let rest = args![numbers, shape.clipped, n];
            return self.lane.each("amsgrad", n, &[state.as_slice(), rest.as_slice()].concat());
        }
        let heavy = shape.update == Kind::HeavyBall;
        let velocity = if heavy { Some(self.known("velocity")?) } else { None };
        let vectors = args![w, self.narrow.as_ref(), grad, start, shift, velocity];
        let rest = args![numbers, shape.clipped, shape.compat, n];
        self.lane.each("descend", n / 4 + n % 4, &[vectors.as_slice(), rest.as_slice()].concat())
    }

    /// The gradient of a step, where the plan wants it taken.
    fn slope(&self, model: &Model, feed: &Feed, shape: Shape) -> Result<(), EngineError> {
        let (w, grad, n) = (&self.weights, &self.gradient, self.weights.len());
        if shape.probe == Place::Here {
            return self.free(model, (w, feed), (shape, true));
        }
        let probe = self.known("probe")?;
        if shape.probe == Place::Fixed {
            self.place(probe, self.known("fixed")?, ONE)?;
            return self.free(model, (probe, feed), (shape, true));
        }
        self.free(model, (w, feed), (shape, true))?;
        match shape.probe {
            Place::Merged => {
                self.lane.copy(self.known("kept")?, grad)?;
                self.place(probe, grad, RHO)?;
            }
            Place::Dynamic => {
                let (dual, anchor) = (self.known("dual")?, self.known("anchor")?);
                self.lane.each("dual_direction", n, args![grad, dual, anchor, n])?;
                self.factor(false)?;
                self.place(probe, grad, REACH)?;
                self.lane.each("dual_step", n, args![dual, grad, anchor, &self.numbers, n])?;
            }
            Place::Here | Place::Fixed | Place::Ascent => {
                self.factor(false)?;
                self.place(probe, grad, REACH)?;
            }
        }
        self.free(model, (probe, feed), (shape, false))?;
        if shape.probe == Place::Merged {
            self.lane.each("merge", n, args![grad, self.known("kept")?, &self.numbers, n])?;
        }
        Ok(())
    }

    /// The gradient at `at`, zero where nothing may change.
    fn free(
        &self,
        model: &Model,
        (at, feed): (&Array, &Feed),
        (shape, counted): (Shape, bool),
    ) -> Result<(), EngineError> {
        self.backward(model, (at, feed), counted)?;
        if shape.frozen {
            let (grad, n) = (&self.gradient, self.gradient.len());
            self.lane.each("mask", n, args![grad, self.known("frozen")?, n])?;
        }
        Ok(())
    }

    /// `to = w + numbers[which] · e`, where the next gradient is taken.
    fn place(&self, to: &Array, e: &Array, which: usize) -> Result<(), EngineError> {
        let n = self.weights.len();
        self.lane.each("place", n, args![to, self.narrow.as_ref(), &self.weights, e, &self.numbers, which, n])
    }

    /// From the gradient's norm the clip's factor, or the reach of an ascent.
    fn factor(&self, clip: bool) -> Result<(), EngineError> {
        let (grad, n) = (&self.gradient, self.gradient.len());
        self.lane.grid("squares", (SQUARE_BLOCKS, 1), args![grad, &self.partial, n])?;
        self.lane.grid("factor", (1, 1), args![&self.partial, &self.numbers, SQUARE_BLOCKS, clip])
    }
}

/// A local step as a task.
pub(super) fn task(plan: &LocalPlan, size: &StepSize) -> (Task, Shape) {
    let shape = Shape::of(plan, size);
    (Task::Step(shape), shape)
}
