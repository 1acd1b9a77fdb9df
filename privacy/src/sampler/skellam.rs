//! Skellam noise, drawn exactly: the difference of two Poisson numbers with half of the variance each
//! (Agarwal, Kairouz and Liu 2021). Unlike Gaussian noise on integers it adds up: a sum of shares is Skellam
//! noise of the whole variance.
//!
//! A Poisson number is found in a table of cumulated probabilities to 192 bits, which come from the ratios
//! `λ/k` of neighbours in 384-bit arithmetic; 64 random bits decide nearly always, else 128 more do. The law
//! is exact but for tails of mass below 2⁻¹³⁰. The table is as long as the noise is wide, so that this is for
//! the coarse grids of noise shares.

use std::num::NonZeroU64;

use rand_chacha::rand_core::Rng;

use super::fixed::Fixed;

/// Largest variance: a table of about 20,000 rows.
pub const MOST_VARIANCE: u64 = 1 << 20;

const GUIDE_BITS: u32 = 12;
/// The weight of the most likely number: the sum of all is below 1/2.
const MODE_BITS: u32 = 16;

/// The variance is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the variance of Skellam noise is {0}, expected a whole number from 1 to 2^20")]
pub struct VarianceError(pub u64);

/// A sampler for one variance; the table costs up to 0.1 s, so keep it for a whole run.
#[derive(Debug, Clone)]
pub struct Skellam {
    variance: u64,
    /// The least Poisson number of the table.
    first: u64,
    /// Cumulated probabilities: their first 64 bits, and 192; the last end is beyond all.
    leading: Vec<u64>,
    exact: Vec<[u64; 3]>,
    /// The first row that a draw with these leading bits may lie in.
    guide: Vec<u32>,
}

impl Skellam {
    /// For noise of this variance, in squared units of the grid.
    ///
    /// # Errors
    /// If the variance is above [`MOST_VARIANCE`].
    pub fn new(variance: NonZeroU64) -> Result<Self, VarianceError> {
        let variance = variance.get();
        if variance > MOST_VARIANCE {
            return Err(VarianceError(variance));
        }
        let (first, weights) = poisson(variance);
        let cumulated: Vec<Fixed> = weights
            .into_iter()
            .scan(Fixed::ZERO, |sum, weight| {
                *sum = sum.add(weight);
                Some(*sum)
            })
            .collect();
        let total = cumulated[cumulated.len() - 1];
        let (_, below) = cumulated.split_last().unwrap_or((&total, &[]));
        let mut exact: Vec<[u64; 3]> = below.iter().map(|sum| sum.divided_by(total)).collect();
        exact.push([u64::MAX; 3]);
        let leading: Vec<u64> = exact.iter().map(|end| end[0]).collect();
        let start = |i: u64| leading.partition_point(|end| *end < i << (64 - GUIDE_BITS)) as u32;
        let guide = (0..1 << GUIDE_BITS).map(start).chain([leading.len() as u32 - 1]).collect();
        Ok(Self { variance, first, leading, exact, guide })
    }

    /// The variance.
    pub fn variance(&self) -> u64 {
        self.variance
    }

    /// One draw.
    pub fn sample(&self, random: &mut impl Rng) -> i64 {
        self.poisson(random) as i64 - self.poisson(random) as i64
    }

    /// Adds a draw to each number of a sum, wrapping on overflow as the sum itself does.
    pub fn add_noise(&self, sum: &mut [i64], random: &mut impl Rng) {
        for x in sum {
            *x = x.wrapping_add(self.sample(random));
        }
    }

    #[inline]
    fn poisson(&self, random: &mut impl Rng) -> u64 {
        let draw = random.next_u64();
        let cell = (draw >> (64 - GUIDE_BITS)) as usize;
        let (low, high) = (self.guide[cell] as usize, self.guide[cell + 1] as usize);
        let mut row = low + self.leading[low..=high].partition_point(|end| *end < draw);
        if self.leading[row] == draw {
            let draw = [draw, random.next_u64(), random.next_u64()];
            while row + 1 < self.exact.len() && self.exact[row] <= draw {
                row += 1;
            }
        }
        self.first + row as u64
    }
}

