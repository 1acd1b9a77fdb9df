//! What a private run tells of its rounds beside the model, where it pays for that.

use super::{Guard, Secret, Sum, known_sampler};
use privacy::{metrics::Told, sampler::Kind};

/// Vectors of a release.
const PARTICIPANTS: u32 = 2;
const LOSS: u32 = 3;

impl Guard {
    /// Counts the training loss of an update that was added to a sum, if that is paid for.
    pub fn count(&self, sum: &mut Sum, loss: Option<f64>) {
        if let Some(metrics) = self.spec.metrics() {
            metrics.count(&mut sum.tally, loss);
        }
    }

    /// What may be told of a round, with noise. A function of its arguments, as the release of the sum.
    ///
    /// # Errors
    /// If the noise is out of the sampler's bounds.
    pub fn tell(&self, sum: &Sum, round: u64, secret: &Secret) -> Result<Option<Told>, String> {
        let Some(metrics) = self.spec.metrics() else { return Ok(None) };
        let variance = metrics.variance(self.plan.noise_multiplier).map_err(|error| error.to_string())?;
        let sampler = known_sampler(Kind::Rounded, variance)?;
        let key = secret.noise(round, &sum.tally.numbers());
        let streams = [&mut key.stream(PARTICIPANTS, 0), &mut key.stream(LOSS, 0)];
        Ok(Some(metrics.tell(sum.tally, &sampler, streams)))
    }
}
