//! The vector kernels on a GPU.

use super::launch::{Arg, Kernels};
use super::{Device, DeviceError, Source};
use crate::engine::vectors::{Adam, QUANTUM, Scalar, Step, TERMS_MAX, VectorKernels};
use cudarc::driver::{CudaSlice, DevicePtr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SOURCE: Source = Source { name: "vectors.cu", text: include_str!("vectors.cu") };

/// Scalars that a block of threads takes at once.
const CHUNK: u64 = 4 * Kernels::BLOCK;
/// Blocks of a sum, whatever the device, so that its bytes depend on the length alone.
const SUM_BLOCKS: u64 = 1_024;
/// Scalars of a vector whose equal magnitudes are counted together in [`VectorKernels::keep_largest`].
const EQUAL_CHUNK: u64 = 4_096;
/// Candidates that are worth a list, as in `vectors.cu`.
const LISTED: usize = 4_096;
/// Digits of a magnitude, from the top: lowest bit and number of bits.
const DIGITS: [(u32, u32); 3] = [(20, 11), (9, 11), (0, 9)];

/// A vector in a GPU's memory.
#[derive(Debug)]
pub struct Vector<T> {
    memory: CudaSlice<u8>,
    length: usize,
    of: std::marker::PhantomData<T>,
}

impl<T> Vector<T> {
    /// Scalars.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address, for kernels on the stream that the memory was allocated on.
    pub(super) fn pointer(&self) -> Arg {
        Arg::Pointer(self.memory.device_ptr(self.memory.stream()).0)
    }
}

/// Runs the kernels on one GPU, in the order in which they are asked for. Calls return before the work is
/// done, except those that give a number; what goes wrong is told by the next [`VectorKernels::get`] or
/// [`VectorKernels::wait`], and numbers are NaN until then.
#[derive(Debug)]
pub struct Cuda {
    device: Arc<Device>,
    kernels: Kernels,
    scratch: Mutex<Scratch>,
}

/// Memory between kernels of one call.
#[derive(Debug)]
struct Scratch {
    /// Of each block.
    parts: Vector<f64>,
    /// The sum of all.
    sum: Vector<f64>,
    /// What is known of a search, as in `vectors.cu`, and the candidates that were listed.
    state: Vector<i64>,
    list: Vector<i64>,
    /// Zeros between calls.
    counts: Vector<i64>,
}

impl Cuda {
    /// Compiles or loads the kernels.
    ///
    /// # Errors
    /// As of [`Device::module`].
    pub fn new(device: Arc<Device>) -> Result<Self, DeviceError> {
        let kernels = Kernels::load(&device, &SOURCE)?;
        let scratch = Scratch {
            parts: upload(&device, &[0.0; SUM_BLOCKS as usize])?,
            sum: upload(&device, &[0.0])?,
            state: upload(&device, &[0; 6])?,
            list: upload(&device, &vec![0; LISTED])?,
            counts: upload(&device, &[0; 1 << 11])?,
        };
        Ok(Self { device, kernels, scratch: Mutex::new(scratch) })
    }

    /// The GPU.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Launches enough threads for four scalars each.
    fn quads(&self, kernel: &'static str, length: usize, arguments: &[Arg]) {
        self.kernels.launch(kernel, (length as u64).div_ceil(CHUNK), arguments);
    }

    /// Leaves the dot product in `scratch.sum`.
    fn sum(&self, scratch: &Scratch, a: &Vector<f32>, b: &Vector<f32>) {
        equal("dot", &[a.len(), b.len()]);
        let blocks = (a.len() as u64).div_ceil(CHUNK).clamp(1, SUM_BLOCKS);
        let parts = scratch.parts.pointer();
        self.kernels.launch("dot", blocks, &[a.pointer(), b.pointer(), Arg::Long(a.len() as u64), parts]);
        self.kernels.launch_wide("total", 1, &[parts, Arg::Long(blocks), scratch.sum.pointer()]);
    }

    /// A number that kernels left in memory; NaN if something went wrong.
    fn number(&self, at: &Vector<f64>) -> f64 {
        match download(&self.device, at) {
            Ok(numbers) => numbers[0],
            Err(error) => {
                self.kernels.fail(error);
                f64::NAN
            }
        }
    }

    fn temporary<T: Scalar>(&self, length: usize) -> Option<Vector<T>> {
        allocate(&self.device, length).map_err(|error| self.kernels.fail(error)).ok()
    }
}

fn equal(what: &str, lengths: &[usize]) {
    assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{what}: lengths {lengths:?} differ");
}

#[allow(unsafe_code, reason = "memory that is written before it is read")]
pub(super) fn allocate<T: Scalar>(device: &Device, length: usize) -> Result<Vector<T>, DeviceError> {
    let bytes = (length * size_of::<T>()).max(1);
    // SAFETY: bytes without a meaning are bytes; every caller writes them before anybody reads.
    let memory = unsafe { device.stream().alloc::<u8>(bytes) }?;
    Ok(Vector { memory, length, of: std::marker::PhantomData })
}

pub(super) fn upload<T: Scalar>(device: &Device, values: &[T]) -> Result<Vector<T>, DeviceError> {
    let mut vector = allocate(device, values.len())?;
    if !values.is_empty() {
        device.stream().memcpy_htod(bytemuck::cast_slice::<T, u8>(values), &mut vector.memory)?;
    }
    Ok(vector)
}

pub(super) fn download<T: Scalar>(device: &Device, vector: &Vector<T>) -> Result<Vec<T>, DeviceError> {
    let mut values = vec![T::zeroed(); vector.len()];
    if !values.is_empty() {
        device.stream().memcpy_dtoh(&vector.memory, bytemuck::cast_slice_mut::<T, u8>(&mut values))?;
    }
    device.synchronize()?;
    Ok(values)
}

impl VectorKernels for Cuda {
    type View<T: Scalar> = Vector<T>;
    type Own<T: Scalar> = Box<Vector<T>>;

    fn put<T: Scalar>(&self, values: &[T]) -> Result<Box<Vector<T>>, DeviceError> {
        upload(&self.device, values).map(Box::new)
    }

    fn get<T: Scalar>(&self, vector: &Vector<T>) -> Result<Vec<T>, DeviceError> {
        self.kernels.check()?;
        download(&self.device, vector)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.kernels.check()?;
        self.device.synchronize()
    }

    fn copy(&self, to: &mut Vector<f32>, from: &Vector<f32>) {
        equal("copy", &[to.len(), from.len()]);
        let copied = self.device.stream().memcpy_dtod(&from.memory, &mut to.memory);
        self.kernels.note(copied);
    }

    fn combine(&self, to: &mut Vector<f32>, terms: &[(f32, &Vector<f32>)]) {
        assert!(terms.len() <= TERMS_MAX, "combine: {} terms, at most {TERMS_MAX}", terms.len());
        let mut arguments = vec![to.pointer(), Arg::Long(to.len() as u64)];
        for (a, x) in terms {
            equal("combine", &[to.len(), x.len()]);
            arguments.extend([Arg::Float(*a), x.pointer()]);
        }
        for _ in terms.len()..TERMS_MAX {
            arguments.extend([Arg::Float(0.0), Arg::NULL]);
        }
        self.quads("combine", to.len(), &arguments);
    }

    fn dot(&self, a: &Vector<f32>, b: &Vector<f32>) -> f64 {
        let scratch = self.scratch();
        self.sum(&scratch, a, b);
        self.number(&scratch.sum)
    }

    fn clip(&self, x: &mut Vector<f32>, limit: f64) -> f64 {
        let scratch = self.scratch();
        self.sum(&scratch, x, x);
        let arguments = [x.pointer(), Arg::Long(x.len() as u64), scratch.sum.pointer(), Arg::Double(limit)];
        self.quads("clip", x.len(), &arguments);
        self.number(&scratch.sum).sqrt()
    }

    fn perturb(&self, to: &mut Vector<f32>, w: &Vector<f32>, g: &Vector<f32>, rho: f32) {
        equal("perturb", &[to.len(), w.len(), g.len()]);
        let scratch = self.scratch();
        self.sum(&scratch, g, g);
        let (length, square) = (Arg::Long(to.len() as u64), scratch.sum.pointer());
        let arguments = [to.pointer(), w.pointer(), g.pointer(), length, square, Arg::Float(rho)];
        self.quads("perturb", to.len(), &arguments);
    }

    fn descend(
        &self,
        w: &mut Vector<f32>,
        grad: &Vector<f32>,
        momentum: Option<&mut Vector<f32>>,
        step: &Step<'_, Vector<f32>>,
    ) {
        let momentum = momentum.as_deref();
        for part in [Some(grad), momentum, step.shift, step.start].into_iter().flatten() {
            equal("descend", &[w.len(), part.len()]);
        }
        let [momentum, shift, start] =
            [momentum, step.shift, step.start].map(|part| part.map_or(Arg::NULL, Vector::pointer));
        let mut arguments =
            vec![w.pointer(), grad.pointer(), momentum, shift, start, Arg::Long(w.len() as u64)];
        arguments.extend([step.lr, step.scale, step.weight_decay, step.prox, step.momentum].map(Arg::Float));
        self.quads("descend", w.len(), &arguments);
    }

    fn adam(
        &self,
        w: &mut Vector<f32>,
        grad: &Vector<f32>,
        [first, second]: [&mut Vector<f32>; 2],
        step: &Adam,
    ) {
        equal("adam", &[w.len(), grad.len(), first.len(), second.len()]);
        let vectors = [w.pointer(), grad.pointer(), first.pointer(), second.pointer()];
        let mut arguments = [vectors.as_slice(), &[Arg::Long(w.len() as u64)]].concat();
        let numbers = [step.lr, step.beta1, step.beta2, step.epsilon, step.weight_decay];
        arguments.extend(numbers.map(Arg::Float));
        self.quads("adam", w.len(), &arguments);
    }

    fn encode(&self, sums: &mut Vector<i64>, x: &Vector<f32>, scale: f64) {
        equal("encode", &[sums.len(), x.len()]);
        let arguments = [sums.pointer(), x.pointer(), Arg::Long(x.len() as u64), Arg::Double(scale)];
        self.quads("encode", x.len(), &arguments);
    }

    fn quantise(&self, x: &Vector<f32>, codes: &mut Vector<i8>, scales: &mut Vector<f32>) {
        equal("quantise", &[x.len(), codes.len()]);
        equal("quantise, scales", &[x.len().div_ceil(QUANTUM), scales.len()]);
        let arguments = [x.pointer(), Arg::Long(x.len() as u64), codes.pointer(), scales.pointer()];
        self.quads("quantise", x.len(), &arguments);
    }

    fn dequantise(&self, codes: &Vector<i8>, scales: &Vector<f32>, x: &mut Vector<f32>) {
        equal("dequantise", &[x.len(), codes.len()]);
        equal("dequantise, scales", &[x.len().div_ceil(QUANTUM), scales.len()]);
        let arguments = [codes.pointer(), scales.pointer(), x.pointer(), Arg::Long(x.len() as u64)];
        self.quads("dequantise", x.len(), &arguments);
    }

    fn keep_of(&self, x: &mut Vector<f32>, n: usize, m: usize) {
        assert!((1..=64).contains(&m) && n <= m, "keep_of: {n} of {m}; at most 64 neighbours");
        let arguments = [x.pointer(), Arg::Long(x.len() as u64), Arg::Int(n as u32)];
        if m == 4 {
            return self.quads("keep_of_four", x.len(), &arguments);
        }
        let blocks = x.len().div_ceil(m) as u64;
        let arguments = [arguments.as_slice(), &[Arg::Int(m as u32)]].concat();
        self.kernels.launch("keep_of", blocks.div_ceil(Kernels::BLOCK), &arguments);
    }

    fn keep_largest(&self, x: &mut Vector<f32>, k: usize) {
        if k >= x.len() {
            return;
        }
        if k == 0 {
            return self.combine(x, &[]);
        }
        let chunks = (x.len() as u64).div_ceil(EQUAL_CHUNK);
        let scratch = self.scratch();
        let Some(equal) = self.temporary::<i64>(chunks as usize) else { return };
        let (state, counts) = (scratch.state.pointer(), scratch.counts.pointer());
        let list = scratch.list.pointer();
        let head = [x.pointer(), Arg::Long(x.len() as u64), state];
        self.kernels.launch("begin", 1, &[state, Arg::Long(k as u64)]);
        let most = 6 * u64::from(self.device.multiprocessors());
        let blocks = (x.len() as u64).div_ceil(CHUNK).min(most);
        for (low, bits) in DIGITS {
            let rest = [Arg::Int(low), Arg::Int(bits), counts, list];
            self.kernels.launch("count_digits", blocks, &[head.as_slice(), &rest].concat());
            self.kernels.launch_wide("next_digit", 1, &[state, counts, Arg::Int(bits)]);
        }
        self.kernels.launch_wide("last_listed", 1, &[state, list]);
        let all = [head.as_slice(), &[equal.pointer()]].concat();
        let counted = [all.as_slice(), &[Arg::Long(chunks)]].concat();
        self.kernels.launch("count_equal", chunks.min(most), &counted);
        self.kernels.launch_wide("sums_before", 1, &[state, equal.pointer(), Arg::Long(chunks)]);
        self.kernels.launch("cut", chunks, &all);
    }

    fn clipped_sum(&self, rows: &Vector<f32>, clip: f64, sum: &mut Vector<f32>) -> Vec<f64> {
        let width = sum.len().max(1);
        assert!(rows.len().is_multiple_of(width), "clipped_sum: {} is not whole rows of {width}", rows.len());
        let count = rows.len() / width;
        if count == 0 {
            return Vec::new();
        }
        let parts = (width as u64).div_ceil(4 * CHUNK).min(SUM_BLOCKS);
        let temporary = (
            self.temporary::<f64>(count * parts as usize),
            self.temporary::<f64>(count),
            self.temporary::<f32>(count),
        );
        let (Some(partial), Some(norms), Some(factors)) = temporary else { return vec![f64::NAN; count] };
        let (long, wide) = (Arg::Long(count as u64), Arg::Long(width as u64));
        let arguments = [rows.pointer(), wide, Arg::Long(parts), partial.pointer()];
        self.kernels.launch("row_squares", count as u64 * parts, &arguments);
        let arguments = [partial.pointer(), Arg::Long(parts), norms.pointer()];
        self.kernels.launch_wide("total", count as u64, &arguments);
        let arguments = [norms.pointer(), long, Arg::Double(clip), factors.pointer()];
        self.kernels.launch("clip_factors", (count as u64).div_ceil(Kernels::BLOCK), &arguments);
        let arguments = [rows.pointer(), long, wide, factors.pointer(), sum.pointer()];
        self.quads("add_rows", width, &arguments);
        download(&self.device, &norms).unwrap_or_else(|error| {
            self.kernels.fail(error);
            vec![f64::NAN; count]
        })
    }

    fn add_noise(&self, x: &mut Vector<f32>, deviation: f32, key: u64) {
        let arguments = [x.pointer(), Arg::Long(x.len() as u64), Arg::Float(deviation), Arg::Long(key)];
        self.quads("add_noise", x.len(), &arguments);
    }
}
