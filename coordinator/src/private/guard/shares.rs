//! Where clients add the noise together: integers of a ring are added up, and a sum of too few of them is
//! not released, since its noise would be less than was paid for.

use super::{Guard, Sum};
use algorithms::Vectors;
use privacy::{
    rotation::Rotation,
    shares::{Impossible, Shares},
};
use proto::v1::RejectReason;

pub(super) fn add(shares: &Shares, sum: &mut [i64], values: &[f32]) -> Result<(), (RejectReason, String)> {
    shares.add(sum, values).map_err(|error| {
        let reason = match error {
            Impossible::NotInRing { value, .. } if !value.is_finite() => RejectReason::NotFinite,
            Impossible::NotInRing { .. } => RejectReason::Range,
            Impossible::TooLong { .. } => RejectReason::Norm,
        };
        (reason, error.to_string())
    })
}

impl Guard {
    /// Whether the noise comes with the updates.
    pub fn has_shares(&self) -> bool {
        self.plan.shares.is_some()
    }

    /// Closes a round of noise shares: the means of the folds, of the learning rate `lr`. A function of its
    /// arguments.
    ///
    /// # Errors
    /// If there are fewer updates than pay for the noise, or more than the ring holds.
    pub fn release_shares(&self, sum: &Sum, lr: f32, rotation: Rotation) -> Result<Vectors, String> {
        let shares = sum.shares.as_ref().ok_or("these updates carry no noise shares")?;
        let (count, least, most) = (sum.count as u64, shares.least().get(), shares.most().get());
        if count < least {
            return Err(format!(
                "{count} noise shares arrived, at least {least} (`privacy.least_shares`) make a sum private: it \
                 is not released"
            ));
        }
        if count > most {
            return Err(format!(
                "{count} updates, the ring was planned for {most}: state the true `cohort.population`"
            ));
        }
        Ok(self.fold(&shares.decode(&sum.quanta, rotation), 1.0, lr, |x| f64::from(*x)))
    }
}
