//! Zero-concentrated differential privacy (Bun and Steinke 2016): one number ρ per event, which adds
//! up, also when each event is chosen after seeing the earlier ones.

use crate::{Ledger, Mechanism, numeric::search::minimise, strategy::correlated_mu};

/// ρ of one application of an event, or `None` if none is known. Sampling is not counted: zCDP is not
/// amplified by it.
pub(crate) fn event_rho(mechanism: &Mechanism, moves: f64) -> Option<f64> {
    let square = moves * moves;
    match mechanism {
        Mechanism::Gaussian { noise_multiplier } | Mechanism::Laplace { noise_multiplier } => {
            Some(0.5 * square / noise_multiplier.get().powi(2))
        }
        Mechanism::DiscreteGaussian { deviation, sensitivity, .. } => {
            Some(0.5 * square * (sensitivity.get() as f64 / deviation.get()).powi(2))
        }
        Mechanism::DiscreteLaplace { rate, sensitivity } => {
            Some(0.5 * square * (rate.get() * sensitivity.get() as f64).powi(2))
        }
        Mechanism::RandomizedResponse { noise, categories } => {
            let k = f64::from(u32::from(*categories));
            Some(0.5 * (k * (1.0 - noise.get()) / noise.get()).ln_1p().powi(2))
        }
        Mechanism::Correlated { .. } => correlated_mu(mechanism).map(|mu| 0.5 * square * mu * mu),
        Mechanism::Skellam { .. } | Mechanism::DistributedDiscreteGaussian { .. } => None,
    }
}

/// ρ of a ledger for groups of `group` units (a factor `group²`), or `None` if an event has none.
pub fn rho(ledger: &Ledger, group: u32) -> Option<f64> {
    let moves = ledger.adjacency().moves();
    let parts = ledger.merged().into_iter();
    let sum =
        parts.map(|(event, count)| Some(count * event_rho(&event.mechanism, moves)?)).sum::<Option<f64>>()?;
    Some(sum * f64::from(group).powi(2))
}

/// The least ε that the conversion of Rényi divergences gives for ρ (Canonne, Kamath and Steinke
/// 2020, proposition 12).
pub fn epsilon(rho: f64, delta: f64) -> f64 {
    if rho == 0.0 {
        return 0.0;
    }
    if delta <= 0.0 {
        return f64::INFINITY;
    }
    let at = |ln_less: f64| {
        let order = 1.0 + ln_less.exp();
        super::rdp::to_epsilon(rho * order, order, delta)
    };
    minimise(-4.6, 30.0, 1e-9, at).1.max(0.0)
}

/// `ρ + 2√(ρ ln 1/δ)` (Bun and Steinke 2016, proposition 1.3).
pub fn simple_epsilon(rho: f64, delta: f64) -> f64 {
    rho + 2.0 * (-rho * delta.ln()).sqrt()
}
