//! The arithmetic of each kernel on one block that stays in the cache.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

use super::{Adam, QUANTUM, Step, TERMS_MAX, stream};
use crate::engine::ops::math;

/// `to = Σ aᵢ xᵢ`, from the first term to the last; `past` the caches, if so.
pub(super) fn combine(to: &mut [f32], terms: &[(f32, &[f32])], past: bool) {
    math::vectorised(
        #[inline(always)]
        || match *terms {
            [] => to.fill(0.0),
            [a] => fixed(to, [a], past),
            [a, b] => fixed(to, [a, b], past),
            [a, b, c] => fixed(to, [a, b, c], past),
            [a, b, c, d] => fixed(to, [a, b, c, d], past),
            [a, b, c, d, e] => fixed(to, [a, b, c, d, e], past),
            [a, b, c, d, e, f] => fixed(to, [a, b, c, d, e, f], past),
            _ => panic!("combine: {} terms, at most {TERMS_MAX}", terms.len()),
        },
    );
}

#[inline(always)]
fn fixed<const N: usize>(to: &mut [f32], terms: [(f32, &[f32]); N], past: bool) {
    stream::fill(
        to,
        past,
        #[inline(always)]
        |at, to| {
            let n = to.len();
            let terms = terms.map(|(a, x)| (a, &x[at..at + n]));
            for i in 0..n {
                let mut sum = terms[0].0 * terms[0].1[i];
                for (a, x) in &terms[1..] {
                    sum += a * x[i];
                }
                to[i] = sum;
            }
        },
    );
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    math::vectorised(
        #[inline(always)]
        || {
            let runs = a.chunks(1_024).zip(b.chunks(1_024));
            runs.map(|(a, b)| f64::from(math::sum_pairs(a, b, |a, b| a * b))).sum()
        },
    )
}

pub(super) fn scale(x: &mut [f32], factor: f32) {
    for v in x {
        *v *= factor;
    }
}

/// Optional vectors that are absent count as zeros, an absent start as `w`.
pub(super) fn descend(w: &mut [f32], grad: &[f32], momentum: Option<&mut [f32]>, s: &Step<'_>) {
    let coefficients = Coefficients { lr: s.lr, scale: s.scale, weight_decay: s.weight_decay, prox: s.prox };
    let mu = s.momentum;
    math::vectorised(
        #[inline(always)]
        || match (momentum, s.shift, s.start) {
            (None, None, None) => {
                for (w, &g) in w.iter_mut().zip(grad) {
                    *w -= coefficients.lr * coefficients.direction(*w, g, 0.0, *w);
                }
            }
            (None, Some(v), None) => {
                for ((w, &g), &v) in w.iter_mut().zip(grad).zip(v) {
                    *w -= coefficients.lr * coefficients.direction(*w, g, v, *w);
                }
            }
            (None, None, Some(start)) => {
                for ((w, &g), &start) in w.iter_mut().zip(grad).zip(start) {
                    *w -= coefficients.lr * coefficients.direction(*w, g, 0.0, start);
                }
            }
            (None, Some(v), Some(start)) => {
                for (((w, &g), &v), &start) in w.iter_mut().zip(grad).zip(v).zip(start) {
                    *w -= coefficients.lr * coefficients.direction(*w, g, v, start);
                }
            }
            (Some(m), None, None) => {
                for ((w, &g), m) in w.iter_mut().zip(grad).zip(m) {
                    *m = mu * *m + coefficients.direction(*w, g, 0.0, *w);
                    *w -= coefficients.lr * *m;
                }
            }
            (Some(m), Some(v), None) => {
                for (((w, &g), m), &v) in w.iter_mut().zip(grad).zip(m).zip(v) {
                    *m = mu * *m + coefficients.direction(*w, g, v, *w);
                    *w -= coefficients.lr * *m;
                }
            }
            (Some(m), None, Some(start)) => {
                for (((w, &g), m), &start) in w.iter_mut().zip(grad).zip(m).zip(start) {
                    *m = mu * *m + coefficients.direction(*w, g, 0.0, start);
                    *w -= coefficients.lr * *m;
                }
            }
            (Some(m), Some(v), Some(start)) => {
                for ((((w, &g), m), &v), &start) in w.iter_mut().zip(grad).zip(m).zip(v).zip(start) {
                    *m = mu * *m + coefficients.direction(*w, g, v, start);
                    *w -= coefficients.lr * *m;
                }
            }
        },
    );
}

