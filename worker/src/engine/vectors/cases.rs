//! Every kernel as a case that can be timed on any device and checked against plain arithmetic in f64: one
//! list for the tests and for `starling bench kernels`.

mod reference;

pub use reference::{Found, check};

use super::{Adam, QUANTUM, Step, VectorKernels};
use crate::engine::cuda::DeviceError;

const ADAM: Adam = Adam { lr: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.01 };
const WEIGHTS: [f32; 6] = [0.5, 0.25, -0.125, 1.5, -0.75, 0.3];
const SCALE: f64 = 1_234_567.25;
/// Rows of the clipped sum.
const ROWS: usize = 5;
const DEVIATION: f32 = 2.0;
const KEY: u64 = 7;
const REACH: f32 = 0.3;
/// Learning rate, scale, weight decay, prox and momentum.
const STEP: [f32; 5] = [1e-3, 0.7, 0.01, 0.5, 0.9];
/// The part of a vector's norm that a clip leaves, and the part of all rows' norm that a row may have: about
/// half of them have more.
const CLIPPED: f64 = 0.999;
const ROW_LIMIT: f64 = 0.447_213_6;

/// A kernel with fixed arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A combination of so many vectors.
    Combine(usize),
    /// A dot product.
    Dot,
    /// A squared norm.
    Square,
    /// A clip that clips.
    Clip,
    /// A perturbation.
    Perturb,
    /// A step without momentum, shift and prox, or with them.
    Descend(bool),
    /// A step of Adam.
    Adam,
    /// Fixed point.
    Encode,
    /// Bytes with scales.
    Quantise,
    /// The inverse.
    Dequantise,
    /// So many of so many neighbours.
    KeepOf(usize, usize),
    /// The tenth of largest magnitude.
    KeepLargest,
    /// Norms of five rows, and the sum of the clipped rows.
    ClippedSum,
    /// Gaussian noise.
    Noise,
}

/// What the cases work on.
#[derive(Debug)]
pub struct Memory<K: VectorKernels> {
    x: [K::Own<f32>; 7],
    sum: K::Own<f32>,
    sums: K::Own<i64>,
    codes: K::Own<i8>,
    scales: K::Own<f32>,
    length: usize,
    /// Of the first vector.
    norm: f64,
}

/// Bytes that memory takes for each scalar.
pub const MEMORY_BYTES: usize = 7 * 4 + 4 + 8 + 1;

impl<K: VectorKernels> Memory<K> {
    /// Random numbers, uniform within ±1 or, if `coarse`, rounded so that many are equal; the length is
    /// rounded down to whole rows.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(kernels: &K, length: usize, coarse: bool) -> Result<Self, DeviceError> {
        let length = length / ROWS * ROWS;
        let first = numbers(length, 0, coarse);
        let row = |i| kernels.put(&numbers(length, i, coarse));
        Ok(Self {
            x: [kernels.put(&first)?, row(1)?, row(2)?, row(3)?, row(4)?, row(5)?, row(6)?],
            sum: kernels.put(&vec![1.0; length / ROWS])?,
            sums: kernels.put(&(0..length as i64).collect::<Vec<_>>())?,
            codes: kernels.put(&codes(length))?,
            scales: kernels.put(&numbers(length.div_ceil(QUANTUM), SQUARES, false))?,
            length,
            norm: norm(&first),
        })
    }

    /// Scalars of a vector.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether vectors are empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// One vector over another by the memory's own means; what is read and written are 8 bytes a scalar.
    pub fn copy(&mut self, kernels: &K) {
        let [to, from, ..] = &mut self.x;
        kernels.copy(to, from);
    }
}

/// The vector that is not negative.
const SQUARES: u64 = 3;

fn numbers(length: usize, of: u64, coarse: bool) -> Vec<f32> {
    let number = |i: usize| {
        let bits = algorithms::seed::mix(of << 40 | i as u64) >> 40;
        let uniform = bits as f32 / 8_388_608.0 - 1.0;
        let number = if coarse { (uniform * 50.0).round() } else { uniform };
        if of == SQUARES { number.abs() } else { number }
    };
    (0..length).map(number).collect()
}

