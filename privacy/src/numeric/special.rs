//! The normal distribution and binomial coefficients, in logarithms where tails matter.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// `ln √(2π)`.
pub(crate) const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;

/// Φ, the normal distribution function.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// ln Φ, with a relative error near 1e-15 for every argument.
pub(crate) fn ln_normal_cdf(x: f64) -> f64 {
    if x > 5.0 {
        return (-normal_cdf(-x)).ln_1p();
    }
    if x > -10.0 {
        return normal_cdf(x).ln();
    }
    // Φ(x) ~ φ(x)/|x| · (1 − 1/x² + 3/x⁴ − 15/x⁶ …)
    let inverse = 1.0 / (x * x);
    let mut term = 1.0;
    let mut sum = 0.0;
    for k in 1..=22 {
        term *= -f64::from(2 * k - 1) * inverse;
        sum += term;
    }
    -0.5 * x * x - (-x).ln() - LN_SQRT_TAU + f64::ln_1p(sum)
}

/// Φ⁻¹, by Newton steps on ln Φ from the tail's asymptote; `p` in (0, 1).
pub(crate) fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let target = p.ln();
    let mut x = if p > 0.02 { (p - 0.5) * (2.0 * PI).sqrt() } else { -(-2.0 * target).sqrt() };
    for _ in 0..50 {
        let value = ln_normal_cdf(x);
        let slope = (-0.5 * x * x - LN_SQRT_TAU - value).exp();
        let step = (value - target) / slope;
        x -= step;
        if step.abs() <= 1e-15 * x.abs() {
            break;
        }
    }
    x
}

/// `ln(n choose k)` for real `n ≥ k ≥ 0`.
pub(crate) fn ln_binomial(n: f64, k: f64) -> f64 {
    libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
}

/// `P(Binomial(n, p) > k)`, summed from the mode outwards so that small tails keep their precision.
pub(crate) fn binomial_tail(n: u64, p: f64, k: u64) -> f64 {
    if k >= n {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    let ln_term =
        |i: u64| ln_binomial(n as f64, i as f64) + i as f64 * p.ln() + (n - i) as f64 * (-p).ln_1p();
    let odds = p / (1.0 - p);
    // Upwards from k + 1 where the terms fall, or one minus the sum downwards from k.
    let upper = (k + 1) as f64 > n as f64 * p;
    let mut term = ln_term(if upper { k + 1 } else { k }).exp();
    let (mut sum, mut i) = (0.0, if upper { k + 1 } else { k });
    loop {
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
        if upper {
            if i == n {
                break;
            }
            term *= (n - i) as f64 / (i + 1) as f64 * odds;
            i += 1;
        } else {
            if i == 0 {
                break;
            }
            term *= i as f64 / ((n - i + 1) as f64 * odds);
            i -= 1;
        }
    }
    if upper { sum } else { 1.0 - sum }
}

/// `ln Σ eˣ`.
pub(crate) fn ln_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest.is_infinite() {
        return largest;
    }
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-13, "{got} {want}");
    }

    #[test]
    fn tails_of_the_normal_distribution_keep_their_precision() {
        // 30 digits from an arbitrary-precision library.
        close(ln_normal_cdf(-3.0), -6.607_726_221_510_349);
        close(ln_normal_cdf(-12.0), -75.410_673_001_568_8);
        close(ln_normal_cdf(-100.0), -5_005.524_208_694_205);
        close(ln_normal_cdf(8.0), -6.220_960_574_271_786e-16);
        for p in [1e-300, 1e-12, 0.01, 0.3, 0.5, 0.9] {
            let x = normal_quantile(p);
            assert!((ln_normal_cdf(x) - p.ln()).abs() < 1e-12, "{p} {x}");
        }
    }

    #[test]
    fn binomials() {
        close(ln_binomial(10.0, 3.0).exp(), 120.0);
        let direct = |n: u64, p: f64, k: u64| -> f64 {
            (k + 1..=n)
                .map(|i| {
                    ln_binomial(n as f64, i as f64).exp() * p.powi(i as i32) * (1.0 - p).powi((n - i) as i32)
                })
                .sum()
        };
        for (n, p, k) in [(10, 0.3, 2), (10, 0.3, 7), (40, 0.1, 20), (5, 0.5, 0)] {
            assert!((binomial_tail(n, p, k) / direct(n, p, k) - 1.0).abs() < 1e-12);
        }
        assert_eq!(binomial_tail(3, 0.5, 3), 0.0);
        close(ln_sum_exp(&[800.0, 800.0]), 800.0 + 2.0_f64.ln());
    }
}
