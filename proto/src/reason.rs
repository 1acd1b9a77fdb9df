//! Closed lists of why something is refused, and the one table from them to gRPC status.

use crate::v1::{AbandonReason, DeclineReason, ErrorCode, RejectReason};
use tonic::{Code, Status};

impl RejectReason {
    /// The reason in words, as logs, events and counters show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::UnknownRun => "unknown run",
            Self::StaleRound => "stale round",
            Self::NotAssigned => "not assigned",
            Self::Shape => "wrong shape",
            Self::ElementType => "wrong element type",
            Self::Chunk => "damaged chunk",
            Self::Digest => "wrong digest",
            Self::NotFinite => "not finite",
            Self::Norm => "norm too large",
            Self::Range => "element out of range",
            Self::Facts => "impossible facts",
            Self::Quarantined => "quarantined",
            Self::Length => "wrong length",
            Self::TooSlow => "too slow",
            Self::TooStale => "too stale",
            Self::Compression => "not compressed so",
        }
    }

    /// Whether the round goes on without the worker: nothing better can come from it.
    pub fn settles(self) -> bool {
        self.is_fault() || self == Self::TooSlow
    }

    /// Whether the worker is at fault, so that repetition leads to quarantine: being late or slow is not.
    pub fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::UnknownRun
                | Self::StaleRound
                | Self::TooStale
                | Self::NotAssigned
                | Self::Quarantined
                | Self::TooSlow
        )
    }
}

impl DeclineReason {
    /// The reason in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Data => "data",
            Self::Model => "model",
            Self::Spec => "specification",
            Self::Training => "training",
            Self::State => "client state",
            Self::Transfer => "transfer",
            Self::Privacy => "privacy",
        }
    }
}

impl AbandonReason {
    /// The reason in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Deadline => "the round closed at its deadline",
            Self::Paused => "the run was paused",
            Self::Finished => "the run is finished",
            Self::Cancelled => "the run was cancelled",
            Self::Failed => "the run failed",
        }
    }
}

impl ErrorCode {
    /// The code in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Incompatible => "incompatible",
            Self::Malformed => "malformed",
            Self::Name => "name",
            Self::NotFound => "not found",
            Self::State => "state",
            Self::Limit => "limit",
            Self::Store => "store",
            Self::Draining => "draining",
            Self::Spec => "run file",
            Self::Unauthenticated => "no identity",
            Self::Forbidden => "forbidden",
        }
    }

    /// The gRPC status of this error: the only place where the two meet.
    pub fn status(self, detail: impl Into<String>) -> Status {
        let code = match self {
            Self::Unspecified => Code::Unknown,
            Self::Incompatible | Self::State => Code::FailedPrecondition,
            Self::Malformed | Self::Spec => Code::InvalidArgument,
            Self::Name => Code::AlreadyExists,
            Self::NotFound => Code::NotFound,
            Self::Limit => Code::ResourceExhausted,
            Self::Store => Code::Internal,
            Self::Draining => Code::Unavailable,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
        };
        Status::new(code, detail)
    }
}
