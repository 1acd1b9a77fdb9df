//! Which scalar of the flat vector belongs to which tensor, and how each tensor begins.

use super::buffer::{Buffer, Lender};
use super::cuda::Array;
use super::shards::Runner;
use super::tape::Gradients;
use super::tensor::{self, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;

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

    /// The orders of a convolution's filters.
    fn filters(&self) -> Option<Filters> {
        let [count, channels, rows, columns] = self.spec.shape[..] else { return None };
        Some(Filters { count, channels, taps: rows * columns })
    }

    /// The shape in which the kernels want the tensor.
    fn kernel_shape(&self) -> Vec<usize> {
        match self.spec.shape[..] {
            [f, c, h, w] => vec![h, w, c, f],
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

    /// Lengths of the layers in the flat vector: a layer is what has its parameters' names up to the last dot.
    pub(super) fn layers(&self) -> Vec<usize> {
        let length = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
        let runs = self.sorted.chunk_by(|a, b| layer(&a.name) == layer(&b.name));
        runs.map(|run| run.iter().map(length).sum()).collect()
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

fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(layer, _)| layer)
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
    pub(super) fn tracked(layout: &Layout, w: &Lender<'_>) -> Self {
        Self::load(layout, w, Tensor::leaf)
    }

    /// Constants for a forward pass.
    pub(super) fn constant(layout: &Layout, w: &Lender<'_>) -> Self {
        Self::load(layout, w, Tensor::new)
    }

    /// Of weights on a device, which keep the flat vector's order there; gradients go to their places in
    /// `gradient`, if they are wanted. `narrow` holds the same weights in bfloat16.
    pub(super) fn on_device(
        layout: &Layout,
        w: &Array,
        gradient: Option<&Array>,
        narrow: Option<&Array>,
    ) -> Self {
        let tensor = |entry: &Entry| {
            let part = |of: &Array| of.part(entry.offset, entry.len());
            let array = part(w).with_leaf(gradient.map(part), narrow.map(part));
            Tensor::device(array, &entry.kernel_shape())
        };
        Self(layout.entries.iter().map(tensor).collect())
    }

    /// Calls `f` with the place of the gradient of each parameter on a device that has none in `grads`.
    pub(super) fn each_without(
        &self,
        grads: &Gradients,
        mut f: impl FnMut(&Array) -> tensor::Result<()>,
    ) -> tensor::Result<()> {
        let mut without = self.0.iter().filter(|tensor| grads.get(tensor).is_none());
        without.try_for_each(|tensor| tensor.array()?.gradient().map_or(Ok(()), &mut f))
    }

    fn load(layout: &Layout, w: &Lender<'_>, make: impl Fn(Buffer, &[usize]) -> Tensor) -> Self {
        let tensor = |entry: &Entry| {
            let flat = entry.offset..entry.offset + entry.len();
            let values = match entry.filters() {
                Some(filters) => filters.load(&w.values()[flat]),
                None => w.part(flat),
            };
            make(values, &entry.kernel_shape())
        };
        Self(layout.entries.iter().map(tensor).collect())
    }

    pub(super) fn get(&self, slot: Slot) -> &Tensor {
        &self.0[slot.0]
    }

    /// Gradients, divided among the layers.
    pub(super) fn by_layer(&self, layout: &Layout, mut grads: Gradients) -> Vec<Gradients> {
        let mut layers: BTreeMap<&str, Vec<(Tensor, Tensor)>> = BTreeMap::new();
        for (tensor, entry) in self.0.iter().zip(&layout.entries) {
            layers.entry(layer(&entry.spec.name)).or_default().extend(grads.split_off(tensor));
        }
        layers.into_values().map(Gradients::of).collect()
    }

    /// Writes gradients to their places in the flat gradient, zeros where there are none.
    pub(super) fn store(&self, layout: &Layout, grads: &Gradients, flat: &mut [f32], runner: &Runner) {
        for (tensor, entry) in self.0.iter().zip(&layout.entries) {
            let flat = &mut flat[entry.offset..entry.offset + entry.len()];
            match (grads.get(tensor), entry.filters()) {
                (None, _) => flat.fill(0.0),
                (Some(grad), Some(filters)) => filters.store(grad.values(), flat),
                (Some(grad), None) => match grad.late() {
                    Some(late) => late.write(flat, runner),
                    None => flat.copy_from_slice(grad.values()),
                },
            }
        }
    }
}

/// The two orders of a convolution's filters: `[count, channels, taps]` in the flat vector,
/// `[taps, channels, count]` in the kernels.
#[derive(Debug, Clone, Copy)]
struct Filters {
    count: usize,
    channels: usize,
    taps: usize,
}

/// Side of the squares in which filters are transposed, for the caches.
const SQUARE: usize = 16;

impl Filters {
    /// Calls `f` with (place in the flat vector, place in the kernels) of each element of a square.
    fn squares(self, mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
        let size = self.channels * self.taps;
        for first in (0..self.count).step_by(SQUARE) {
            for left in (0..size).step_by(SQUARE) {
                f(first..(first + SQUARE).min(self.count), left..(left + SQUARE).min(size));
            }
        }
    }

    /// Row of the kernels' order that holds element `at` of every filter.
    fn row(self, at: usize) -> usize {
        (at % self.taps) * self.channels + at / self.taps
    }

    fn load(self, flat: &[f32]) -> Buffer {
        let size = self.channels * self.taps;
        let mut out = Buffer::any(flat.len());
        self.squares(|filters, elements| {
            for at in elements {
                let row = &mut out[self.row(at) * self.count..][filters.clone()];
                for (v, filter) in row.iter_mut().zip(filters.clone()) {
                    *v = flat[filter * size + at];
                }
            }
        });
        out
    }

    fn store(self, kernels: &[f32], flat: &mut [f32]) {
        let size = self.channels * self.taps;
        self.squares(|filters, elements| {
            for at in elements {
                let row = &kernels[self.row(at) * self.count..][filters.clone()];
                for (v, filter) in row.iter().zip(filters.clone()) {
                    flat[filter * size + at] = *v;
                }
            }
        });
    }
}
