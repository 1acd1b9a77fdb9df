//! What lying workers send, for tests and simulation: a vector made of what the honest ones would have
//! sent. Flipped labels are an attack on data and are not here.

use serde::{Deserialize, Serialize};

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attack {
    /// `−scale · own`.
    SignFlip {
        /// How much stronger than the own update.
        scale: f64,
    },
    /// `factor · own`.
    Scaled {
        /// The factor.
        factor: f64,
    },
    /// A little is enough: `mean − z · sd` of the honest updates in each coordinate, which hides in their
    /// spread (Baruch, Baruch and Goldberg 2019, arXiv:1902.06156).
    Alie {
        /// z; absent: the largest that a majority still covers, from the numbers of workers.
        #[serde(default)]
        z: Option<f64>,
    },
    /// Inner-product manipulation: `−epsilon · mean` of the honest updates (Xie, Koyejo and Gupta 2019,
    /// arXiv:1903.03936).
    InnerProduct {
        /// ε; a small one passes distance checks, a large one overwhelms a mean.
        epsilon: f64,
    },
}

impl Attack {
    /// What each of `liars` lying workers sends. `own` is its own honest update; `honest` are those of
    /// the others, for attacks that conspire (empty: its own alone).
    ///
    /// # Panics
    /// If lengths differ.
    pub fn forge(&self, own: &[f32], honest: &[&[f32]], liars: usize) -> Vec<f32> {
        let honest = if honest.is_empty() { &[own][..] } else { honest };
        assert!(honest.iter().all(|update| update.len() == own.len()), "attack: lengths differ");
        let moments = |at: usize| {
            let count = honest.len() as f64;
            let mean = honest.iter().map(|update| f64::from(update[at])).sum::<f64>() / count;
            let square = |update: &&[f32]| (f64::from(update[at]) - mean) * (f64::from(update[at]) - mean);
            (mean, (honest.iter().map(square).sum::<f64>() / count).sqrt())
        };
        let z = match *self {
            Self::Alie { z } => z.unwrap_or_else(|| little_enough(honest.len() + liars, liars)),
            _ => 0.0,
        };
        let forged = |at: usize| match *self {
            Self::SignFlip { scale } => -scale * f64::from(own[at]),
            Self::Scaled { factor } => factor * f64::from(own[at]),
            Self::Alie { .. } => {
                let (mean, deviation) = moments(at);
                mean - z * deviation
            }
            Self::InnerProduct { epsilon } => -epsilon * moments(at).0,
        };
        (0..own.len()).map(|at| forged(at) as f32).collect()
    }
}

/// The largest z with which `liars` of `workers` look like a part of the majority: with
/// `s = ⌊n/2 + 1⌋ − m` honest supporters, `Φ(z) = (n − m − s)/(n − m)`.
pub fn little_enough(workers: usize, liars: usize) -> f64 {
    let (n, m) = (workers as f64, liars as f64);
    let supporters = ((n / 2.0 + 1.0).floor() - m).max(0.0);
    quantile(((n - m - supporters) / (n - m).max(1.0)).clamp(0.0, 1.0 - 1e-9))
}

/// `Φ⁻¹(p)`, not below 0, by bisection.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let below = 0.5 * libm::erfc(-middle / std::f64::consts::SQRT_2);
        if below < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
