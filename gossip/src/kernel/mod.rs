//! Mixing of whole vectors: the arithmetic of a peer (add a share, split one off) and of all nodes at
//! once, for simulations and tests. Sums run in ascending order of senders, so that equal input gives
//! equal bytes.

mod relay;
mod slices;

use crate::{Mixing, Schedule};
pub use relay::{RelayError, RelaySum};
pub use slices::Slices;
use std::ops::{Add, Mul, Sub};

/// `f32` or `f64`.
pub trait Scalar:
    Copy
    + Default
    + PartialEq
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Slices
{
    /// Nearest value.
    fn of(value: f64) -> Self;
    /// As `f64`.
    fn wide(self) -> f64;
}

impl Scalar for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// `y ← y + factor · x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy<T: Scalar>(y: &mut [T], factor: T, x: &[T]) {
    T::axpy(y, factor, x);
}

/// `y ← y + x`.
///
/// # Panics
/// If the lengths differ.
pub fn add<T: Scalar>(y: &mut [T], x: &[T]) {
    T::add_all(y, &[x]);
}

/// `factor · x`.
pub fn scaled<T: Scalar>(factor: f64, x: &[T]) -> Vec<T> {
    let mut to = Vec::new();
    T::scaled(T::of(factor), x, &mut to);
    to
}

/// `P X` for the models of all nodes, `n` vectors of length d: one mixing step.
///
/// # Panics
/// If there is not one vector per node, or their lengths differ.
pub fn mix<T: Scalar>(mixing: &Mixing, models: &[Vec<T>]) -> Vec<Vec<T>> {
    assert_eq!(models.len(), mixing.nodes(), "mix: one model per node");
    let length = models.first().map_or(0, Vec::len);
    let mixed = |to| {
        let mut out = vec![T::default(); length];
        for share in mixing.row(to) {
            axpy(&mut out, T::of(share.weight), &models[share.to]);
        }
        out
    };
    (0..models.len()).map(mixed).collect()
}

/// Push-sum state of all nodes: numerators and masses.
#[derive(Debug, Clone, PartialEq)]
pub struct PushSum<T> {
    /// Numerators `x`, `n` vectors of length d. Local changes are added here.
    pub x: Vec<Vec<T>>,
    /// Masses `w`, all 1 at the start.
    pub w: Vec<f64>,
}

impl<T: Scalar> PushSum<T> {
    /// Everybody starts with mass 1.
    pub fn new(x: Vec<Vec<T>>) -> Self {
        Self { w: vec![1.0; x.len()], x }
    }

    /// `x ← P x, w ← P w` (Kempe, Dobra and Gehrke 2003; Assran et al. 2019, algorithm 1).
    ///
    /// # Panics
    /// As [`mix`].
    pub fn mix(&mut self, mixing: &Mixing) {
        self.x = mix(mixing, &self.x);
        self.w = mixing.apply(&self.w);
    }

    /// The de-biased models `z_i = x_i / w_i`: what is trained from, evaluated and published.
    pub fn models(&self) -> Vec<Vec<T>> {
        let model = |(x, w): (&Vec<T>, &f64)| x.iter().map(|x| T::of(x.wide() / w)).collect();
        self.x.iter().zip(&self.w).map(model).collect()
    }
}

/// Multiple gossip (Shi et al. 2023, arXiv:2302.04083): `repeats` mixing steps in round `round`. With as
/// many as an exact schedule has rounds, everybody gets the exact mean.
///
/// # Panics
/// As [`mix`].
pub fn mix_repeatedly<T: Scalar>(
    schedule: &Schedule,
    round: u64,
    repeats: u64,
    models: &[Vec<T>],
) -> Vec<Vec<T>> {
    let steps = round * repeats..(round + 1) * repeats;
    steps.fold(models.to_vec(), |models, step| mix(&schedule.mixing(step), &models))
}
