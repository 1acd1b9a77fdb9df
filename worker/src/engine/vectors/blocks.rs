//! The arithmetic of each kernel on one block that stays in the cache.

#![allow(
    clippy::inline_always,
    reason = "code gains wide vectors only where it is inlined into `vectorised`"
)]

use super::{Adam, QUANTUM, Step, TERMS_MAX};
use crate::engine::ops::math;

/// `to = Σ aᵢ xᵢ`, from the first term to the last.
pub(super) fn combine(to: &mut [f32], terms: &[(f32, &[f32])]) {
    math::vectorised(
        #[inline(always)]
        || match *terms {
            [] => to.fill(0.0),
            [a] => fixed(to, [a]),
            [a, b] => fixed(to, [a, b]),
            [a, b, c] => fixed(to, [a, b, c]),
            [a, b, c, d] => fixed(to, [a, b, c, d]),
            [a, b, c, d, e] => fixed(to, [a, b, c, d, e]),
            [a, b, c, d, e, f] => fixed(to, [a, b, c, d, e, f]),
            _ => panic!("combine: {} terms, at most {TERMS_MAX}", terms.len()),
        },
    );
}

#[inline(always)]
fn fixed<const N: usize>(to: &mut [f32], terms: [(f32, &[f32]); N]) {
    let n = to.len();
    let terms = terms.map(|(a, x)| (a, &x[..n]));
    for i in 0..n {
        let mut sum = terms[0].0 * terms[0].1[i];
        for (a, x) in &terms[1..] {
            sum += a * x[i];
        }
        to[i] = sum;
    }
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

/// Optional vectors that are absent count as zeros.
pub(super) fn descend(w: &mut [f32], grad: &[f32], momentum: Option<&mut [f32]>, s: &Step<'_>) {
    let n = w.len();
    let direction =
        |w: f32, g: f32, v: f32, start: f32| s.scale * g + v + s.prox * (w - start) + s.weight_decay * w;
    math::vectorised(
        #[inline(always)]
        || match (momentum, s.shift, s.start) {
            (None, None, None) => {
                for (w, &g) in w.iter_mut().zip(grad) {
                    *w -= s.lr * direction(*w, g, 0.0, *w);
                }
            }
            (None, Some(v), None) => {
                for ((w, &g), &v) in w.iter_mut().zip(grad).zip(v) {
                    *w -= s.lr * direction(*w, g, v, *w);
                }
            }
            (None, None, Some(start)) => {
                for ((w, &g), &start) in w.iter_mut().zip(grad).zip(start) {
                    *w -= s.lr * direction(*w, g, 0.0, start);
                }
            }
            (momentum, shift, start) => {
                let mut none = [];
                let m = momentum.unwrap_or(&mut none);
                for i in 0..n {
                    let v = shift.map_or(0.0, |v| v[i]);
                    let g = direction(w[i], grad[i], v, start.map_or(w[i], |start| start[i]));
                    let g = match m.get_mut(i) {
                        Some(m) => {
                            *m = s.momentum * *m + g;
                            *m
                        }
                        None => g,
                    };
                    w[i] -= s.lr * g;
                }
            }
        },
    );
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
    /// Adding 1.5 · 2²³ rounds to an integer, half to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    math::vectorised(
        #[inline(always)]
        || {
            for ((x, codes), scale) in x.chunks(QUANTUM).zip(codes.chunks_mut(QUANTUM)).zip(scales) {
                let mut lanes = [0.0f32; 16];
                for run in x.chunks(16) {
                    for (lane, v) in lanes.iter_mut().zip(run) {
                        *lane = if v.abs() > *lane { v.abs() } else { *lane };
                    }
                }
                let largest = lanes.into_iter().fold(0.0, f32::max);
                *scale = largest / 127.0;
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                for (code, &v) in codes.iter_mut().zip(x) {
                    *code = (v * inverse + ROUND).to_bits() as i8;
                }
            }
        },
    );
}

pub(super) fn dequantise(codes: &[i8], scales: &[f32], x: &mut [f32]) {
    math::vectorised(
        #[inline(always)]
        || {
            for ((x, codes), &scale) in x.chunks_mut(QUANTUM).zip(codes.chunks(QUANTUM)).zip(scales) {
                for (v, &code) in x.iter_mut().zip(codes) {
                    *v = f32::from(code) * scale;
                }
            }
        },
    );
}

/// Adds noise to the elements `first ..`, an even number on.
pub(super) fn add_noise(x: &mut [f32], deviation: f32, key: u64, first: u64) {
    const TURN: f64 = std::f64::consts::TAU;
    for (i, pair) in x.chunks_mut(2).enumerate() {
        // Box and Muller, on 32 bits each.
        let word = algorithms::seed::mix(key ^ (first / 2 + i as u64));
        let radius = ((word >> 32) as f64 + 1.0) / 4_294_967_296.0;
        let angle = (word as u32) as f64 / 4_294_967_296.0;
        let length = f64::from(deviation) * libm::sqrt(-2.0 * libm::log(radius));
        let (sine, cosine) = libm::sincos(TURN * angle);
        for (v, part) in pair.iter_mut().zip([cosine, sine]) {
            *v += (length * part) as f32;
        }
    }
}
