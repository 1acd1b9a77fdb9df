//! What each case must give, in f64 by plain loops, and how far a device is from it and from the CPU.

use super::{
    ADAM, CLIPPED, Case, DEVIATION, KEY, Memory, QUANTUM, REACH, ROW_LIMIT, ROWS, SCALE, SQUARES, STEP,
    VectorKernels, WEIGHTS, codes, norm, numbers,
};
use crate::engine::cuda::DeviceError;
use crate::engine::vectors::Cpu;

/// What a check found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Which kernel.
    pub case: Case,
    /// The largest error against arithmetic in f64, relative to numbers above 1.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
    /// The largest difference from the CPU's kernel, in the same measure; 0: equal numbers.
    pub from_cpu: f64,
}

impl Found {
    /// Whether the error is within its bound; NaN is not.
    pub fn good(&self) -> bool {
        self.error <= self.bound && self.from_cpu <= self.bound
    }
}

/// Checks every kernel on vectors of about this length.
///
/// # Errors
/// If a device fails.
pub fn check<K: VectorKernels>(kernels: &K, length: usize) -> Result<Vec<Found>, DeviceError> {
    let cpu = Cpu::new(1);
    let more = [Case::Combine(0), Case::Combine(1), Case::KeepOf(1, 3), Case::KeepOf(20, 64)];
    let found = |case: Case| {
        let want = want(case, length / ROWS * ROWS);
        let got = outcome(case, kernels, length)?;
        let error = distance(&got, &want);
        Ok(Found { case, error, bound: bound(case), from_cpu: distance(&got, &outcome(case, &cpu, length)?) })
    };
    Case::ALL.into_iter().chain(more).map(found).collect()
}

fn coarse(case: Case) -> bool {
    matches!(case, Case::KeepOf(..) | Case::KeepLargest)
}

fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many numbers as were wanted");
    let each = got.iter().zip(want).map(|(got, want)| (got - want).abs() / want.abs().max(1.0));
    // A maximum that NaN wins.
    each.fold(0.0, |most, error| if most.is_nan() || error <= most { most } else { error })
}

fn bound(case: Case) -> f64 {
    match case {
        Case::Encode | Case::KeepOf(..) | Case::KeepLargest => 0.0,
        // Half of a code, and what rounding in f32 adds.
        Case::Quantise => 0.500_1,
        Case::Dot | Case::Square | Case::Adam => 1e-5,
        _ => 2e-6,
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// What the kernel makes of fresh memory.
fn outcome<K: VectorKernels>(case: Case, kernels: &K, length: usize) -> Result<Vec<f64>, DeviceError> {
    let mut memory = Memory::new(kernels, length, coarse(case))?;
    let number = case.run(kernels, &mut memory);
    let [a, b, c, d, ..] = &memory.x;
    let get = |x: &K::View<f32>| kernels.get(x).map(|x| wide(&x));
    Ok(match case {
        Case::Dot | Case::Square => vec![number],
        Case::Clip => [get(a)?, vec![number]].concat(),
        Case::Perturb => get(b)?,
        Case::Descend(true) => [get(a)?, get(c)?].concat(),
        Case::Adam => [get(a)?, get(c)?, get(d)?].concat(),
        Case::Encode => kernels.get::<i64>(&memory.sums)?.into_iter().map(|v| v as f64).collect(),
        Case::Quantise => {
            let codes = kernels.get::<i8>(&memory.codes)?.into_iter().map(f64::from).collect();
            [codes, get(&memory.scales)?].concat()
        }
        Case::ClippedSum => [get(&memory.sum)?, vec![number]].concat(),
        _ => get(a)?,
    })
}

/// The same in f64. Codes are wanted before they are rounded.
fn want(case: Case, n: usize) -> Vec<f64> {
    let x: Vec<Vec<f64>> = (0..7).map(|i| wide(&numbers(n, i, coarse(case)))).collect();
    let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<f64>>();
    let length = norm(&numbers(n, 0, coarse(case)));
    match case {
        Case::Combine(terms) => {
            each(&|i| WEIGHTS.iter().zip(&x[1..]).take(terms).map(|(a, x)| f64::from(*a) * x[i]).sum())
        }
        Case::Dot => vec![x[0].iter().zip(&x[1]).map(|(a, b)| a * b).sum()],
        Case::Square => vec![length * length],
        Case::Clip => [each(&|i| x[0][i] * CLIPPED), vec![length]].concat(),
        Case::Perturb => each(&|i| x[2][i] + f64::from(REACH) * x[0][i] / (length + 1e-7)),
        Case::Descend(all) => descent(&x, all),
        Case::Adam => adam(&x),
        Case::Encode => each(&|i| i as f64 + (x[0][i] * SCALE).round_ties_even()),
        Case::Quantise => quantised(&x[0]),
        Case::Dequantise => {
            let scales = numbers(n.div_ceil(QUANTUM), SQUARES, false);
            codes(n).iter().zip(0..).map(|(c, i)| f64::from(*c) * f64::from(scales[i / QUANTUM])).collect()
        }
        Case::KeepOf(n, m) => x[0].chunks(m).flat_map(|group| largest(group, n)).collect(),
        Case::KeepLargest => largest(&x[0], n / 10),
        Case::ClippedSum => clipped_sum(&x[0], length * ROW_LIMIT),
        Case::Noise => noise(&x[0]),
    }
}

fn descent(x: &[Vec<f64>], all: bool) -> Vec<f64> {
    let [lr, scale, decay, prox, momentum] = STEP.map(f64::from);
    let direction = |i: usize| {
        let g = scale * x[1][i] + decay * x[0][i];
        if all { g + x[3][i] + prox * (x[0][i] - x[4][i]) + momentum * x[2][i] } else { g }
    };
    let moved: Vec<f64> = (0..x[0].len()).map(|i| x[0][i] - lr * direction(i)).collect();
    let momentum = if all { (0..x[0].len()).map(direction).collect() } else { Vec::new() };
    [moved, momentum].concat()
}

fn adam(x: &[Vec<f64>]) -> Vec<f64> {
    let [lr, beta1, beta2, epsilon, decay] =
        [ADAM.lr, ADAM.beta1, ADAM.beta2, ADAM.epsilon, ADAM.weight_decay].map(f64::from);
    let moments = x[1].iter().zip(&x[2]).zip(&x[3]);
    let moments: Vec<[f64; 2]> = moments
        .map(|((g, m), v)| [beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g])
        .collect();
    let step = |(w, [m, v]): (&f64, &[f64; 2])| w - lr * (m / (v.sqrt() + epsilon) + decay * w);
    let moved: Vec<f64> = x[0].iter().zip(&moments).map(step).collect();
    [moved, moments.iter().map(|m| m[0]).collect(), moments.iter().map(|m| m[1]).collect()].concat()
}

fn quantised(x: &[f64]) -> Vec<f64> {
    let most = |run: &[f64]| run.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    let code = |run: &[f64]| {
        let most = most(run);
        run.iter().map(|v| if most > 0.0 { v * 127.0 / most } else { 0.0 }).collect::<Vec<_>>()
    };
    let scales = x.chunks(QUANTUM).map(|run| most(run) / 127.0);
    x.chunks(QUANTUM).flat_map(code).chain(scales).collect()
}

fn largest(x: &[f64], keep: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].abs().total_cmp(&x[a].abs()).then(a.cmp(&b)));
    let mut kept = vec![0.0; x.len()];
    order.into_iter().take(keep).for_each(|i| kept[i] = x[i]);
    kept
}

