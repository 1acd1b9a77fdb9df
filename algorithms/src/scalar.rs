//! The number type of a vector. Runs use `f32`; the same code in `f64` is compared with the reference
//! to 1e-9, where `f32` would hide a small mistake in a formula.

use crate::local::{LocalPlan, StepSize, step_of};
use crate::rule::{Algorithm, ParamError, Params, Rule};
use std::{
    fmt::Debug,
    ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign},
};

/// Builds an algorithm from the keys of a run file.
pub type Maker<S> = fn(&Params) -> Result<Box<dyn Algorithm<S>>, ParamError>;

/// `f32` or `f64`.
pub trait Scalar:
    Copy
    + Default
    + PartialOrd
    + Debug
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// The nearest number of this type.
    fn of(value: f64) -> Self;
    /// The number, exactly.
    fn wide(self) -> f64;
    /// The square root.
    #[must_use]
    fn sqrt(self) -> Self;
    /// How the rule builds its algorithm for this type.
    fn maker(rule: &Rule) -> Maker<Self>;
    /// [`crate::local::step`], compiled here: code that is generic is compiled where it is used, there perhaps
    /// without vectors.
    fn step(w: &mut [Self], grad: &mut [Self], start: &[Self], plan: &LocalPlan<Self>, size: &StepSize<Self>);
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn of(value: f64) -> Self {
        value as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn maker(rule: &Rule) -> Maker<Self> {
        rule.make
    }

    fn step(
        w: &mut [Self],
        grad: &mut [Self],
        start: &[Self],
        plan: &LocalPlan<Self>,
        size: &StepSize<Self>,
    ) {
        step_of(w, grad, start, plan, size);
    }
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }

    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn maker(rule: &Rule) -> Maker<Self> {
        rule.make_f64
    }

    fn step(
        w: &mut [Self],
        grad: &mut [Self],
        start: &[Self],
        plan: &LocalPlan<Self>,
        size: &StepSize<Self>,
    ) {
        step_of(w, grad, start, plan, size);
    }
}
