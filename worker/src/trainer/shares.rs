//! Where clients add the noise together: an upload leaves the worker as integers with its share of the noise,
//! and never without.

use super::TrainError;
use algorithms::{Algorithm, Vectors};
use privacy::{
    sampler::ReleaseKey,
    shares::{Noise, Shares},
};
use proto::spec::{RunSpec, SHARES};
use std::sync::Arc;

/// What a run's shares are made with.
#[derive(Debug, Clone)]
pub struct ShareMaker {
    spec: Arc<RunSpec>,
    shares: Shares,
    noise: Noise,
}

impl ShareMaker {
    /// That of a run, for a model of `length` scalars; `None` if its clients add no noise.
    ///
    /// # Errors
    /// If no noise keeps what the run promises.
    pub fn of(
        spec: &Arc<RunSpec>,
        algorithm: &dyn Algorithm,
        length: usize,
    ) -> Result<Option<Self>, TrainError> {
        let Some(privacy) = spec.privacy.as_ref().filter(|_| spec.has_shares()) else { return Ok(None) };
        let failed = |error: &dyn std::fmt::Display| TrainError::Training(format!("privacy: {error}"));
        let plan = privacy.plan(spec.privacy_facts(algorithm, length)).map_err(|error| failed(&error))?;
        let Some(shares) = plan.shares else { return Ok(None) };
        let noise = shares.noise().map_err(|error| failed(&error))?;
        Ok(Some(Self { spec: Arc::clone(spec), shares, noise }))
    }

    /// Replaces an upload by its integers with noise. One that has no norm counts as zero: that it has none is
    /// a fact about the data.
    pub(super) fn make(&self, upload: &mut Vectors, round: u64, key: &ReleaseKey) -> Result<(), TrainError> {
        let mut whole: Vec<f32> = upload.values().flat_map(|vector| vector.iter().copied()).collect();
        if !whole.iter().all(|value| value.is_finite()) {
            whole.fill(0.0);
        }
        let sent = self.shares.encode(&whole, self.spec.rotation(round), (&self.noise, key));
        let sent = sent.map_err(|error| TrainError::Training(format!("clipping: {error}")))?;
        *upload = Vectors::from([(SHARES.to_owned(), Arc::new(sent))]);
        Ok(())
    }
}
