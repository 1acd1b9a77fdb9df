//! What an update counts that was trained on an old model, for asynchronous rounds.
//!
//! `τ` is the number of server versions between the model that the worker trained on and the one that
//! its update meets. FedAsync (Xie, Koyejo and Gupta 2019, arXiv:1903.03934) mixes each local model in as
//! it comes, `w ← (1 − α s(τ)) w + α s(τ) w_i`; FedBuff (Nguyen et al. 2022, arXiv:2106.06639) buffers
//! `s(τ) Δ_i` and moves the model by their mean over the buffer, once it is full.

use crate::Scalar;
use serde::{Deserialize, Serialize};

/// `s(τ)`: 1 for a fresh update, never more for an older one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Staleness {
    /// 1.
    Constant {},
    /// `(1 + τ)^−exponent`; FedBuff has 1/2, and so has FedAsync.
    Polynomial {
        /// At least 0.
        #[serde(default = "half")]
        exponent: f64,
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
        Self::Polynomial { exponent: half() }
    }
}

fn half() -> f64 {
    0.5
}

impl Staleness {
    /// `s(τ)`.
    pub fn weight(&self, staleness: u64) -> f64 {
        let tau = staleness as f64;
        match *self {
            Self::Constant {} => 1.0,
            Self::Polynomial { exponent } => libm::pow(1.0 + tau, -exponent.max(0.0)),
            Self::Hinge { a, b } => 1.0 / (1.0 + a.max(0.0) * staleness.saturating_sub(b) as f64),
        }
    }

    /// Which key is out of its range, and what would be right.
    ///
    /// # Errors
    /// If a number is negative or not finite.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let (key, value) = match *self {
            Self::Constant {} => return Ok(()),
            Self::Polynomial { exponent } => ("exponent", exponent),
            Self::Hinge { a, .. } => ("a", a),
        };
        if value.is_finite() && value >= 0.0 { Ok(()) } else { Err((key, "a finite number of at least 0")) }
    }
}

/// FedAsync's step as a change of the present model `w`: `change` comes as `Δ = w_i − base`, where `base`
/// is the model that the worker trained on, and leaves as `share · (w_i − w)`, so that `w + change` is the
/// mix `(1 − share) w + share · w_i`. Written as `share · (Δ + (base − w))`: for a fresh update and a share
/// of 1 it is `Δ`, to the bit.
///
/// # Panics
/// If lengths differ.
pub fn mix<S: Scalar>(change: &mut [S], base: &[S], w: &[S], share: S) {
    assert_eq!((change.len(), base.len()), (w.len(), w.len()), "mix: lengths differ");
    for ((change, base), w) in change.iter_mut().zip(base).zip(w) {
        *change = share * (*change + (*base - *w));
    }
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
        assert_eq!(Staleness::Polynomial { exponent: 1.0 }.weight(3), 0.25);
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
    fn a_mix_lies_between_the_two_models() {
        let (base, w) = ([1.0_f64, -2.0, 0.5], [1.5, -1.0, 0.25]);
        let mut change = [0.5, 0.25, -1.0];
        let local: Vec<f64> = change.iter().zip(&base).map(|(change, base)| base + change).collect();
        mix(&mut change, &base, &w, 0.25);
        for ((change, w), local) in change.iter().zip(&w).zip(&local) {
            assert!((w + change - (0.75 * w + 0.25 * local)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_whole_fresh_share_is_the_update_itself() {
        let base: Vec<f32> = (0..999).map(|k| (k as f32 * 0.37).sin() * 1e3).collect();
        let change: Vec<f32> = (0..999).map(|k| (k as f32 * 1.37).cos() * 1e-5).collect();
        let mut mixed = change.clone();
        mix(&mut mixed, &base, &base, 1.0);
        assert_eq!(mixed, change);
    }
}
