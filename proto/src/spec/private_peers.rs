//! What a decentralised run with a `[privacy]` section must satisfy: each peer noises its own change, before
//! anybody sees anything that is made of it.

use super::{RunSpec, SpecError, check::require};
use privacy::{RunFacts, spec::MechanismKind};
use std::num::NonZeroU64;

impl RunSpec {
    /// What the plan of a private peer depends on, for a model of `length` scalars.
    pub fn peer_facts(&self, length: usize) -> RunFacts {
        let whole = |number: u64| NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN);
        RunFacts {
            rounds: whole(self.rounds),
            parameters: whole(length as u64),
            clients: NonZeroU64::MIN,
            local_steps: NonZeroU64::MIN,
        }
    }

    pub(super) fn check_private_peers(&self) -> Result<(), SpecError> {
        let Some(privacy) = &self.privacy else { return Ok(()) };
        require(privacy.mechanism() == MechanismKind::LocalGaussian, "privacy.mechanism", || {
            "nobody adds up what peers send, so that each must noise its own change: expected `local_gaussian`"
                .into()
        })?;
        require(privacy.participation().is_none(), "privacy.participation", || {
            "every peer trains in every round: expected `sampling = { kind = \"everyone\" }` instead".into()
        })?;
        require(!privacy.hidden_state(), "privacy.hidden_state", || {
            "peers see models of all rounds; expected `false`".into()
        })
    }
}
