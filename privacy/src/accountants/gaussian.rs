//! Gaussian differential privacy in closed form (Dong, Roth and Su 2022; Balle and Wang 2018).
//!
//! A ledger that holds Gaussian mechanisms on everyone only is one Gaussian mechanism, and its ε is
//! exact: no other accountant can do better.

use crate::{
    Ledger, Mechanism, NoiseMultiplier, ParameterError, Sampling,
    numeric::{
        search::bisect,
        special::{LN_SQRT_TAU, ln_normal_cdf},
    },
    strategy::correlated_mu,
};

/// Below this μ the difference of two logarithms would lose digits that ε needs: it is integrated.
const SMALL: f64 = 1e-3;
/// Gauss–Legendre nodes and weights on [−1, 1].
const GAUSS_3: [(f64, f64); 3] = [
    (-0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
    (0.0, 0.888_888_888_888_889),
    (0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
];

/// The derivative of ln Φ.
fn hazard(x: f64) -> f64 {
    (-0.5 * x * x - LN_SQRT_TAU - ln_normal_cdf(x)).exp()
}

/// μ of a Gaussian mechanism: its trade-off function is `G_μ(a) = Φ(Φ⁻¹(1 − a) − μ)`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Mu(f64);

impl Mu {
    /// A finite number from 0.
    ///
    /// # Errors
    /// If it is not.
    pub fn new(mu: f64) -> Result<Self, ParameterError> {
        crate::parameters::require(mu.is_finite() && mu >= 0.0, "mu", mu, "a finite number from 0")?;
        Ok(Self(mu))
    }

    /// μ.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Several mechanisms in a row: `√Σ μ²` (Dong, Roth and Su 2022, corollary 3.3).
    pub fn composed(parts: &[Self]) -> Self {
        Self(parts.iter().map(|mu| mu.0 * mu.0).sum::<f64>().sqrt())
    }

    /// For groups of `size` units (theorem 2.14).
    #[must_use]
    pub fn group(self, size: u32) -> Self {
        Self(self.0 * f64::from(size))
    }

    /// The privacy profile `δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)` (corollary 2.13).
    pub fn delta(self, epsilon: f64) -> f64 {
        self.ln_delta(epsilon).exp()
    }

    fn ln_delta(self, epsilon: f64) -> f64 {
        if self.0 == 0.0 {
            return f64::NEG_INFINITY;
        }
        let (middle, half) = (-epsilon / self.0, 0.5 * self.0);
        let upper = ln_normal_cdf(middle + half);
        let gap = if self.0 < SMALL {
            self.0
                * GAUSS_3
                    .iter()
                    .map(|(node, weight)| 0.5 * weight * hazard(middle + half * node))
                    .sum::<f64>()
        } else {
            upper - ln_normal_cdf(middle - half)
        };
        upper + (-(epsilon - gap).exp_m1()).ln()
    }

    /// The least ε ≥ 0 with `δ(ε) ≤ delta`; infinite for δ = 0 and μ > 0.
    pub fn epsilon(self, delta: f64) -> f64 {
        if self.0 == 0.0 || delta >= self.delta(0.0) {
            return 0.0;
        }
        if delta <= 0.0 {
            return f64::INFINITY;
        }
        let most = self.0 * (0.5 * self.0 + (-2.0 * delta.ln()).sqrt());
        bisect(0.0, most, 200, |epsilon| self.ln_delta(epsilon) > delta.ln()).1
    }
}

/// μ of a ledger of Gaussian mechanisms on everyone for groups of `group` units, or `None` if it
/// holds anything else.
pub fn mu(ledger: &Ledger, group: u32) -> Option<Mu> {
    let mut square = 0.0;
    for (event, count) in ledger.merged() {
        let mu = match (&event.mechanism, event.sampling) {
            (Mechanism::Gaussian { noise_multiplier }, Sampling::Everyone) => 1.0 / noise_multiplier.get(),
            (Mechanism::Gaussian { noise_multiplier }, Sampling::Poisson { rate }) if rate.get() == 1.0 => {
                1.0 / noise_multiplier.get()
            }
            (mechanism, _) => correlated_mu(mechanism)?,
        };
        square += count * mu * mu;
    }
    Some(Mu(square.sqrt() * ledger.adjacency().moves() * f64::from(group)))
}

/// The least noise multiplier of one Gaussian mechanism for `(epsilon, delta)` when one contribution
/// is added or removed (Balle and Wang 2018, algorithm 1).
///
/// # Errors
/// If no multiplier within the bounds of [`NoiseMultiplier`] suffices or is needed.
pub fn noise(budget: crate::Budget) -> Result<NoiseMultiplier, ParameterError> {
    let short = |ln_z: f64| Mu((-ln_z).exp()).delta(budget.epsilon()) > budget.delta();
    let (_, ln_z) = bisect(1e-3_f64.ln(), 1e9_f64.ln(), 200, short);
    NoiseMultiplier::new(if short(ln_z) { f64::INFINITY } else { ln_z.exp() })
}
