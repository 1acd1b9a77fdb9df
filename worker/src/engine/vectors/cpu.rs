//! The kernels on the processor's threads.

use super::{
    Adam, QUANTUM, Scalar, Step, TERMS_MAX, VectorKernels, blocks, largest, noise, select, sift, stream,
};
use crate::engine::cuda::DeviceError;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Scalars of a block: a few of them fit the nearest cache beside each other; even, and a multiple of
/// [`QUANTUM`].
const BLOCK: usize = 16 * 1_024;

/// Runs the kernels on its own threads.
#[derive(Debug)]
pub struct Cpu {
    /// `None`: the caller's thread alone.
    pool: Option<ThreadPool>,
}

impl Cpu {
    /// With so many threads (0 counts as 1); with the caller's alone if the system refuses more.
    pub fn new(threads: usize) -> Self {
        let build = || ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("vectors-{i}"));
        Self { pool: (threads > 1).then(|| build().build().ok()).flatten() }
    }

    /// Runs `f` where its parallel iterators use the threads.
    fn on<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    /// Calls `f` with every item, side by side if there are threads.
    fn each<I: IndexedParallelIterator>(&self, items: I, f: impl Fn(I::Item) + Sync + Send) {
        match &self.pool {
            Some(pool) => pool.install(|| items.for_each(f)),
            None => items.with_producer(InOrder(f)),
        }
    }

    /// What `f` makes of each block of `a` and `b`, in order.
    fn blocks<T: Send>(&self, a: &[f32], f: impl Fn(usize, &[f32]) -> T + Sync + Send) -> Vec<T> {
        match &self.pool {
            Some(_) => self.on(|| a.par_chunks(BLOCK).enumerate().map(|(i, a)| f(i, a)).collect()),
            None => a.chunks(BLOCK).enumerate().map(|(i, a)| f(i, a)).collect(),
        }
    }
}

/// Takes a parallel iterator's items one after the other, without a thread.
struct InOrder<F>(F);

impl<T, F: Fn(T)> rayon::iter::plumbing::ProducerCallback<T> for InOrder<F> {
    type Output = ();

    fn callback<P: rayon::iter::plumbing::Producer<Item = T>>(self, producer: P) {
        producer.into_iter().for_each(self.0);
    }
}

fn equal(what: &str, lengths: &[usize]) {
    assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{what}: lengths {lengths:?} differ");
}

/// Where block `i` of a vector of `length` lies.
fn range(i: usize, length: usize) -> std::ops::Range<usize> {
    i * BLOCK..((i + 1) * BLOCK).min(length)
}

impl VectorKernels for Cpu {
    type View<T: Scalar> = [T];
    type Own<T: Scalar> = Vec<T>;

    fn put<T: Scalar>(&self, values: &[T]) -> Result<Vec<T>, DeviceError> {
        Ok(values.to_vec())
    }

    fn get<T: Scalar>(&self, vector: &[T]) -> Result<Vec<T>, DeviceError> {
        Ok(vector.to_vec())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// With ordinary stores, whatever the length.
    fn copy(&self, to: &mut [f32], from: &[f32]) {
        let length = to.len();
        equal("copy", &[length, from.len()]);
        self.each(to.par_chunks_mut(BLOCK).enumerate(), |(i, to)| {
            blocks::combine(to, &[(1.0, &from[range(i, length)])], false);
        });
    }

    fn combine(&self, to: &mut [f32], terms: &[(f32, &[f32])]) {
        let length = to.len();
        for (_, x) in terms {
            equal("combine", &[length, x.len()]);
        }
        self.each(to.par_chunks_mut(BLOCK).enumerate(), |(i, to)| {
            let mut parts: [(f32, &[f32]); TERMS_MAX + 1] = [(0.0, &[]); TERMS_MAX + 1];
            for (part, (a, x)) in parts.iter_mut().zip(terms) {
                *part = (*a, &x[range(i, length)]);
            }
            blocks::combine(to, &parts[..terms.len().min(parts.len())], length >= stream::FROM);
        });
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> f64 {
        equal("dot", &[a.len(), b.len()]);
        self.blocks(a, |i, part| blocks::dot(part, &b[range(i, a.len())])).into_iter().sum()
    }

    fn clip(&self, x: &mut [f32], limit: f64) -> f64 {
        let norm = self.square(x).sqrt();
        if norm > limit {
            let factor = (limit / norm) as f32;
            self.each(x.par_chunks_mut(BLOCK), |x| blocks::scale(x, factor));
        }
        norm
    }

    fn perturb(&self, to: &mut [f32], w: &[f32], g: &[f32], rho: f32) {
        let reach = f64::from(rho) / (self.square(g).sqrt() + 1e-7);
        self.combine(to, &[(1.0, w), (reach as f32, g)]);
    }

    fn descend(&self, w: &mut [f32], grad: &[f32], momentum: Option<&mut [f32]>, step: &Step<'_>) {
        let length = w.len();
        equal("descend", &[length, grad.len()]);
        for part in [step.shift, step.start].into_iter().flatten() {
            equal("descend", &[length, part.len()]);
        }
        let part = |i: usize| Step {
            shift: step.shift.map(|v| &v[range(i, length)]),
            start: step.start.map(|v| &v[range(i, length)]),
            ..*step
        };
        match momentum {
            None => self.each(w.par_chunks_mut(BLOCK).enumerate(), |(i, w)| {
                blocks::descend(w, &grad[range(i, length)], None, &part(i));
            }),
            Some(momentum) => {
                equal("descend", &[length, momentum.len()]);
                let both = w.par_chunks_mut(BLOCK).zip(momentum.par_chunks_mut(BLOCK));
                self.each(both.enumerate(), |(i, (w, m))| {
                    blocks::descend(w, &grad[range(i, length)], Some(m), &part(i));
                });
            }
        }
    }

    fn adam(&self, w: &mut [f32], grad: &[f32], [first, second]: [&mut [f32]; 2], step: &Adam) {
        let length = w.len();
        equal("adam", &[length, grad.len(), first.len(), second.len()]);
        let moments = first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK));
        self.each(w.par_chunks_mut(BLOCK).zip(moments).enumerate(), |(i, (w, (m, v)))| {
            blocks::adam(w, &grad[range(i, length)], [m, v], step);
        });
    }

