//! The local steps of one round, by a plan. The caller gives gradients, and nothing else: daemons,
//! simulator and tests differ in where gradients come from only.

use super::{DUAL, LocalPlan, Probe, SECOND, StepSize, Update, add_correction, clip_factor, norm, step};
use crate::{LocalRun, Vector, Vectors, axpy, scalar::Scalar, scale};
use std::sync::Arc;

/// A local run under way. Memory: `2d`, and `d` for each of: an offset, a probe that is not
/// [`Probe::Here`], a merge, `μ`; `3d` for [`Update::Amsgrad`], up to `2d` for a heavy ball.
#[derive(Debug)]
pub struct Walk<S = f32> {
    start: Vector<S>,
    w: Vec<S>,
    grad: Vec<S>,
    /// Where the last pass is taken, if not at `w`.
    probe: Vec<S>,
    /// `g₁` of a merge, `μ` of FedSMOO.
    kept: Vec<S>,
    moments: Option<Moments<S>>,
    /// `w − w⁻` of a heavy ball.
    velocity: Vec<S>,
    plan: LocalPlan<S>,
    size: StepSize<S>,
    steps: u32,
}

#[derive(Debug)]
struct Moments<S> {
    first: Vec<S>,
    second: Vec<S>,
    largest: Vec<S>,
}

impl<S: Scalar> Walk<S> {
    /// Before the first step, from the received model.
    ///
    /// # Panics
    /// If a vector of the plan has another length than the model.
    pub fn new(model: &Vector<S>, plan: &LocalPlan<S>, size: StepSize<S>) -> Self {
        let d = model.len();
        let start = plan.offset.as_ref().map_or_else(
            || Arc::clone(model),
            |offset| {
                let mut start = model.as_ref().clone();
                axpy(&mut start, S::ONE, offset);
                Arc::new(start)
            },
        );
        let (probes, kept) = match &plan.probe {
            Probe::Here => (0, Vec::new()),
            Probe::Fixed(_) | Probe::Ascent { .. } => (d, Vec::new()),
            Probe::Merged { .. } => (d, vec![S::ZERO; d]),
            Probe::Dynamic { dual, .. } => (d, dual.as_ref().clone()),
        };
        let heavy = matches!(plan.update, Update::HeavyBall { .. });
        let moments = match &plan.update {
            Update::Sgd | Update::HeavyBall { .. } | Update::Sparse { .. } => None,
            Update::Amsgrad { second, .. } => {
                assert_eq!(second.len(), d, "amsgrad: lengths differ");
                let second = second.as_ref().clone();
                Some(Moments { first: vec![S::ZERO; d], largest: second.clone(), second })
            }
        };
        Self {
            w: start.as_ref().clone(),
            start,
            grad: vec![S::ZERO; d],
            // A heavy ball keeps the last weights there.
            probe: vec![S::ZERO; if heavy { d } else { probes }],
            kept,
            moments,
            velocity: vec![S::ZERO; if heavy { d } else { 0 }],
            plan: plan.clone(),
            size,
            steps: 0,
        }
    }

    /// The weights after the steps so far.
    pub fn weights(&self) -> &[S] {
        &self.w
    }

    /// Steps done.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// One step on one mini-batch. `gradient` overwrites its second argument by the gradient at its
    /// first, and is called once or twice; what it measured at its first call is given back.
    ///
    /// # Errors
    /// Those of `gradient`; the step is then not done.
    pub fn step<T, E>(&mut self, mut gradient: impl FnMut(&[S], &mut [S]) -> Result<T, E>) -> Result<T, E> {
        let frozen = self.plan.frozen.clone();
        let mut free = |w: &[S], grad: &mut [S]| {
            let measured = gradient(w, grad)?;
            let ranges = frozen.iter().flat_map(|ranges| ranges.iter());
            ranges.for_each(|range| grad[range.clone()].fill(S::ZERO));
            Ok(measured)
        };
        let measured = self.gradient(&mut free)?;
        if let Update::HeavyBall { momentum } = self.plan.update {
            self.heavy_ball(momentum);
        } else if self.moments.is_some() {
            self.amsgrad();
        } else {
            step(&mut self.w, &mut self.grad, &self.start, &self.plan, &self.size);
        }
        if let Update::Sparse { threshold } = self.plan.update {
            shrink(&mut self.w, self.size.lr * threshold);
        }
        for range in frozen.iter().flat_map(|ranges| ranges.iter()) {
            self.w[range.clone()].copy_from_slice(&self.start[range.clone()]);
        }
        self.steps += 1;
        Ok(measured)
    }

