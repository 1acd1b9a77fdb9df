//! Limits and rates of a product of column-stochastic matrices.

use super::dense::Dense;
use crate::Mixing;

/// Squarings after which nothing more is gained: `2^60` rounds.
const SQUARINGS: i32 = 60;
/// A product within this of its limit has reached it.
pub(super) const EXACT: f64 = 1e-12;

/// The stationary distribution `π` of a column-stochastic matrix, `Φ π = π`, `Σπ = 1`: the mean of the
/// columns of `Φ^(2^s)`. Without a unique limit, some invariant distribution for the even start.
pub(super) fn stationary(product: &Dense) -> Vec<f64> {
    let n = product.n;
    let means = |m: &Dense| -> Vec<f64> { m.rows().map(|row| row.iter().sum::<f64>() / n as f64).collect() };
    let mut power = product.clone();
    let mut pi = means(&power);
    for _ in 0..SQUARINGS {
        power = power.times(&power);
        // Column sums drift by rounding, and the drift would be squared on.
        let sums: Vec<f64> = power.transposed().rows().map(|column| column.iter().sum()).collect();
        for row in power.data.chunks_exact_mut(n.max(1)) {
            row.iter_mut().zip(&sums).for_each(|(x, sum)| *x /= sum);
        }
        let next = means(&power);
        let spread = power.rows().flat_map(|row| row.iter().map(|x| (x - row[0]).abs())).fold(0.0, f64::max);
        pi = next;
        if spread < 1e-16 {
            break;
        }
    }
    pi
}

/// The spectral radius, by `(‖M^(2^(s+1))‖ / ‖M^(2^s)‖)^(1/2^s)` with rescaling. 0 when `M` or a power
/// of it vanishes up to rounding.
pub(super) fn spectral_radius(matrix: &Dense) -> f64 {
    let mut power = matrix.clone();
    let norm = power.norm();
    if norm < EXACT {
        return 0.0;
    }
    power.scale(1.0 / norm);
    // ln ‖M^(2^s)‖ / 2^s.
    let mut log = libm::log(norm);
    let mut rate = f64::INFINITY;
    for s in 0..SQUARINGS {
        power = power.times(&power);
        let norm = power.norm();
        if norm < 1e-14 {
            return 0.0;
        }
        power.scale(1.0 / norm);
        let next = log + libm::log(norm) / libm::exp2(f64::from(s + 1));
        let better = libm::exp(2.0 * next - log);
        if (better - rate).abs() <= 1e-15 * better {
            return better;
        }
        (log, rate) = (next, better);
    }
    rate
}

/// The largest singular value, by power iteration on `MᵀM`.
pub(super) fn spectral_norm(matrix: &Dense) -> f64 {
    let apply = |m: &Dense, x: &[f64]| -> Vec<f64> {
        m.rows().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let transposed = matrix.transposed();
    // Not an eigenvector of any symmetry that these graphs have.
    let mut x: Vec<f64> = (0..matrix.n).map(|i| 1.0 / (1.0 + i as f64) - 0.3 * (i % 3) as f64).collect();
    let mut value = 0.0;
    for _ in 0..10_000 {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length < f64::MIN_POSITIVE {
            return 0.0;
        }
        for x in &mut x {
            *x /= length;
        }
        x = apply(&transposed, &apply(matrix, &x));
        let next = x.iter().map(|x| x * x).sum::<f64>().sqrt().sqrt();
        if (next - value).abs() <= 1e-14 * next {
            return next;
        }
        value = next;
    }
    value
}

/// Growth a round of differences between nodes, `(‖P_T…P_1 (I − J)‖ / ‖P_s…P_1 (I − J)‖)^(1/(T − s))` with
/// `s = T/4`, rescaled in each round.
pub(super) fn growth(matrices: &[Mixing]) -> f64 {
    let n = matrices.first().map_or(0, Mixing::nodes);
    let mut differences = Dense::identity(n).minus_limit(&vec![1.0 / n as f64; n]);
    let skipped = matrices.len() / 4;
    let mut log = 0.0;
    for (at, mixing) in matrices.iter().enumerate() {
        differences = differences.mixed(mixing);
        let norm = differences.norm();
        if norm < EXACT {
            return 0.0;
        }
        differences.scale(1.0 / norm);
        log += if at < skipped { 0.0 } else { libm::log(norm) };
    }
    libm::exp(log / (matrices.len() - skipped).max(1) as f64)
}
