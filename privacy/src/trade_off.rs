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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accountant, Adjacency, Event, Ledger, Mechanism, NoiseMultiplier, Sampling, Unit};

    const ERRORS: [f64; 7] = [1e-6, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999];

    #[test]
    fn the_curve_of_gaussian_noise_is_convex_and_its_own_inverse() {
        for mu in [0.1, 1.0, 4.0] {
            let mu = Mu::new(mu).unwrap();
            assert_eq!((gaussian(mu, 0.0), gaussian(mu, 1.0)), (1.0, 0.0));
            for a in ERRORS {
                let b = gaussian(mu, a);
                assert!((gaussian(mu, b) / a - 1.0).abs() < 1e-6, "{mu:?} {a} {b}");
                assert!(b <= 1.0 - a);
            }
        }
        let none = Mu::new(0.0).unwrap();
        assert!(ERRORS.iter().all(|a| (gaussian(none, *a) - (1.0 - a)).abs() < 1e-12));
    }

    /// Each point of the privacy profile, which other code computes, is a tangent.
    #[test]
    fn points_of_the_profile_touch_the_curve() {
        let (z, rate) = (0.8, Probability::new(0.2).unwrap());
        let mut ledger = Ledger::new(Unit::Record, Adjacency::AddRemove);
        let mechanism = Mechanism::Gaussian { noise_multiplier: NoiseMultiplier::new(z).unwrap() };
        let sampling = Sampling::Poisson { rate };
        ledger.record(Event { mechanism, sampling, count: std::num::NonZeroU64::MIN }).unwrap();
        let curve = |a: f64| sampled_gaussian(rate, Mu::new(1.0 / z).unwrap(), a);
        for a in ERRORS {
            assert!((curve(curve(a)) / a - 1.0).abs() < 1e-6, "{a}");
        }
        for epsilon in [0.1, 0.5] {
            let delta = Accountant::Pld.delta(&ledger, epsilon, 1).unwrap();
            let above = (1..1000).map(|i| {
                let a = f64::from(i) / 1000.0;
                from_profile(&[(epsilon, delta)], a) - curve(a)
            });
            let most = above.fold(f64::NEG_INFINITY, f64::max);
            assert!(most <= 1e-9 && most > -1e-3, "{epsilon} {delta}: {most}");
        }
    }
}
