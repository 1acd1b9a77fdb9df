//! The audit log: who did what, appended in the same transaction as what was done. Each line carries
//! the digest of the line before, so that a line that was changed or removed later is found.

use serde::{Deserialize, Serialize};

/// Closed list of what is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The coordinator began to serve.
    Started,
    /// The coordinator stopped in order.
    Stopped,
    /// A token was made.
    TokenCreated,
    /// A machine joined, or was not let in.
    Enrolled,
    /// A certificate was renewed.
    Renewed,
    /// A holder's certificates were ended.
    Revoked,
    /// A run was submitted.
    Submitted,
    /// A run was paused.
    Paused,
    /// A run was resumed.
    Resumed,
    /// A run was cancelled.
    Cancelled,
    /// A model was taken away.
    Exported,
    /// A worker was put into quarantine.
    Quarantined,
    /// A worker was released from quarantine.
    Released,
    /// A privacy ledger counts anew, on an operator's word.
    LedgerReset,
    /// Calls that their caller may not make.
    Denied,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// `operator anna`; `-` for the coordinator itself, `?` for a caller without a certificate.
    pub who: String,
    /// Where the caller connected from; empty for the coordinator itself.
    pub address: String,
    /// What.
    pub action: Action,
    /// On whom or what.
    pub subject: String,
    /// `ok`, or why not.
    pub outcome: String,
    /// Digest of the line before, hexadecimal; empty in the first.
    pub previous: String,
}

/// What is recorded, before it has a time and a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// As in [`Entry`].
    pub who: String,
    /// As in [`Entry`].
    pub address: String,
    /// As in [`Entry`].
    pub action: Action,
    /// As in [`Entry`].
    pub subject: String,
    /// As in [`Entry`].
    pub outcome: String,
}

impl Note {
    /// Something that the coordinator did by itself.
    pub fn own(action: Action, subject: impl Into<String>) -> Self {
        Self {
            who: "-".into(),
            address: String::new(),
            action,
            subject: subject.into(),
            outcome: "ok".into(),
        }
    }

    /// With another outcome.
    #[must_use]
    pub fn with_outcome(self, outcome: impl Into<String>) -> Self {
        Self { outcome: outcome.into(), ..self }
    }

    /// At its place in the log.
    pub(crate) fn entry(self, time_ms: u64, previous: String) -> Entry {
        let Self { who, address, action, subject, outcome } = self;
        Entry { time_ms, who, address, action, subject, outcome, previous }
    }
}

/// The digest that the next line carries.
pub fn digest(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_string()
}
