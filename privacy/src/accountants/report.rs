//! All accountants over one ledger, and the least ε among those that are sound for it.

use serde::{Deserialize, Serialize};

use super::{contour, gaussian, pld, pure, rdp};
use crate::Ledger;

/// The name of an accountant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accountant {
    /// Sum of pure ε.
    Pure,
    /// Closed form for Gaussian ledgers.
    Gaussian,
    /// Rényi divergences.
    Rdp,
    /// Integration in the complex plane.
    Contour,
    /// Privacy loss distribution on a grid.
    Pld,
}

impl Accountant {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 5] = [Self::Pure, Self::Gaussian, Self::Rdp, Self::Contour, Self::Pld];

    /// Its name, as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Gaussian => "gaussian",
            Self::Rdp => "rdp",
            Self::Contour => "contour",
            Self::Pld => "pld",
        }
    }

    /// ε of a ledger at δ, for groups of `group` units; 1 for the unit itself.
    ///
    /// # Errors
    /// If this accountant makes no sound statement about the ledger.
    pub fn epsilon(self, ledger: &Ledger, delta: f64, group: u32) -> Result<f64, Refusal> {
        match self {
            Self::Pure => pure::epsilon(ledger, group).ok_or(Refusal::NotPure),
            Self::Gaussian => Ok(gaussian::mu(ledger, group).ok_or(Refusal::NotGaussian)?.epsilon(delta)),
            Self::Rdp => rdp::epsilon(ledger, delta, group).map(|best| best.epsilon),
            Self::Contour => contour::epsilon(ledger, delta, group),
            Self::Pld => pld::epsilon(ledger, delta, group),
        }
    }

    /// δ of a ledger at ε, for groups of `group` units.
    ///
    /// # Errors
    /// As [`Accountant::epsilon`].
    pub fn delta(self, ledger: &Ledger, epsilon: f64, group: u32) -> Result<f64, Refusal> {
        match self {
            Self::Pure => {
                let pure = pure::epsilon(ledger, group).ok_or(Refusal::NotPure)?;
                Ok(if pure <= epsilon { 0.0 } else { 1.0 })
            }
            Self::Gaussian => Ok(gaussian::mu(ledger, group).ok_or(Refusal::NotGaussian)?.delta(epsilon)),
            Self::Rdp => rdp::delta(ledger, epsilon, group),
            Self::Contour => contour::delta(ledger, epsilon, group),
            Self::Pld => pld::delta(ledger, epsilon, group),
        }
    }
}

/// Why an accountant makes no statement.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Only a δ above 0 has a finite ε.
    #[error("δ is 0, for which this accountant has no finite ε")]
    DeltaZero,
    /// Not every event has a pure ε.
    #[error("an event has no pure ε")]
    NotPure,
    /// Not every event is Gaussian on everyone.
    #[error("an event is not a Gaussian mechanism on everyone")]
    NotGaussian,
    /// Only bounds of its moments are known for an event.
    #[error("an event has no known pair of worst distributions")]
    NoDominatingPair,
    /// No group form is known for an event.
    #[error("no form for groups is known for an event")]
    Group,
    /// Single values of every loss have a mass of their own.
    #[error("no event has a loss without atoms, so that its transform does not decay")]
    DiscreteLoss,
    /// The integral did not settle.
    #[error("the integral did not converge")]
    NotConverged,
    /// The tails that are cut off weigh as much.
    #[error("δ is smaller than what double precision keeps of the tails")]
    TooSmall,
    /// The losses of so many events do not stay on a grid.
    #[error("the finest grid is too coarse for so many events")]
    TooCoarse,
    /// An order of a Rényi divergence.
    #[error("the order is {0}, expected a number above 1")]
    Order(f64),
}

/// ε of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// ε; infinite if the ledger has none at this δ.
    pub epsilon: f64,
    /// Who says so.
    pub accountant: Accountant,
}

/// The least sound ε at δ for groups of `group` units.
///
/// The closed form is exact where it exists, and so is the contour: the grid is not asked then.
pub fn epsilon(ledger: &Ledger, delta: f64, group: u32) -> Report {
    let (epsilon, accountant) = least(|accountant| accountant.epsilon(ledger, delta, group));
    Report { epsilon, accountant }
}

/// The least sound δ at ε for groups of `group` units, and the accountant.
pub fn delta(ledger: &Ledger, epsilon: f64, group: u32) -> (f64, Accountant) {
    let (delta, accountant) = least(|accountant| accountant.delta(ledger, epsilon, group));
    (delta.min(1.0), accountant)
}

fn least(ask: impl Fn(Accountant) -> Result<f64, Refusal>) -> (f64, Accountant) {
    let mut best = (f64::INFINITY, Accountant::Rdp);
    for accountant in Accountant::ALL {
        let Ok(value) = ask(accountant) else { continue };
        if value < best.0 {
            best = (value, accountant);
        }
        if matches!(accountant, Accountant::Gaussian | Accountant::Contour) {
            break;
        }
    }
    best
}
