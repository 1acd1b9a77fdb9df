//! Kernels over flat vectors: what algorithms do to a model besides asking for its gradient, one pass
//! over memory each.
//!
//! [`VectorKernels`] is the one trait; [`Cpu`] runs it on threads, `cuda/vectors.cu` holds the same
//! arithmetic for a GPU. Results do not depend on the number of threads: a vector is always cut into
//! the same blocks, and sums are taken in the order of the blocks.

mod blocks;
mod cpu;
mod select;
mod stream;
#[cfg(test)]
mod tests;

pub use cpu::Cpu;

/// Terms that [`VectorKernels::combine`] takes.
pub const TERMS_MAX: usize = 6;
/// Scalars that share a scale in [`VectorKernels::quantise`].
pub const QUANTUM: usize = 256;

/// One step of gradient descent: `g ← s·g + v + λ(w − w₀) + wd·w`, with momentum `m ← μ·m + g`, then
/// `w ← w − η·m` (or `g`, without momentum).
#[derive(Debug, Clone, Copy, Default)]
pub struct Step<'a> {
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
    pub shift: Option<&'a [f32]>,
    /// `w₀`.
    pub start: Option<&'a [f32]>,
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

/// Operations on flat vectors. Slices of one call have equal lengths unless said otherwise.
///
/// # Panics
/// Every method, if lengths do not fit.
pub trait VectorKernels: Send + Sync + std::fmt::Debug {
    /// `to = Σ aᵢ xᵢ` over at most [`TERMS_MAX`] terms. Push-sum mixes with it as well: the shares of the
    /// numerators, each divided by the new weight.
    fn combine(&self, to: &mut [f32], terms: &[(f32, &[f32])]);

    /// `Σ aᵢ bᵢ` in f64.
    fn dot(&self, a: &[f32], b: &[f32]) -> f64;

    /// `‖a‖²` in f64.
    fn square(&self, a: &[f32]) -> f64 {
        self.dot(a, a)
    }

    /// Scales `x` down to norm `limit` if it is longer; gives its norm before.
    fn clip(&self, x: &mut [f32], limit: f64) -> f64;

    /// Sharpness-aware perturbation: `to = w + ρ g / (‖g‖ + 1e-7)`.
    fn perturb(&self, to: &mut [f32], w: &[f32], g: &[f32], rho: f32);

    /// A step of gradient descent, in place.
    fn descend(&self, w: &mut [f32], grad: &[f32], momentum: Option<&mut [f32]>, step: &Step<'_>);

    /// A step of Adam, in place.
    fn adam(&self, w: &mut [f32], grad: &[f32], moments: [&mut [f32]; 2], step: &Adam);

    /// Adds `round(x · scale)` to fixed-point sums.
    fn encode(&self, sums: &mut [i64], x: &[f32], scale: f64);

    /// Bytes `round(127 · x / scale)` with one scale, the largest magnitude, for [`QUANTUM`] scalars.
    fn quantise(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32]);

    /// The inverse of [`VectorKernels::quantise`].
    fn dequantise(&self, codes: &[i8], scales: &[f32], x: &mut [f32]);

    /// Of every `m` neighbours (at most 64) keeps the `n` largest in magnitude (the first of equals), zeroes the rest.
    fn keep_of(&self, x: &mut [f32], n: usize, m: usize);

    /// Keeps the `k` largest in magnitude of all (the first of equals), zeroes the rest.
    fn keep_largest(&self, x: &mut [f32], k: usize);

    /// Adds to `sum` the rows of `rows`, each scaled down to norm `clip` if it is longer; gives their norms.
    fn clipped_sum(&self, rows: &[f32], clip: f64, sum: &mut [f32]) -> Vec<f64>;

    /// Adds Gaussian noise of this deviation: element `i` gets the number that `key` and `i` name. For
    /// simulations only: a guarantee of privacy needs a generator and a sampler made for it.
    fn add_noise(&self, x: &mut [f32], deviation: f32, key: u64);
}
