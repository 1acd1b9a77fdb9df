//! Randomness of the data layer: who draws what, and how a draw becomes the same on every machine.
//!
//! Every stream is named by a purpose and a few numbers (run seed, round, worker, …), so that no two
//! uses share a stream and none depends on the order of calls. Transcendental functions come from
//! `libm` (plain Rust), because the platform's differ in the last bit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// The generator of everything random in the data layer.
pub type Rng = ChaCha8Rng;

/// The stream named by `purpose` and `parts`.
///
/// Any difference in purpose, number or order of the parts gives an unrelated stream.
pub fn stream(purpose: &str, parts: &[u64]) -> Rng {
    let mut hasher = blake3::Hasher::new_derive_key("starling data stream v1");
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    for part in parts {
        hasher.update(&part.to_le_bytes());
    }
    Rng::from_seed(*hasher.finalize().as_bytes())
}

/// The order in which one local epoch visits `len` examples: a permutation of `0..len`.
///
/// `parts` names the epoch, usually `[run seed, round, worker, epoch]`.
pub fn epoch_order(len: usize, parts: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(&mut order, &mut stream("epoch order", parts));
    order
}

/// Uniform in `[0, 1)` with 53 random bits.
pub(crate) fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Uniform in `0..bound`; the bias of the widening multiplication is below `bound / 2^64`.
pub(crate) fn below(rng: &mut Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Fisher–Yates.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

/// Standard normal by Marsaglia's polar method.
fn normal(rng: &mut Rng) -> f64 {
    loop {
        let (u, v) = (2.0 * uniform(rng) - 1.0, 2.0 * uniform(rng) - 1.0);
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            return u * libm::sqrt(-2.0 * libm::log(s) / s);
        }
    }
}

/// Logarithm of a Gamma(`shape`, 1) variate (Marsaglia and Tsang 2000).
///
/// The logarithm, because for a shape of 0.01 most variates are below the smallest `f64`.
fn log_gamma_variate(shape: f64, rng: &mut Rng) -> f64 {
    if shape < 1.0 {
        let boost = libm::log(1.0 - uniform(rng)) / shape;
        return log_gamma_variate(shape + 1.0, rng) + boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = normal(rng);
        let cube = 1.0 + c * x;
        if cube <= 0.0 {
            continue;
        }
        let v = cube * cube * cube;
        let accept = 0.5 * x * x + d - d * v + d * libm::log(v);
        if libm::log(1.0 - uniform(rng)) < accept {
            return libm::log(d) + libm::log(v);
        }
    }
}

/// A point of the simplex from the symmetric Dirichlet distribution; `count` numbers that sum to 1.
pub(crate) fn dirichlet(alpha: f64, count: usize, rng: &mut Rng) -> Vec<f64> {
    let logs: Vec<f64> = (0..count).map(|_| log_gamma_variate(alpha, rng)).collect();
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut point: Vec<f64> = logs.iter().map(|l| libm::exp(l - top)).collect();
    let sum: f64 = point.iter().sum();
    for p in &mut point {
        *p /= sum;
    }
    point
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_purpose_and_parts() {
        let first = |mut rng: Rng| rng.next_u64();
        let base = first(stream("a", &[1, 2]));
        assert_eq!(base, first(stream("a", &[1, 2])));
        for other in [stream("b", &[1, 2]), stream("a", &[2, 1]), stream("a", &[1]), stream("a", &[1, 2, 0])]
        {
            assert_ne!(base, first(other));
        }
    }

    #[test]
    fn epoch_order_is_a_permutation_that_changes_with_the_epoch() {
        let mut order = epoch_order(100, &[1, 2, 3, 4]);
        assert_ne!(order, epoch_order(100, &[1, 2, 3, 5]));
        assert_eq!(order, epoch_order(100, &[1, 2, 3, 4]));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }

    #[test]
    fn dirichlet_has_the_right_moments() {
        let mut rng = stream("test", &[]);
        for alpha in [0.1, 0.5, 1.0, 5.0] {
            let draws = 20_000;
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..draws {
                let p = dirichlet(alpha, 4, &mut rng)[1];
                sum += p;
                squares += p * p;
            }
            let mean = sum / draws as f64;
            let variance = squares / draws as f64 - mean * mean;
            // Var p_i = m(1−m)/(Kα+1) with m = 1/K.
            let expected = 0.25 * 0.75 / (4.0 * alpha + 1.0);
            assert!((mean - 0.25).abs() < 0.012, "alpha {alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.06, "alpha {alpha}: {variance} vs {expected}");
        }
    }

    #[test]
    fn tiny_alpha_still_gives_a_distribution() {
        let mut rng = stream("test", &[]);
        for _ in 0..100 {
            let sum: f64 = dirichlet(1e-4, 10, &mut rng).iter().sum();
            assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
