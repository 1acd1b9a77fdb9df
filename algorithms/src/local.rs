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
//! two agree.

use crate::Vector;

/// How one local step of an algorithm differs from plain SGD.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPlan {
    /// `s`, the scale of the mini-batch gradient.
    pub grad_scale: f32,
    /// `v`, added to every gradient of the round.
    pub shift: Option<Vector>,
    /// `λ`, the pull towards the round's start.
    pub prox: f32,
}

impl Default for LocalPlan {
    fn default() -> Self {
        Self { grad_scale: 1.0, shift: None, prox: 0.0 }
    }
}

/// Step size and regularisation of one round; constant inside the round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSize {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, outside the clip.
    pub weight_decay: f32,
    /// Clipping norm `C`.
    pub clip: Option<f32>,
    /// The `compat` form above instead of the `clean` one.
    pub compat: bool,
}

/// One local step, in place. `grad` is used as scratch and left undefined.
///
/// # Panics
/// If the four vectors differ in length.
pub fn step(w: &mut [f32], grad: &mut [f32], start: &[f32], plan: &LocalPlan, size: &StepSize) {
    assert!(w.len() == grad.len() && w.len() == start.len(), "step: lengths differ");
    let zero = Vec::new();
    let shift: &[f32] = plan.shift.as_ref().map_or(&zero, |shift| shift.as_slice());
    assert!(shift.is_empty() || shift.len() == w.len(), "step: the shift has another length");
    if plan.grad_scale != 1.0 {
        crate::scale(grad, plan.grad_scale);
    }
    if size.compat {
        add_correction(grad, shift, plan.prox, start);
        let factor = clip_factor(grad, size.clip);
        let decay = size.weight_decay + plan.prox;
        for (w, g) in w.iter_mut().zip(&*grad) {
            *w -= size.lr * (factor * g + decay * *w);
        }
        return;
    }
    let factor = clip_factor(grad, size.clip);
    if factor != 1.0 {
        crate::scale(grad, factor);
    }
    if !shift.is_empty() {
        crate::axpy(grad, 1.0, shift);
    }
    for ((w, g), s) in w.iter_mut().zip(&*grad).zip(start) {
        *w -= size.lr * (g + plan.prox * (*w - s) + size.weight_decay * *w);
    }
}

fn add_correction(grad: &mut [f32], shift: &[f32], prox: f32, start: &[f32]) {
    if !shift.is_empty() {
        crate::axpy(grad, 1.0, shift);
    }
    if prox != 0.0 {
        crate::axpy(grad, -prox, start);
    }
}

fn clip_factor(grad: &[f32], clip: Option<f32>) -> f32 {
    clip.map_or(1.0, |clip| (f64::from(clip) / (norm(grad) + 1e-6)).min(1.0) as f32)
}

/// L2 norm, accumulated in `f64` over blocks in a fixed order.
pub fn norm(x: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let chunks = x.chunks_exact(8);
    let tail: f64 = chunks.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*v) * f64::from(*v);
        }
    }
    (lanes.iter().sum::<f64>() + tail).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SIZE: StepSize = StepSize { lr: 0.1, weight_decay: 0.01, clip: Some(1.0), compat: false };

    fn run(plan: &LocalPlan, size: &StepSize) -> Vec<f32> {
        let start = vec![1.0, -2.0, 0.5];
        let mut w = vec![1.5, -1.0, 0.0];
        let mut grad = vec![3.0, 4.0, 0.0];
        step(&mut w, &mut grad, &start, plan, size);
        w
    }

    #[test]
    fn clean_clips_the_loss_gradient_alone() {
        let plan = LocalPlan { grad_scale: 1.0, shift: Some(Arc::new(vec![1.0, 0.0, 0.0])), prox: 0.5 };
        let got = run(&plan, &SIZE);
        // clip: (0.6, 0.8, 0); + shift; + 0.5 (w - start); + 0.01 w
        let want = [1.5 - 0.1 * (0.6 + 1.0 + 0.25 + 0.015), -1.0 - 0.1 * (0.8 + 0.5 - 0.01), -0.1 * -0.25];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn compat_clips_the_corrected_gradient() {
        let plan = LocalPlan { grad_scale: 1.0, shift: None, prox: 0.5 };
        let got = run(&plan, &StepSize { compat: true, ..SIZE });
        let g = [3.0 - 0.5, 4.0 + 1.0, -0.25_f64];
        let n = (g.iter().map(|x| x * x).sum::<f64>()).sqrt();
        for ((got, g), w) in got.iter().zip(g).zip([1.5, -1.0, 0.0]) {
            let want = w - 0.1 * (g / n + 0.51 * w);
            assert!((f64::from(*got) - want).abs() < 1e-6);
        }
    }

    #[test]
    fn both_forms_agree_without_a_clip() {
        let plan = LocalPlan { grad_scale: 0.3, shift: Some(Arc::new(vec![0.1, 0.2, 0.3])), prox: 0.7 };
        let clean = run(&plan, &StepSize { clip: None, ..SIZE });
        let compat = run(&plan, &StepSize { clip: None, compat: true, ..SIZE });
        for (a, b) in clean.iter().zip(compat) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn norm_counts_every_element() {
        let x: Vec<f32> = (0..21).map(|i| i as f32).collect();
        assert!((norm(&x) - 2_870.0_f64.sqrt()).abs() < 1e-9);
    }
}
