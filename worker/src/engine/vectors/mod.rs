//! Kernels over flat vectors: what algorithms do to a model besides asking for its gradient, one pass
//! over memory each.
//!
//! [`VectorKernels`] is the one trait; [`Cpu`] runs it on threads over slices, [`super::cuda::Cuda`] on a GPU
//! over vectors in its memory. Results do not depend on the number of threads: a vector is always cut into
//! the same blocks, and sums are taken in the order of the blocks.

mod blocks;
pub mod cases;
mod cpu;
mod largest;
mod noise;
mod select;
mod sift;
mod stream;
#[cfg(test)]
mod tests;

pub use cpu::Cpu;

use super::cuda::DeviceError;
use std::ops::DerefMut;

/// Terms that [`VectorKernels::combine`] takes.
pub const TERMS_MAX: usize = 6;
/// Scalars that share a scale in [`VectorKernels::quantise`].
pub const QUANTUM: usize = 256;

/// One step of gradient descent: `g ← s·g + v + λ(w − w₀) + wd·w`, with momentum `m ← μ·m + g`, then
/// `w ← w − η·m` (or `g`, without momentum).
///
/// `V` is what the kernels take for a vector.
#[derive(Debug)]
pub struct Step<'a, V: ?Sized = [f32]> {
    /// `η`.
    pub lr: f32,
    /// `s`, a scale of the gradient, a clip for example.
    pub scale: f32,
    /// `wd`.
    pub weight_decay: f32,
    /// `λ`; needs `start`.
    pub prox: f32,
    /// `μ`; needs a momentum vector.
    pub momentum: f32,
    /// `v`.
    pub shift: Option<&'a V>,
    /// `w₀`.
    pub start: Option<&'a V>,
}

impl<V: ?Sized> Clone for Step<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: ?Sized> Copy for Step<'_, V> {}

impl<V: ?Sized> Default for Step<'_, V> {
    fn default() -> Self {
        let (shift, start) = (None, None);
        Self { lr: 0.0, scale: 0.0, weight_decay: 0.0, prox: 0.0, momentum: 0.0, shift, start }
    }
}

/// One step of Adam (Kingma and Ba 2015) with decoupled weight decay.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// `η`, corrections of the moments' bias included.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay, times `lr`.
    pub weight_decay: f32,
}

/// What a vector may be of.
pub trait Scalar: bytemuck::Pod + std::fmt::Debug + Send + Sync {}

impl<T: bytemuck::Pod + std::fmt::Debug + Send + Sync> Scalar for T {}

/// Operations on flat vectors. Vectors of one call have equal lengths unless said otherwise.
///
/// # Panics
/// Every method, if lengths do not fit.
pub trait VectorKernels: Send + Sync + std::fmt::Debug {
    /// A vector, wherever the kernels want it: a slice, or memory of a GPU.
    type View<T: Scalar>: ?Sized;
    /// One that is owned.
    type Own<T: Scalar>: DerefMut<Target = Self::View<T>> + std::fmt::Debug;

    /// Brings values to where the kernels want them.
    ///
    /// # Errors
    /// If there is no memory for them.
    fn put<T: Scalar>(&self, values: &[T]) -> Result<Self::Own<T>, DeviceError>;

    /// The values of a vector, once all that was asked for is done.
    ///
    /// # Errors
    /// What went wrong since the last time that somebody asked.
    fn get<T: Scalar>(&self, vector: &Self::View<T>) -> Result<Vec<T>, DeviceError>;

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// As of [`VectorKernels::get`].
    fn wait(&self) -> Result<(), DeviceError>;

    /// `to = from`, by the means of the memory itself: what the other kernels are measured against.
    fn copy(&self, to: &mut Self::View<f32>, from: &Self::View<f32>) {
        self.combine(to, &[(1.0, from)]);
    }

    /// `to = Σ aᵢ xᵢ` over at most [`TERMS_MAX`] terms. Push-sum mixes with it as well: the shares of the
    /// numerators, each divided by the new weight.
    fn combine(&self, to: &mut Self::View<f32>, terms: &[(f32, &Self::View<f32>)]);

    /// `Σ aᵢ bᵢ` in f64.
    fn dot(&self, a: &Self::View<f32>, b: &Self::View<f32>) -> f64;

    /// `‖a‖²` in f64.
    fn square(&self, a: &Self::View<f32>) -> f64 {
        self.dot(a, a)
    }

    /// Scales `x` down to norm `limit` if it is longer; gives its norm before.
    fn clip(&self, x: &mut Self::View<f32>, limit: f64) -> f64;

    /// Sharpness-aware perturbation: `to = w + ρ g / (‖g‖ + 1e-7)`.
    fn perturb(&self, to: &mut Self::View<f32>, w: &Self::View<f32>, g: &Self::View<f32>, rho: f32);

    /// A step of gradient descent, in place.
    fn descend(
        &self,
        w: &mut Self::View<f32>,
        grad: &Self::View<f32>,
        momentum: Option<&mut Self::View<f32>>,
        step: &Step<'_, Self::View<f32>>,
    );

    /// A step of Adam, in place.
    fn adam(
        &self,
        w: &mut Self::View<f32>,
        grad: &Self::View<f32>,
        moments: [&mut Self::View<f32>; 2],
        step: &Adam,
    );

    /// Adds `round(x · scale)` to fixed-point sums.
    fn encode(&self, sums: &mut Self::View<i64>, x: &Self::View<f32>, scale: f64);

    /// Bytes `round(127 · x / scale)` with one scale, the largest magnitude, for [`QUANTUM`] scalars.
    fn quantise(&self, x: &Self::View<f32>, codes: &mut Self::View<i8>, scales: &mut Self::View<f32>);

    /// The inverse of [`VectorKernels::quantise`].
    fn dequantise(&self, codes: &Self::View<i8>, scales: &Self::View<f32>, x: &mut Self::View<f32>);

    /// Of every `m` neighbours (at most 64) keeps the `n` largest in magnitude (the first of equals), zeroes the rest.
    fn keep_of(&self, x: &mut Self::View<f32>, n: usize, m: usize);

    /// Keeps the `k` largest in magnitude of all (the first of equals), zeroes the rest.
    fn keep_largest(&self, x: &mut Self::View<f32>, k: usize);

    /// Adds to `sum` the rows of `rows`, each scaled down to norm `clip` if it is longer; gives their norms.
    fn clipped_sum(&self, rows: &Self::View<f32>, clip: f64, sum: &mut Self::View<f32>) -> Vec<f64>;

    /// Adds Gaussian noise of this deviation: element `i` gets the number that `key` and `i` name. For
    /// simulations only: a guarantee of privacy needs a generator and a sampler made for it.
    fn add_noise(&self, x: &mut Self::View<f32>, deviation: f32, key: u64);
}
