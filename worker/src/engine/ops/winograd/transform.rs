//! The transforms of F(4×4, 3×3): small matrices applied to both sides of a square.
//!
//! Four results of three taps are the coefficients of a product of polynomials, found from its values at
//! 0, ±√½, ±√2 and ∞. With these points the largest error is a third of that of the usual 0, ±1, ±2, ∞.
//! Sixteen channels are transformed at a time; nothing is fused, so that bytes do not depend on the
//! processor.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Channels that are transformed at once.
pub(super) const LANES: usize = 16;
/// Side of a tile of results.
pub(super) const RESULTS: usize = 4;
/// Side of a filter.
pub(super) const TAPS: usize = 3;
/// Side of a tile of the image, and of the square of points.
pub(super) const SIDE: usize = RESULTS + TAPS - 1;
/// So many products take the place of `RESULTS² · TAPS²`.
pub(super) const POINTS: usize = SIDE * SIDE;

/// The values of some channels at one place.
pub(super) type Lanes = [f32; LANES];

/// The points a and b, with a² = ½ and b² = 2, and their cubes.
const A: f32 = FRAC_1_SQRT_2;
const B: f32 = SQRT_2;
const A3: f32 = 0.5 * A;
const B3: f32 = 2.0 * B;
/// 1 / (2a²(a² − b²)) and 1 / (2b²(b² − a²)): interpolation divides by them, and the filters take that on.
const OF_A: f32 = -2.0 / 3.0;
const OF_B: f32 = 1.0 / 6.0;

/// Bᵀ, for a row of the image.
#[inline(always)]
pub(super) fn image([d0, d1, d2, d3, d4, d5]: [f32; SIDE]) -> [f32; SIDE] {
    let (even_a, odd_a) = (d4 - 2.0 * d2, A * (d3 - 2.0 * d1));
    let (even_b, odd_b) = (d4 - 0.5 * d2, B * (d3 - 0.5 * d1));
    let ends = [d0 + (d4 - 2.5 * d2), d1 + (d5 - 2.5 * d3)];
    [ends[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, ends[1]]
}

/// G, for a row of a filter.
#[inline(always)]
pub(super) fn filter([g0, g1, g2]: [f32; TAPS]) -> [f32; SIDE] {
    let (even_a, odd_a) = (OF_A * (g0 + 0.5 * g2), OF_A * A * g1);
    let (even_b, odd_b) = (OF_B * (g0 + 2.0 * g2), OF_B * B * g1);
    [g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2]
}

/// Aᵀ, from products to a row of results.
#[inline(always)]
pub(super) fn results([m0, m1, m2, m3, m4, m5]: [f32; SIDE]) -> [f32; RESULTS] {
    let (even_a, odd_a, even_b, odd_b) = (m1 + m2, m1 - m2, m3 + m4, m3 - m4);
    [
        m0 + (even_a + even_b),
        A * odd_a + B * odd_b,
        0.5 * even_a + 2.0 * even_b,
        m5 + (A3 * odd_a + B3 * odd_b),
    ]
}

/// A, for a row of the gradient of the results.
#[inline(always)]
pub(super) fn slopes([y0, y1, y2, y3]: [f32; RESULTS]) -> [f32; SIDE] {
    let (even_a, odd_a) = (y0 + 0.5 * y2, A * y1 + A3 * y3);
    let (even_b, odd_b) = (y0 + 2.0 * y2, B * y1 + B3 * y3);
    [y0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y3]
}

/// Gᵀ, from products to a row of the gradient of a filter.
#[inline(always)]
pub(super) fn taps([d0, d1, d2, d3, d4, d5]: [f32; SIDE]) -> [f32; TAPS] {
    let (even_a, odd_a) = (OF_A * (d1 + d2), OF_A * (d1 - d2));
    let (even_b, odd_b) = (OF_B * (d3 + d4), OF_B * (d3 - d4));
    [d0 + (even_a + even_b), A * odd_a + B * odd_b, d5 + (0.5 * even_a + 2.0 * even_b)]
}

/// The channels that come first in `from`.
#[inline(always)]
pub(super) fn lanes(from: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (lane, from) in lanes.iter_mut().zip(&from[..LANES]) {
        *lane = *from;
    }
    lanes
}

/// `f` of as many numbers as there are places, for each channel.
#[inline(always)]
fn each<const N: usize, const M: usize>(x: &[Lanes; N], f: impl Fn([f32; N]) -> [f32; M]) -> [Lanes; M] {
    let mut y = [[0.0; LANES]; M];
    for l in 0..LANES {
        let mut line = [0.0; N];
        for i in 0..N {
            line[i] = x[i][l];
        }
        let line = f(line);
        for i in 0..M {
            y[i][l] = line[i];
        }
    }
    y
}

/// Applies `f` to the columns of a square, then to the rows of what comes out: from what `load` gives for
/// row and column to `store`.
// Plain loops: what `std::array::from_fn` calls is not always inlined, and then has no wide vectors.
#[inline(always)]
pub(super) fn both<const N: usize, const M: usize>(
    load: impl Fn(usize, usize) -> Lanes,
    f: impl Fn([f32; N]) -> [f32; M],
    mut store: impl FnMut(usize, usize, Lanes),
) {
    let mut half = [[[0.0; LANES]; N]; M];
    for j in 0..N {
        let mut column = [[0.0; LANES]; N];
        for (i, place) in column.iter_mut().enumerate() {
            *place = load(i, j);
        }
        for (half, y) in half.iter_mut().zip(each(&column, &f)) {
            half[j] = y;
        }
    }
    for (i, half) in half.iter().enumerate() {
        for (j, y) in each(half, &f).into_iter().enumerate() {
            store(i, j, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::numbers;

    fn row<const N: usize>(seed: u64) -> [f32; N] {
        numbers(N, seed).try_into().expect("as many as were asked for")
    }

    fn dot<const N: usize>(a: [f32; N], b: [f32; N]) -> f32 {
        a.into_iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn close(got: f32, want: f32) {
        assert!((got - want).abs() < 2e-6, "got {got}, expected {want}");
    }

    #[test]
    fn a_row_is_convolved() {
        for seed in 0..20 {
            let (d, g) = (row(seed), row(seed + 100));
            let (image, filter) = (image(d), filter(g));
            let y = results(std::array::from_fn(|i| image[i] * filter[i]));
            for (i, y) in y.into_iter().enumerate() {
                close(y, dot([d[i], d[i + 1], d[i + 2]], g));
            }
        }
    }

    /// ⟨Aᵀm, y⟩ = ⟨m, Ay⟩ and ⟨Gg, d⟩ = ⟨g, Gᵀd⟩.
    #[test]
    fn the_way_back_is_the_transpose() {
        for seed in 0..20 {
            let (m, y, g) = (row(seed), row(seed + 100), row(seed + 200));
            close(dot(results(m), y), dot(m, slopes(y)));
            close(dot(filter(g), m), dot(g, taps(m)));
        }
    }
}