fn clipped_sum(x: &[f64], limit: f64) -> Vec<f64> {
    let width = (x.len() / ROWS).max(1);
    let mut sum = vec![1.0; x.len() / ROWS];
    let mut norms = 0.0;
    for row in x.chunks_exact(width) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        norms += norm;
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * (limit / norm).min(1.0));
    }
    sum.push(norms);
    sum
}

fn noise(x: &[f64]) -> Vec<f64> {
    let part = |(i, x): (usize, &f64)| {
        let word = algorithms::seed::mix(KEY ^ (i as u64 / 2));
        let radius = f64::from((word >> 33 | 1) as f32 / 2.0_f32.powi(31));
        let angle = std::f64::consts::TAU * (word as u32) as f64 / 2.0_f64.powi(32);
        let length = f64::from(DEVIATION) * (-2.0 * radius.ln()).sqrt();
        x + length * if i % 2 == 0 { angle.cos() } else { angle.sin() }
    };
    x.iter().enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::{Cuda, Device};

    /// Rows of 0, 1, 51, 3,277, 4,096 and 14,001 scalars: of whole quads or not.
    const LENGTHS: [usize; 6] = [0, 5, 255, 16_385, 20_480, 70_005];

    fn all_good<K: VectorKernels>(kernels: &K) {
        for length in LENGTHS {
            for found in check(kernels, length).unwrap() {
                assert!(found.good(), "{length} scalars: {found:?}");
            }
        }
    }

    #[test]
    fn the_cpu_does_every_case() {
        all_good(&Cpu::new(2));
    }

    #[test]
    fn a_gpu_does_every_case() {
        match Device::open(0, None) {
            Ok(device) => all_good(&Cuda::new(device).unwrap()),
            Err(reason) => println!("skipped: {reason}"),
        }
    }

    #[test]
    fn a_wrong_number_is_found() {
        assert_eq!(distance(&[1.0, 4.0], &[1.0, 2.0]), 1.0);
        assert!(distance(&[f64::NAN, 0.0], &[0.0, 0.0]).is_nan());
        let found = Found { case: Case::Dot, error: f64::NAN, bound: 1.0, from_cpu: 0.0 };
        assert!(!found.good());
    }
}
