//! Which scalar of the flat vector belongs to which tensor, and how each tensor begins.

use super::EngineError;
use super::ops::{self, pool::transpose};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Name and shape of one tensor, as in PyTorch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Path of the parameter, e.g. `layer1.0.conv1.weight`.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

/// Distribution of a fresh tensor's scalars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Init {
    /// Uniform on ± the bound.
    Uniform(f32),
    /// Normal with mean 0 and this deviation.
    Normal(f32),
    /// One value everywhere.
    Constant(f32),
}

/// Handle of a tensor: the order in which the layers asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

#[derive(Debug)]
struct Entry {
    spec: TensorSpec,
    init: Init,
    offset: usize,
}

impl Entry {
    fn len(&self) -> usize {
        self.spec.shape.iter().product()
    }

    /// Filters `[f, c, side, side]` are computed with as `[f, side, side, c]`; both counts differ from 1.
    fn filter(&self) -> Option<(usize, usize)> {
        match self.spec.shape[..] {
            [_, channels, rows, columns] if channels > 1 && rows * columns > 1 => {
                Some((channels, rows * columns))
            }
            _ => None,
        }
    }

    /// The shape in which the kernels want the tensor.
    fn kernel_shape(&self) -> Vec<usize> {
        match self.spec.shape[..] {
            [f, c, h, w] => vec![f, h, w, c],
            _ => self.spec.shape.clone(),
        }
    }
}

/// The tensors of a model.
#[derive(Debug, Default)]
pub(super) struct Layout {
    entries: Vec<Entry>,
    sorted: Vec<TensorSpec>,
    parameters: usize,
}

impl Layout {
    /// Registers a tensor.
    pub(super) fn tensor(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Slot {
        let spec = TensorSpec { name: name.into(), shape: shape.to_vec() };
        self.entries.push(Entry { spec, init, offset: 0 });
        Slot(self.entries.len() - 1)
    }

    /// Gives every tensor its place; nothing may be registered afterwards.
    pub(super) fn seal(&mut self) {
        let mut order: Vec<&mut Entry> = self.entries.iter_mut().collect();
        order.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        for entry in order {
            entry.offset = self.parameters;
            self.parameters += entry.len();
            self.sorted.push(entry.spec.clone());
        }
    }

    pub(super) fn specs(&self) -> &[TensorSpec] {
        &self.sorted
    }

    pub(super) fn parameters(&self) -> usize {
        self.parameters
    }

    /// Fresh weights; each tensor has a stream of its own, named by seed and tensor.
    pub(super) fn initial(&self, seed: u64) -> Vec<f32> {
        let mut w = vec![0.0; self.parameters];
        for entry in &self.entries {
            let mut hasher = blake3::Hasher::new_derive_key("starling 2026 initial weights of a tensor");
            hasher.update(&seed.to_le_bytes()).update(entry.spec.name.as_bytes());
            let mut stream = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
            let values = &mut w[entry.offset..entry.offset + entry.len()];
            match entry.init {
                Init::Constant(value) => values.fill(value),
                Init::Uniform(bound) => values.iter_mut().for_each(|v| *v = bound * symmetric(&mut stream)),
                Init::Normal(deviation) => values.chunks_mut(2).for_each(|pair| {
                    let (a, b) = normal_pair(&mut stream);
                    pair.iter_mut().zip([a, b]).for_each(|(v, x)| *v = deviation * x);
                }),
            }
        }
        w
    }
}

/// Uniform on [-1, 1), a multiple of 2⁻²³.
fn symmetric(stream: &mut ChaCha8Rng) -> f32 {
    (stream.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Two independent standard normal numbers (Marsaglia's polar method; `libm`, so that the bytes do not
/// depend on the system's C library).
fn normal_pair(stream: &mut ChaCha8Rng) -> (f32, f32) {
    loop {
        let (x, y) = (f64::from(symmetric(stream)), f64::from(symmetric(stream)));
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            let factor = libm::sqrt(-2.0 * libm::log(square) / square);
            return ((x * factor) as f32, (y * factor) as f32);
        }
    }
}

/// The tensors of one weight vector, shared by all shards of a batch.
#[derive(Debug)]
pub(super) struct Params(Vec<Tensor>);

impl Params {
    /// Leaves of a graph that will be run backwards.
    pub(super) fn tracked(layout: &Layout, w: &[f32]) -> Result<Self, EngineError> {
        Self::load(layout, w, |values, shape| Ok(Var::from_vec(values, shape, &Device::Cpu)?.into_inner()))
    }

    /// Constants for a forward pass.
    pub(super) fn constant(layout: &Layout, w: &[f32]) -> Result<Self, EngineError> {
        Self::load(layout, w, |values, shape| Tensor::from_vec(values, shape, &Device::Cpu))
    }

    fn load(
        layout: &Layout,
        w: &[f32],
        make: impl Fn(Vec<f32>, Vec<usize>) -> candle_core::Result<Tensor>,
    ) -> Result<Self, EngineError> {
        let tensor = |entry: &Entry| {
            let flat = &w[entry.offset..entry.offset + entry.len()];
            let values = match entry.filter() {
                Some((channels, places)) => reordered(flat, channels * places, places),
                None => flat.to_vec(),
            };
            Ok(make(values, entry.kernel_shape())?)
        };
        Ok(Self(layout.entries.iter().map(tensor).collect::<Result<_, EngineError>>()?))
    }

    pub(super) fn get(&self, slot: Slot) -> &Tensor {
        &self.0[slot.0]
    }

    /// Adds one shard's gradients to the flat gradient.
    pub(super) fn accumulate(
        &self,
        layout: &Layout,
        grads: &GradStore,
        flat: &mut [f32],
    ) -> Result<(), EngineError> {
        for (tensor, entry) in self.0.iter().zip(&layout.entries) {
            let Some(grad) = grads.get(tensor) else { continue };
            let flat = &mut flat[entry.offset..entry.offset + entry.len()];
            ops::with_values(grad, |grad| match entry.filter() {
                Some((channels, places)) => add(flat, &reordered(grad, channels * places, channels)),
                None => add(flat, grad),
            })?;
        }
        Ok(())
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Transposes each filter (of `size` scalars in rows of `width`).
fn reordered(filters: &[f32], size: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; filters.len()];
    for (from, to) in filters.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        transpose(from, to, width);
    }
    out
}
