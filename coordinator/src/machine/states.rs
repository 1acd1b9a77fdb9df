//! Where things stand: phases of a run, members of a cohort, decisions about updates.

use super::types::Facts;
use proto::v1::RejectReason;
use serde::{Deserialize, Serialize};

/// How a run is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// All rounds are committed.
    Finished,
    /// An operator said so.
    Cancelled,
    /// It cannot go on, and why.
    Failed(String),
    /// Its privacy budget is spent, and what the gate said. The last committed model stands.
    Exhausted(String),
}

/// What is said about an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is wanted; after vetting: it counts.
    Accept,
    /// It was counted before.
    Duplicate,
    /// It does not count.
    Reject {
        /// Why.
        reason: RejectReason,
        /// What exactly.
        detail: String,
    },
}

impl Decision {
    /// A rejection.
    pub fn reject(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self::Reject { reason, detail: detail.into() }
    }
}

/// A cohort member in the open round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Member {
    /// Asked; no answer yet.
    Training,
    /// Was lost for too long; an update of it still counts while the round is open.
    Lost,
    /// Its update is folded.
    Counted(Facts),
    /// It cannot take part.
    Declined,
    /// Its update was refused.
    Rejected(#[serde(with = "reason")] RejectReason),
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Too few eligible workers.
    Waiting,
    /// A round is open.
    Training,
    /// The disk has not confirmed yet.
    Committing,
    /// Workers evaluate the committed model.
    Evaluating,
    /// An operator paused the run.
    Paused,
    /// It is over.
    Ended(End),
}

impl Phase {
    /// In words.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Training => "training",
            Self::Committing => "committing",
            Self::Evaluating => "evaluating",
            Self::Paused => "paused",
            Self::Ended(End::Finished) => "finished",
            Self::Ended(End::Cancelled) => "cancelled",
            Self::Ended(End::Failed(_)) => "failed",
            Self::Ended(End::Exhausted(_)) => "exhausted",
        }
    }
}

/// A reason as its number on the wire.
mod reason {
    use proto::v1::RejectReason;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(reason: &RejectReason, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i32((*reason).into())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RejectReason, D::Error> {
        RejectReason::try_from(i32::deserialize(from)?).map_err(D::Error::custom)
    }
}
