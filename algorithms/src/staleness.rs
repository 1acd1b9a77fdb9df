//! What an update counts that was trained on an old model, for asynchronous rounds.
//!
//! `τ` is the number of server versions between the model that the worker trained on and the one that
//! its update meets. FedAsync (Xie, Koyejo and Gupta 2019, arXiv:1903.03934) mixes each local model in as
//! it comes, `w ← (1 − α s(τ)) w + α s(τ) w_i`; FedBuff (Nguyen et al. 2022, arXiv:2106.06639) buffers
//! `s(τ) Δ_i` and moves the model by their mean over the buffer, once it is full.

use serde::{Deserialize, Serialize};

/// `s(τ)`: 1 for a fresh update, never more for an older one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Staleness {
    /// 1.
    Constant {},
    /// `(1 + τ)^−a`; FedBuff has `a = 1/2`.
    Polynomial {
        /// At least 0.
        a: f64,
    },
    /// 1 up to `b`, then `1 / (1 + a (τ − b))`.
    Hinge {
        /// At least 0.
        a: f64,
        /// Versions that cost nothing.
        b: u64,
    },
}

impl Default for Staleness {
    fn default() -> Self {
        Self::Polynomial { a: 0.5 }
    }
}

impl Staleness {
    /// `s(τ)`.
    pub fn weight(&self, staleness: u64) -> f64 {
        let tau = staleness as f64;
        match *self {
            Self::Constant {} => 1.0,
            Self::Polynomial { a } => libm::pow(1.0 + tau, -a.max(0.0)),
            Self::Hinge { a, b } => 1.0 / (1.0 + a.max(0.0) * staleness.saturating_sub(b) as f64),
        }
    }

    /// `α s(τ)`, FedAsync's share of the local model.
    pub fn mixing(&self, alpha: f64, staleness: u64) -> f64 {
        (alpha * self.weight(staleness)).clamp(0.0, 1.0)
    }
}

/// FedBuff's mean of a full buffer: the sum of `s(τ_i) Δ_i` over the *number* of updates, so that old
/// updates move the model less instead of only less than the others.
///
/// # Panics
/// If lengths differ.
pub fn buffered(staleness: Staleness, updates: &[(&[f32], u64)]) -> Vec<f32> {
    let mut mean = vec![0.0; updates.first().map_or(0, |(update, _)| update.len())];
    for (update, tau) in updates {
        crate::axpy(&mut mean, (staleness.weight(*tau) / updates.len() as f64) as f32, update);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_hand() {
        assert_eq!(Staleness::Constant {}.weight(9), 1.0);
        assert!((Staleness::default().weight(3) - 0.5).abs() < 1e-12);
        let hinge = Staleness::Hinge { a: 10.0, b: 4 };
        assert_eq!([0, 4, 5].map(|tau| hinge.weight(tau)), [1.0, 1.0, 1.0 / 11.0]);
        assert!((Staleness::default().mixing(0.6, 3) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn older_updates_never_count_more() {
        for staleness in [Staleness::Constant {}, Staleness::default(), Staleness::Hinge { a: 0.5, b: 2 }] {
            let weights: Vec<f64> = (0..50).map(|tau| staleness.weight(tau)).collect();
            assert_eq!(weights[0], 1.0);
            assert!(weights.is_sorted_by(|a, b| a >= b && *b > 0.0), "{staleness:?}");
        }
    }

    #[test]
    fn a_buffer_of_fresh_updates_is_their_mean() {
        let (one, two): (&[f32], &[f32]) = (&[1.0, 2.0], &[3.0, 4.0]);
        assert_eq!(buffered(Staleness::default(), &[(one, 0), (two, 0)]), [2.0, 3.0]);
        assert_eq!(buffered(Staleness::default(), &[(one, 3), (two, 3)]), [1.0, 1.5]);
        assert!(buffered(Staleness::default(), &[]).is_empty());
    }
}
