//! The one local step that every federated method here is an instance of.
//!
//! With `g` the mini-batch gradient, `s` its scale, `v` a vector that is constant during the round,
//! `λ` the prox coefficient, `w₀` the round's start, `C` the clipping norm and `η` the learning rate:
//!
//! * `clean` (default): `w ← w − η ( clip(s·g) + v + λ (w − w₀) + wd·w )`
//! * `compat`: `w ← w − η ( clip(s·g + v − λ w₀) + (wd + λ) w )`, as FL-Simulator's code does: the
//!   prox term is split around the clip, which shrinks `w` where the clip is active.
//!
//! `clip(x) = x · min(1, C / (‖x‖ + 1e-6))`, norm over the whole vector. Without an active clip the
//! two agree. Where `g` is taken, and what an adaptive method makes of it, is in [`Probe`] and
//! [`Update`]; [`Walk`] does the steps of a round.

mod walk;

pub use walk::Walk;

use crate::{Vector, personal::Ranges, scalar::Scalar};

/// How the local steps of an algorithm differ from plain SGD.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPlan<S = f32> {
    /// `s`, the scale of the mini-batch gradient.
    pub grad_scale: S,
    /// `v`, added to every gradient of the round.
    pub shift: Option<Vector<S>>,
    /// `λ`, the pull towards the round's start.
    pub prox: S,
    /// `w₀` is the received model plus this; absent: the model itself.
    pub offset: Option<Vector<S>>,
    /// Where the gradient is taken.
    pub probe: Probe<S>,
    /// What a step makes of the gradient.
    pub update: Update<S>,
    /// Whether the mean loss over the worker's examples at `w₀` is needed as well.
    pub start_loss: bool,
    /// Parts that no step changes, and whose gradient counts as zero.
    pub frozen: Option<Ranges>,
}

impl<S: Scalar> Default for LocalPlan<S> {
    fn default() -> Self {
        Self {
            grad_scale: S::ONE,
            shift: None,
            prox: S::ZERO,
            offset: None,
            probe: Probe::Here,
            update: Update::Sgd,
            start_loss: false,
            frozen: None,
        }
    }
}

/// Where the gradient of a step is taken. Every pass of a step uses the same mini-batch; scale, shift,
/// clip, prox and weight decay act on the last pass alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe<S = f32> {
    /// At `w`. One pass.
    Here,
    /// At `w + e`, with `e` constant during the round (FedLESAM). One pass.
    Fixed(Vector<S>),
    /// At `w + ρ g / (‖g‖ + 1e-7)`, with `g` the gradient at `w` (SAM). Two passes.
    Ascent {
        /// `ρ`.
        rho: S,
    },
    /// `(1 − α) g₁ + α g₂`, with `g₁` the gradient at `w` and `g₂` that at `w + ρ g₁`, not normalised
    /// (FedSpeed as published). Two passes.
    Merged {
        /// `ρ`.
        rho: S,
        /// `α`.
        merge: S,
    },
    /// At `w + e` with `e = ρ q / (‖q‖ + 1e-7)`, `q = g − μ − s`; then `μ ← μ + e − s` (FedSMOO). Two
    /// passes. The run ends with `μ` as [`DUAL`].
    Dynamic {
        /// `ρ`.
        rho: S,
        /// `μ` before the first step.
        dual: Vector<S>,
        /// `s`, the server's perturbation.
        anchor: Vector<S>,
    },
}

impl<S: Scalar> Probe<S> {
    /// SAM; without a perturbation it is one pass at `w`.
    pub fn ascent(rho: S) -> Self {
        if rho == S::ZERO { Self::Here } else { Self::Ascent { rho } }
    }

    /// FedSpeed's merge; without a perturbation or a share it is one pass at `w`.
    pub fn merged(rho: S, merge: S) -> Self {
        if rho == S::ZERO || merge == S::ZERO { Self::Here } else { Self::Merged { rho, merge } }
    }
}

/// Name of what [`Probe::Dynamic`] carries out of a run.
pub const DUAL: &str = "mu";
/// Name of what [`Update::Amsgrad`] carries out of a run.
pub const SECOND: &str = "v";

