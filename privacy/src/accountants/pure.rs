//! Pure differential privacy: ε adds up, and holds at δ = 0 (Dwork and Roth 2014, theorem 3.16).

use crate::{Ledger, Mechanism, Sampling};

/// The sum of the ledger's pure ε for groups of `group` units, or `None` if an event has none.
///
/// Poisson sampling amplifies to `ln(1 + q(e^ε − 1))` (Balle, Barthe and Gaboardi 2018, theorem 8),
/// for adding and removing; a replacement is counted without amplification.
pub fn epsilon(ledger: &Ledger, group: u32) -> Option<f64> {
    let mut sum = 0.0;
    let moves = ledger.adjacency().moves();
    for (event, count) in ledger.merged() {
        let one = match event.mechanism {
            Mechanism::Laplace { noise_multiplier } => moves / noise_multiplier.get(),
            Mechanism::DiscreteLaplace { rate, sensitivity } => moves * rate.get() * sensitivity.get() as f64,
            Mechanism::RandomizedResponse { noise, categories } => {
                let k = f64::from(u32::from(categories));
                (k * (1.0 - noise.get()) / noise.get()).ln_1p()
            }
            _ => return None,
        };
        let amplified = match event.sampling {
            Sampling::Poisson { rate } if moves == 1.0 => (rate.get() * one.exp_m1()).ln_1p(),
            _ => one,
        };
        sum += count * amplified;
    }
    Some(sum * f64::from(group))
}

/// What an (ε, δ) guarantee for one unit means for a group of `size` units that it was not made for:
/// `(kε, δ·(e^{kε} − 1)/(e^ε − 1))` (Dwork and Roth 2014, theorem 2.2, summed exactly).
pub fn group(epsilon: f64, delta: f64, size: u32) -> (f64, f64) {
    let k = f64::from(size);
    let factor = if epsilon == 0.0 { k } else { (k * epsilon).exp_m1() / epsilon.exp_m1() };
    (k * epsilon, (delta * factor).min(1.0))
}
