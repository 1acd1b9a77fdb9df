//! The published formulas, for comparison only: (a), (b) and FedProx are below what a run can leak.
//!
//! "Convergent Differential Privacy Analysis for General Federated Learning: the f-DP Perspective"
//! (arXiv 2408.15621), theorems 3 and 4. Never account with them.

use super::{Local, Schedule};
use crate::Positive;

/// μ of theorem 3 for a schedule. `None` for the continuous schedule, whose constant z is not one.
///
/// (a) and (b) (constant, cyclic) are false as stated; (c) (stage) holds, since it is above composition.
pub fn fed_avg(local: Local, schedule: Schedule, noise: Positive, rounds: u32) -> Option<f64> {
    let (steps, clients, t) = (f64::from(local.steps), f64::from(local.clients), f64::from(rounds));
    let scale = 2.0 * local.clip.get() / (clients.sqrt() * noise.get());
    let smooth = local.learning_rate.get() * local.smoothness.get();
    match schedule {
        Schedule::Constant => {
            let ln_growth = steps * smooth.ln_1p();
            Some(scale * local.learning_rate.get() * steps * saturating(ln_growth, t))
        }
        Schedule::Cyclic => {
            let harmonic: f64 = (1..=local.steps).map(|k| 1.0 / f64::from(k)).sum();
            Some(scale * local.learning_rate.get() * harmonic * saturating(harmonic * smooth, t))
        }
        Schedule::Stage => Some(scale * local.learning_rate.get() * steps * (2.0 - 1.0 / t).sqrt()),
        Schedule::Continuous => None,
    }
}

/// `√((R + 1)/(R − 1)·(R^T − 1)/(R^T + 1))` for `R = e^{ln_growth}`.
fn saturating(ln_growth: f64, rounds: f64) -> f64 {
    ((0.5 * ln_growth * rounds).tanh() / (0.5 * ln_growth).tanh()).sqrt()
}

/// μ of theorem 4 for FedProx with the proximal weight `alpha`, which is false as stated.
pub fn fed_prox(local: Local, alpha: Positive, noise: Positive, rounds: u32) -> f64 {
    let (alpha, smoothness) = (alpha.get(), local.smoothness.get());
    let scale = 2.0 * local.clip.get() / (f64::from(local.clients).sqrt() * alpha * noise.get());
    let ln_growth = (alpha / (alpha - smoothness)).ln();
    let limit = (2.0 * alpha - smoothness) / smoothness;
    scale * (limit * (0.5 * ln_growth * f64::from(rounds)).tanh()).sqrt()
}