    fn gradient<T, E>(&mut self, gradient: &mut impl FnMut(&[S], &mut [S]) -> Result<T, E>) -> Result<T, E> {
        let Self { w, grad, probe, kept, .. } = self;
        if let Probe::Fixed(e) = &self.plan.probe {
            place(probe, w, S::ONE, e);
            return gradient(probe, grad);
        }
        let measured = gradient(w, grad)?;
        match &self.plan.probe {
            Probe::Here | Probe::Fixed(_) => return Ok(measured),
            Probe::Ascent { rho } => place(probe, w, reach(*rho, grad), grad),
            Probe::Merged { rho, .. } => {
                place(probe, w, *rho, grad);
                kept.copy_from_slice(grad);
            }
            Probe::Dynamic { rho, anchor, .. } => {
                for ((q, mu), s) in grad.iter_mut().zip(&*kept).zip(anchor.iter()) {
                    *q = *q - *mu - *s;
                }
                let reach = reach(*rho, grad);
                place(probe, w, reach, grad);
                for ((mu, q), s) in kept.iter_mut().zip(&*grad).zip(anchor.iter()) {
                    *mu += reach * *q - *s;
                }
            }
        }
        gradient(probe, grad)?;
        if let Probe::Merged { merge, .. } = &self.plan.probe {
            let (second, first) = (*merge, S::ONE - *merge);
            for (g, kept) in grad.iter_mut().zip(&*kept) {
                *g = *g * second + first * *kept;
            }
        }
        Ok(measured)
    }

    fn heavy_ball(&mut self, momentum: S) {
        self.probe.copy_from_slice(&self.w);
        step(&mut self.w, &mut self.grad, &self.start, &self.plan, &self.size);
        for ((w, before), v) in self.w.iter_mut().zip(&self.probe).zip(&mut self.velocity) {
            *v = (*w - *before) + momentum * *v;
            *w = *before + *v;
        }
    }

    fn amsgrad(&mut self) {
        let Update::Amsgrad { beta1, beta2, mix, global, .. } = &self.plan.update else { return };
        let Some(Moments { first, second, largest }) = &mut self.moments else { return };
        let grad = &mut self.grad;
        scale(grad, self.plan.grad_scale);
        let factor = clip_factor(grad, self.size.clip);
        scale(grad, factor);
        add_correction(grad, self.plan.shift.as_ref().map_or(&[], |v| v.as_slice()), S::ZERO, &[]);
        for (k, w) in self.w.iter_mut().enumerate() {
            let g = grad[k] + self.plan.prox * (*w - self.start[k]);
            first[k] = *beta1 * first[k] + (S::ONE - *beta1) * g;
            second[k] = *beta2 * second[k] + (S::ONE - *beta2) * g * g;
            if second[k] > largest[k] {
                largest[k] = second[k];
            }
            let adaptive = *mix * first[k] / largest[k].sqrt();
            *w -= self.size.lr * (adaptive + (S::ONE - *mix) * global[k] + self.size.weight_decay * *w);
        }
    }

    /// What [`crate::Algorithm::finish`] takes.
    pub fn finish(self) -> LocalRun<S> {
        let mut carried = Vectors::new();
        if let Probe::Dynamic { .. } = self.plan.probe {
            carried.insert(DUAL.to_owned(), Arc::new(self.kept));
        }
        if let Some(moments) = self.moments {
            carried.insert(SECOND.to_owned(), Arc::new(moments.largest));
        }
        LocalRun {
            start: self.start,
            end: self.w,
            steps: self.steps,
            lr: self.size.lr,
            carried,
            start_loss: None,
            personal: None,
        }
    }
}

/// `to = w + a · e`.
fn place<S: Scalar>(to: &mut [S], w: &[S], a: S, e: &[S]) {
    assert!(to.len() == w.len() && to.len() == e.len(), "probe: lengths differ");
    for ((to, w), e) in to.iter_mut().zip(w).zip(e) {
        *to = *w + a * *e;
    }
}

/// `w ← sign(w) max(|w| − by, 0)`.
fn shrink<S: Scalar>(w: &mut [S], by: S) {
    for w in w {
        *w = if *w > by {
            *w - by
        } else if *w < -by {
            *w + by
        } else {
            S::ZERO
        };
    }
}

/// `ρ / (‖g‖ + 1e-7)`.
fn reach<S: Scalar>(rho: S, g: &[S]) -> S {
    S::of(rho.wide() / (norm(g) + 1e-7))
}