    fn encode(&self, sums: &mut [i64], x: &[f32], scale: f64) {
        equal("encode", &[sums.len(), x.len()]);
        self.each(sums.par_chunks_mut(BLOCK).enumerate(), |(i, sums)| {
            blocks::encode(sums, &x[range(i, x.len())], scale);
        });
    }

    fn quantise(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
        equal("quantise", &[x.len(), codes.len()]);
        equal("quantise, scales", &[x.len().div_ceil(QUANTUM), scales.len()]);
        let both = codes.par_chunks_mut(BLOCK).zip(scales.par_chunks_mut(BLOCK / QUANTUM));
        self.each(both.enumerate(), |(i, (codes, scales))| {
            blocks::quantise(&x[range(i, x.len())], codes, scales);
        });
    }

    fn dequantise(&self, codes: &[i8], scales: &[f32], x: &mut [f32]) {
        equal("dequantise", &[x.len(), codes.len()]);
        equal("dequantise, scales", &[x.len().div_ceil(QUANTUM), scales.len()]);
        let length = x.len();
        let both = x.par_chunks_mut(BLOCK).zip(scales.par_chunks(BLOCK / QUANTUM));
        self.each(both.enumerate(), |(i, (x, scales))| {
            blocks::dequantise(&codes[range(i, length)], scales, x, length >= stream::FROM);
        });
    }

    fn keep_of(&self, x: &mut [f32], n: usize, m: usize) {
        assert!((1..=64).contains(&m) && n <= m, "keep_of: {n} of {m}; at most 64 neighbours");
        // Blocks of whole groups.
        self.each(x.par_chunks_mut(BLOCK.div_ceil(m) * m), |x| select::keep_of(x, n, m));
    }

    fn keep_largest(&self, x: &mut [f32], k: usize) {
        if k >= x.len() {
            return;
        }
        if k == 0 {
            return x.fill(0.0);
        }
        let mut range = largest::guess(x, k);
        let kept = loop {
            let sifted = self.blocks(x, |_, x| sift::sift(x, &range));
            match largest::keep(&sifted, &range, k) {
                Ok(kept) => break kept,
                Err(elsewhere) => range = elsewhere,
            }
        };
        self.each(x.par_chunks_mut(BLOCK).zip(&kept), |(x, kept)| largest::cut(x, *kept));
    }

    fn clipped_sum(&self, rows: &[f32], clip: f64, sum: &mut [f32]) -> Vec<f64> {
        let width = sum.len().max(1);
        assert!(rows.len().is_multiple_of(width), "clipped_sum: {} is not whole rows of {width}", rows.len());
        let norms: Vec<f64> = rows.chunks_exact(width).map(|row| self.square(row).sqrt()).collect();
        self.each(sum.par_chunks_mut(BLOCK).enumerate(), |(i, sum)| {
            let within = range(i, width);
            for (row, norm) in rows.chunks_exact(width).zip(&norms) {
                let factor = if *norm > clip { (clip / norm) as f32 } else { 1.0 };
                for (s, v) in sum.iter_mut().zip(&row[within.clone()]) {
                    *s += factor * v;
                }
            }
        });
        norms
    }

    fn add_noise(&self, x: &mut [f32], deviation: f32, key: u64) {
        self.each(x.par_chunks_mut(BLOCK).enumerate(), |(i, x)| {
            noise::add(x, deviation, key, (i * BLOCK) as u64);
        });
    }
}