/// The least number whose weight counts, and the weights `∝ λ^k/k!` from there on, `λ = variance/2`.
fn poisson(variance: u64) -> (u64, Vec<Fixed>) {
    // Below 2^-156 of the most likely one; what is left out is less than a few thousand times that.
    let counts = |weight: &Fixed| weight.0[..2] != [0, 0] || weight.0[2] >> 20 != 0;
    let mode = variance / 2;
    let top = Fixed::ratio(1, 1 << MODE_BITS);
    let mut weights = Vec::new();
    let (mut k, mut weight) = (mode, top);
    while k > 0 {
        weight = weight.div(variance).times(2 * k);
        if !counts(&weight) {
            break;
        }
        k -= 1;
        weights.push(weight);
    }
    weights.reverse();
    let first = mode - weights.len() as u64;
    (k, weight) = (mode, top);
    while counts(&weight) {
        weights.push(weight);
        k += 1;
        weight = weight.div(2 * k).times(variance);
    }
    (first, weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Key;

    /// `P(A − B = x)` by summing over B.
    fn probability(variance: u64, x: i64) -> f64 {
        let rate = 0.5 * variance as f64;
        let ln = |k: i64| k as f64 * rate.ln() - rate - libm::lgamma(k as f64 + 1.0);
        let spread = (14.0 * rate.sqrt()) as i64 + 20;
        let lowest = (rate as i64 - spread).max(0).max(-x);
        (lowest..=rate as i64 + spread).map(|b| (ln(b + x) + ln(b)).exp()).sum()
    }

    fn draws(variance: u64, count: usize) -> Vec<i64> {
        let sampler = Skellam::new(NonZeroU64::new(variance).unwrap()).unwrap();
        let mut sum = vec![0; count];
        sampler.add_noise(&mut sum, &mut Key::new([9; 32]).release(variance).stream(0, 0));
        sum
    }

    /// χ² against the law, over cells of about half a deviation, as a standard normal score.
    fn score(draws: &[i64], variance: u64) -> f64 {
        let width = ((0.5 * (variance as f64).sqrt()) as i64).max(1);
        let reach = 8 * ((variance as f64).sqrt() as i64 + 1) / width;
        let (mut square, mut cells) = (0.0, 0.0);
        for cell in -reach..=reach {
            let range = cell * width..(cell + 1) * width;
            let expected = draws.len() as f64 * range.clone().map(|x| probability(variance, x)).sum::<f64>();
            if expected >= 10.0 {
                let seen = draws.iter().filter(|x| range.contains(x)).count() as f64;
                square += (seen - expected).powi(2) / expected;
                cells += 1.0;
            }
        }
        (square - cells) / f64::sqrt(2.0 * cells)
    }

    #[test]
    fn draws_follow_the_law() {
        for variance in [1, 2, 5, 64, 4001] {
            let found = draws(variance, 100_000);
            let z = score(&found, variance);
            assert!(z.abs() < 4.5, "{variance}: {z}");
            // The test can fail.
            let wrong = |x: &i64| if variance < 1000 { x + i64::from(*x > 0) } else { x * 11 / 10 };
            let wrong: Vec<i64> = found.iter().map(wrong).collect();
            assert!(score(&wrong, variance) > 6.0, "{variance}");
        }
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let (share, shares) = (6_u64, 7);
        let all = draws(share, 350_000);
        let sums: Vec<i64> = all.chunks(shares).map(|shares| shares.iter().sum()).collect();
        let z = score(&sums, share * shares as u64);
        assert!(z.abs() < 4.5, "{z}");
    }

    #[test]
    fn the_table_has_the_known_probabilities() {
        for variance in [2_u64, 77, 1 << 14] {
            let sampler = Skellam::new(NonZeroU64::new(variance).unwrap()).unwrap();
            let rate = 0.5 * variance as f64;
            let mut below = 0.0;
            for (row, end) in sampler.leading.iter().enumerate().take(sampler.leading.len() - 1) {
                let k = (sampler.first + row as u64) as f64;
                below += (k * rate.ln() - rate - libm::lgamma(k + 1.0)).exp();
                let ours = *end as f64 * 2.0_f64.powi(-64);
                assert!((ours - below).abs() < 1e-11, "{variance} {k}: {ours} {below}");
            }
        }
        let most = Skellam::new(NonZeroU64::new(MOST_VARIANCE).unwrap()).unwrap();
        assert!(most.leading.len() < 25_000, "{}", most.leading.len());
        let error = Skellam::new(NonZeroU64::new(MOST_VARIANCE + 1).unwrap()).unwrap_err().to_string();
        assert!(error.contains("from 1 to 2^20"), "{error}");
    }
}