fn codes(length: usize) -> Vec<i8> {
    (0..length).map(|i| (i * 37 % 255) as u8 as i8).collect()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Combine(2),
        Self::Combine(6),
        Self::Dot,
        Self::Square,
        Self::Clip,
        Self::Perturb,
        Self::Descend(false),
        Self::Descend(true),
        Self::Adam,
        Self::Encode,
        Self::Quantise,
        Self::Dequantise,
        Self::KeepOf(2, 4),
        Self::KeepLargest,
        Self::ClippedSum,
        Self::Noise,
    ];

    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::Combine(terms) => format!("combine, {terms} terms"),
            Self::Dot => "dot".into(),
            Self::Square => "square".into(),
            Self::Clip => "clip".into(),
            Self::Perturb => "perturb".into(),
            Self::Descend(false) => "descend".into(),
            Self::Descend(true) => "descend, momentum, shift and prox".into(),
            Self::Adam => "adam".into(),
            Self::Encode => "encode".into(),
            Self::Quantise => "quantise".into(),
            Self::Dequantise => "dequantise".into(),
            Self::KeepOf(n, m) => format!("keep {n} of {m}"),
            Self::KeepLargest => "keep the largest tenth".into(),
            Self::ClippedSum => "clipped sum of 5 rows".into(),
            Self::Noise => "noise for simulations".into(),
        }
    }

    /// Bytes that must be read and written for each scalar.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Combine(terms) => 4.0 * (terms + 1) as f64,
            Self::Square => 4.0,
            Self::Dot | Self::KeepOf(..) | Self::Noise => 8.0,
            // Of the largest, one search and the cut.
            Self::Clip | Self::Descend(false) | Self::KeepLargest => 12.0,
            Self::Perturb => 16.0,
            Self::Encode => 20.0,
            Self::Descend(true) | Self::Adam => 28.0,
            Self::Quantise | Self::Dequantise => 5.0,
            Self::ClippedSum => 8.0 + 8.0 / ROWS as f64,
        }
    }

    /// Runs the kernel; gives the number that it gives, or 0.
    pub fn run<K: VectorKernels>(self, kernels: &K, memory: &mut Memory<K>) -> f64 {
        let (length, norm) = (memory.length, memory.norm);
        let [a, b, c, d, e, f, g] = &mut memory.x;
        match self {
            Self::Combine(terms) => {
                let from: [&K::View<f32>; 6] = [b, c, d, e, f, g];
                let from: Vec<_> = WEIGHTS.into_iter().zip(from).take(terms).collect();
                kernels.combine(a, &from);
            }
            Self::Dot => return kernels.dot(a, b),
            Self::Square => return kernels.square(a),
            Self::Clip => {
                // The next one clips again.
                memory.norm *= CLIPPED;
                return kernels.clip(a, norm * CLIPPED);
            }
            Self::Perturb => kernels.perturb(b, c, a, REACH),
            Self::Descend(all) => {
                let (shift, start): (&K::View<f32>, &K::View<f32>) = (d, e);
                let (shift, start) = if all { (Some(shift), Some(start)) } else { (None, None) };
                let [lr, scale, weight_decay, prox, momentum] = STEP;
                let step = Step { lr, scale, weight_decay, prox, momentum, shift, start };
                kernels.descend(a, b, if all { Some(c) } else { None }, &step);
            }
            Self::Adam => kernels.adam(a, b, [c, d], &ADAM),
            Self::Encode => kernels.encode(&mut memory.sums, a, SCALE),
            Self::Quantise => kernels.quantise(a, &mut memory.codes, &mut memory.scales),
            Self::Dequantise => kernels.dequantise(&memory.codes, &memory.scales, a),
            Self::KeepOf(n, m) => kernels.keep_of(a, n, m),
            Self::KeepLargest => kernels.keep_largest(a, length / 10),
            Self::ClippedSum => {
                return kernels.clipped_sum(a, norm * ROW_LIMIT, &mut memory.sum).iter().sum();
            }
            Self::Noise => kernels.add_noise(a, DEVIATION, KEY),
        }
        0.0
    }
}