/// What a step makes of the gradient `G`: scaled, clipped, with shift and prox.
#[derive(Debug, Clone, PartialEq)]
pub enum Update<S = f32> {
    /// `w ← w − η (G + wd·w)`.
    Sgd,
    /// FedLADA: `m ← β₁ m + (1−β₁) G`, `v ← β₂ v + (1−β₂) G²`, `v̂ ← max(v̂, v)`,
    /// `w ← w − η ( α m/√v̂ + (1−α) g_a + wd·w )`; `m` starts at 0, `v` and `v̂` at `second`, which must
    /// be positive. The run ends with `v̂` as [`SECOND`].
    Amsgrad {
        /// `β₁`.
        beta1: S,
        /// `β₂`.
        beta2: S,
        /// `α`.
        mix: S,
        /// `v` and `v̂` before the first step.
        second: Vector<S>,
        /// `g_a`, the mean direction of the last round.
        global: Vector<S>,
    },
    /// As `Sgd`, and then `w ← sign(w) max(|w| − η κ, 0)` in each element: the proximal step of `κ ‖w‖₁`.
    Sparse {
        /// `κ`.
        threshold: S,
    },
    /// Heavy ball from rest: `w⁺ = w − η (G + wd·w) + θ (w − w⁻)`, with `w⁻ = w₀` before the first step
    /// (Polyak 1964; DFedAvgM).
    HeavyBall {
        /// `θ`.
        momentum: S,
    },
}

/// Step size and regularisation of one round; constant inside the round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSize<S = f32> {
    /// Learning rate.
    pub lr: S,
    /// Weight decay, outside the clip.
    pub weight_decay: S,
    /// Clipping norm `C`.
    pub clip: Option<S>,
    /// The `compat` form above instead of the `clean` one.
    pub compat: bool,
}

/// One local step by [`Update::Sgd`], in place. `grad` is used as scratch and left undefined.
///
/// # Panics
/// If the four vectors differ in length.
pub fn step<S: Scalar>(w: &mut [S], grad: &mut [S], start: &[S], plan: &LocalPlan<S>, size: &StepSize<S>) {
    S::step(w, grad, start, plan, size);
}

/// As [`step`], generic.
pub(crate) fn step_of<S: Scalar>(
    w: &mut [S],
    grad: &mut [S],
    start: &[S],
    plan: &LocalPlan<S>,
    size: &StepSize<S>,
) {
    assert!(w.len() == grad.len() && w.len() == start.len(), "step: lengths differ");
    let zero = Vec::new();
    let shift: &[S] = plan.shift.as_ref().map_or(&zero, |shift| shift.as_slice());
    assert!(shift.is_empty() || shift.len() == w.len(), "step: the shift has another length");
    if plan.grad_scale != S::ONE {
        crate::scale(grad, plan.grad_scale);
    }
    if size.compat {
        add_correction(grad, shift, plan.prox, start);
        let factor = clip_factor(grad, size.clip);
        let decay = size.weight_decay + plan.prox;
        for (w, g) in w.iter_mut().zip(&*grad) {
            *w -= size.lr * (factor * *g + decay * *w);
        }
        return;
    }
    let factor = clip_factor(grad, size.clip);
    let (StepSize { lr, weight_decay, .. }, prox) = (*size, plan.prox);
    // One pass; vectors whose term is zero are not read.
    let (shifted, pulled) = (!shift.is_empty(), prox != S::ZERO);
    let each = w.iter_mut().zip(&*grad);
    match (shifted, pulled) {
        (false, false) => each.for_each(|(w, g)| *w -= lr * (*g * factor + weight_decay * *w)),
        (true, false) => {
            each.zip(shift).for_each(|((w, g), v)| *w -= lr * (*g * factor + *v + weight_decay * *w));
        }
        (false, true) => each.zip(start).for_each(|((w, g), s)| {
            *w -= lr * (*g * factor + prox * (*w - *s) + weight_decay * *w);
        }),
        (true, true) => each.zip(shift).zip(start).for_each(|(((w, g), v), s)| {
            *w -= lr * (*g * factor + *v + prox * (*w - *s) + weight_decay * *w);
        }),
    }
}

fn add_correction<S: Scalar>(grad: &mut [S], shift: &[S], prox: S, start: &[S]) {
    if !shift.is_empty() {
        crate::axpy(grad, S::ONE, shift);
    }
    if prox != S::ZERO {
        crate::axpy(grad, -prox, start);
    }
}

fn clip_factor<S: Scalar>(grad: &[S], clip: Option<S>) -> S {
    clip.map_or(S::ONE, |clip| S::of((clip.wide() / (norm(grad) + 1e-6)).min(1.0)))
}

/// L2 norm, accumulated in `f64` over blocks in a fixed order.
pub fn norm<S: Scalar>(x: &[S]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let chunks = x.chunks_exact(8);
    let tail: f64 = chunks.remainder().iter().map(|v| v.wide() * v.wide()).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v.wide() * v.wide();
        }
    }
    (lanes.iter().sum::<f64>() + tail).sqrt()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
