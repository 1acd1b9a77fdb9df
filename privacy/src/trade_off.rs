//! Trade-off functions (Dong, Roth and Su 2022): the least type II error of telling two neighbouring
//! data sets apart, for each type I error.

use crate::{
    Probability,
    accountants::gaussian::Mu,
    numeric::{
        search::bisect,
        special::{normal_cdf, normal_quantile},
    },
};

/// `G_μ(a) = Φ(Φ⁻¹(1 − a) − μ)` for a type I error `a` from 0 to 1 (definition 2.6).
pub fn gaussian(mu: Mu, a: f64) -> f64 {
    if a <= 0.0 {
        return 1.0;
    }
    if a >= 1.0 {
        return 0.0;
    }
    normal_cdf(-normal_quantile(a) - mu.get())
}

/// `C_q(G_μ)`: Poisson sampling with probability `q` before a Gaussian mechanism, for both neighbours
/// (theorem 4.2). `f_q = q·G_μ + (1 − q)(1 − a)` until its slope is −1, a line of that slope, and its
/// inverse after.
pub fn sampled_gaussian(rate: Probability, mu: Mu, a: f64) -> f64 {
    let q = rate.get();
    let sampled = |a: f64| q * gaussian(mu, a) + (1.0 - q) * (1.0 - a);
    // G_μ has the slope −1 at its fixed point Φ(−μ/2), and so has f_q.
    let turn = normal_cdf(-0.5 * mu.get());
    let end = sampled(turn);
    if a <= turn {
        sampled(a)
    } else if a <= end {
        turn + end - a
    } else {
        bisect(0.0, turn, 100, |b| sampled(b) > a).0
    }
}

/// The trade-off function that points `(ε, δ)` of a privacy profile prove:
/// `max(0, 1 − δ − e^ε a, e^{−ε}(1 − δ − a))` over all of them (proposition 2.5).
pub fn from_profile(profile: &[(f64, f64)], a: f64) -> f64 {
    let line = |(epsilon, delta): &(f64, f64)| {
        (1.0 - delta - epsilon.exp() * a).max((-epsilon).exp() * (1.0 - delta - a))
    };
    profile.iter().map(line).fold(0.0, f64::max)
}
