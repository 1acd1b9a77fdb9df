//! Distributed differential privacy under secure aggregation: bounds for sums of integer noise
//! shares, and the norm and scale of rounded contributions (Kairouz, Liu and Steinke 2021; Agarwal,
//! Kairouz and Liu 2021).

use crate::Mechanism;

/// Divergences of whole orders of Skellam noise or of discrete Gaussian shares, for a change of `far`
/// norms of one contribution.
pub(crate) fn divergence(mechanism: &Mechanism, far: f64) -> Option<Box<dyn Fn(u32) -> f64>> {
    match *mechanism {
        Mechanism::Skellam { variance, l1, l2 } => {
            let (variance, l1, l2) = (variance.get(), far * l1.get(), far * l2.get());
            Some(Box::new(move |order| skellam(variance, (l1, l2), f64::from(order))))
        }
        Mechanism::DistributedDiscreteGaussian { shares, deviation, dimensions, l1, l2 } => {
            let scale = (shares.get() as f64).sqrt() * deviation.get();
            let (l1, l2) = (far * l1.get() / scale, far * l2.get() / scale);
            let (tau, dimensions) = (tau(shares.get(), deviation.get()), dimensions.get() as f64);
            Some(Box::new(move |order| discrete_gaussian(tau, dimensions, (l1, l2), f64::from(order))))
        }
        _ => None,
    }
}

/// Skellam noise (Agarwal, Kairouz and Liu 2021, theorem 3.5), for whole orders.
fn skellam(variance: f64, (l1, l2): (f64, f64), order: f64) -> f64 {
    let square = l2 * l2;
    let gap = ((2.0 * order - 1.0) * square + 6.0 * l1) / (4.0 * variance * variance);
    0.5 * order * square / variance + gap.min(1.5 * l1 / variance)
}

/// How far a sum of discrete Gaussian shares is from a discrete Gaussian, per dimension:
/// `10 Σ_{k<n} e^{-2π²σ²k/(k+1)}` (Kairouz, Liu and Steinke 2021, theorem 1).
///
/// It explodes for σ below 1 and is below 1e-16 from σ = 2.
pub fn tau(shares: u64, deviation: f64) -> f64 {
    let rate = 2.0 * std::f64::consts::PI.powi(2) * deviation * deviation;
    let term = |k: u64| (-rate * (k as f64 / (k + 1) as f64)).exp();
    10.0 * (1..shares).map(term).sum::<f64>()
}

/// The least of the three bounds of theorem 1; norms in units of the whole noise.
fn discrete_gaussian(tau: f64, dimensions: f64, (l1, l2): (f64, f64), order: f64) -> f64 {
    let half = 0.5 * order;
    let additive = half * l2 * l2 + tau * dimensions;
    let cross = half * (l2 * l2 + 2.0 * l1 * tau + tau * tau * dimensions);
    let norms = half * (l2 + dimensions.sqrt() * tau).powi(2);
    additive.min(cross).min(norms)
}

/// The largest L2 norm of a vector of norm `l2` and length `dimensions` after conditional stochastic
/// rounding to integers: redraw until this holds, which fails with a probability below `beta` each
/// time (Kairouz, Liu and Steinke 2021, proposition 22). `beta` 0 gives the bound of any rounding.
pub fn rounded_norm(l2: f64, dimensions: u64, beta: f64) -> f64 {
    let root = (dimensions as f64).sqrt();
    let always = l2 + root;
    if beta <= 0.0 {
        return always;
    }
    let likely = l2 * l2 + 0.25 * dimensions as f64 + (-2.0 * beta.ln()).sqrt() * (l2 + 0.5 * root);
    always.min(likely.sqrt())
}

/// The largest L1 norm of an integer vector of L2 norm `l2`: `l2·min(√dimensions, l2)`.
pub fn integer_l1(l2: f64, dimensions: u64) -> f64 {
    l2 * (dimensions as f64).sqrt().min(l2)
}
