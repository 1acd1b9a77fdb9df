//! What a run file promises where clients add the noise together, and what they send then.

use super::{RunSpec, SpecError, check::require};
use algorithms::{Algorithm, fold::Fold, seed};
use privacy::rotation::{Rotation, padded};

/// The one vector of an upload of noise shares: integers of a ring.
pub const SHARES: &str = "shares";

impl RunSpec {
    /// Whether clients add the noise together.
    pub fn has_shares(&self) -> bool {
        self.privacy.as_ref().is_some_and(|privacy| privacy.mechanism().law().is_some())
    }

    /// Names and lengths of the vectors that a worker sends, in order, for a model of `length` scalars.
    pub fn upload(&self, algorithm: &dyn Algorithm, length: usize) -> Vec<(&'static str, usize)> {
        let shapes = algorithm.upload(length);
        if self.has_shares() {
            vec![(SHARES, padded(shapes.iter().map(|(_, length)| length).sum()))]
        } else {
            shapes
        }
    }

    /// What is folded out of an upload as it arrives, as the combiner weighs it: nothing of noise shares, of which
    /// only the sum counts.
    pub fn folds(&self, algorithm: &dyn Algorithm) -> Vec<Fold> {
        if self.has_shares() { Vec::new() } else { self.weighed(algorithm.folds()) }
    }

    /// The public rotation of a round.
    pub fn rotation(&self, round: u64) -> Rotation {
        Rotation::new(seed::derive(self.seed, "rotation", &[round]))
    }

    pub(super) fn check_shares(&self, privacy: &privacy::PrivacySpec) -> Result<(), SpecError> {
        let Some(least) = privacy.least_shares() else { return Ok(()) };
        let cohort = &self.cohort;
        require(cohort.min_updates as u64 >= least.get(), "cohort.min_updates", || {
            format!(
                "{} is below `privacy.least_shares`, {least}: a round with fewer noise shares would not be as \
                 private as promised; expected at least {least}, and one more for each client that may be \
                 curious about the others",
                cohort.min_updates
            )
        })?;
        require(self.expected_clients() >= cohort.min_updates as f64, "cohort.min_updates", || {
            format!("a cohort of {} has never so many updates", self.expected_clients())
        })?;
        require(self.vetting.max_norm.is_none(), "vetting.max_norm", || {
            "what arrives are integers with noise, which are checked against what noise can be; leave the key out"
                .into()
        })
    }
}