/// The numbers of a step, by value: behind a reference they might change with every store, and no loop would
/// vectorise.
#[derive(Clone, Copy)]
struct Coefficients {
    lr: f32,
    scale: f32,
    weight_decay: f32,
    prox: f32,
}

impl Coefficients {
    #[inline(always)]
    fn direction(self, w: f32, g: f32, v: f32, start: f32) -> f32 {
        self.scale * g + v + self.prox * (w - start) + self.weight_decay * w
    }
}

pub(super) fn adam(w: &mut [f32], grad: &[f32], [first, second]: [&mut [f32]; 2], s: &Adam) {
    math::vectorised(
        #[inline(always)]
        || {
            for (((w, &g), m), v) in w.iter_mut().zip(grad).zip(first).zip(second) {
                *m = s.beta1 * *m + (1.0 - s.beta1) * g;
                *v = s.beta2 * *v + (1.0 - s.beta2) * g * g;
                *w -= s.lr * (*m / (v.sqrt() + s.epsilon) + s.weight_decay * *w);
            }
        },
    );
}

pub(super) fn encode(sums: &mut [i64], x: &[f32], scale: f64) {
    /// Adding and subtracting 1.5 · 2⁵² rounds to an integer, half to even.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    math::vectorised(
        #[inline(always)]
        || {
            for (sum, &x) in sums.iter_mut().zip(x) {
                let shifted = f64::from(x) * scale + ROUND;
                *sum += (shifted.to_bits() as i64) - (ROUND.to_bits() as i64);
            }
        },
    );
}

pub(super) fn quantise(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    math::vectorised(
        #[inline(always)]
        || {
            let ((x, rest), (codes, tail)) = (x.as_chunks::<QUANTUM>(), codes.as_chunks_mut::<QUANTUM>());
            // Of one length that the compiler knows.
            for ((x, codes), scale) in x.iter().zip(codes).zip(scales.iter_mut()) {
                *scale = quantise_one(x, codes);
            }
            if let (false, Some(scale)) = (rest.is_empty(), scales.get_mut(x.len())) {
                *scale = quantise_one(rest, tail);
            }
        },
    );
}

/// Numbers that share a scale; gives the scale.
#[inline(always)]
fn quantise_one(x: &[f32], codes: &mut [i8]) -> f32 {
    /// Adding 1.5 · 2²³ rounds to an integer, half to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// As many running maxima as it takes for none to wait for the last.
    const LANES: usize = 64;
    let mut lanes = [0.0f32; LANES];
    let (runs, rest) = x.as_chunks::<LANES>();
    for run in runs {
        for (lane, v) in lanes.iter_mut().zip(run) {
            *lane = larger(*lane, v.abs());
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, v.abs());
    }
    for width in [32, 16, 8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low = larger(*low, *high);
        }
    }
    let largest = lanes[0];
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (code, &v) in codes.iter_mut().zip(x) {
        *code = (v * inverse + ROUND).to_bits() as i8;
    }
    largest / 127.0
}

/// The larger of two numbers, the first if the second is none.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Past the caches, if `past`.
pub(super) fn dequantise(codes: &[i8], scales: &[f32], x: &mut [f32], past: bool) {
    math::vectorised(
        #[inline(always)]
        || {
            stream::fill(
                x,
                past,
                #[inline(always)]
                |at, x| {
                    let (codes, scales) = (&codes[at..at + x.len()], &scales[at / QUANTUM..]);
                    for ((x, codes), &scale) in x.chunks_mut(QUANTUM).zip(codes.chunks(QUANTUM)).zip(scales) {
                        for (v, &code) in x.iter_mut().zip(codes) {
                            *v = f32::from(code) * scale;
                        }
                    }
                },
            );
        },
    );
}
