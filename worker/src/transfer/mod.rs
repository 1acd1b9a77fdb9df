//! Vectors over the wire: fetched by digest, uploaded under a verdict; both go on where they stopped.
//!
//! A transfer fails when no byte moved for a while, not when a guessed total time has passed. It then
//! waits for the session to be up and tries again with growing pauses: it never decides by itself that
//! the work is void, since only the coordinator knows that; whoever cancels the job drops the transfer.

mod cache;
pub(crate) mod channel;
mod fetch;
mod upload;

pub use cache::Cache;
pub use fetch::fetch;
pub use upload::{Offer, Verdict, upload};

use crate::session::backoff;
use channel::Vectors;
use proto::v1::WorkerMessage;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

/// A session that is up, as transfers see it.
#[derive(Debug, Clone)]
pub struct Live {
    /// For vectors: a connection of its own, so that a full window never delays a heartbeat.
    pub vectors: Vectors,
    /// Messages of the session.
    pub out: mpsc::Sender<WorkerMessage>,
}

/// Whether a session is up; kept current by the driver.
#[derive(Debug, Clone)]
pub struct Line(pub watch::Receiver<Option<Live>>);

/// The driver is gone: nothing will ever be up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker is stopping")]
pub struct Stopping;

impl Line {
    /// Waits until a session is up. Bounded by the session machine, which tries for ever.
    pub async fn live(&mut self) -> Result<Live, Stopping> {
        let live = self.0.wait_for(Option::is_some).await.map_err(|_| Stopping)?;
        live.clone().ok_or(Stopping)
    }

    /// Completes when the session that was up at the last `live` is no more.
    async fn fell(&mut self) {
        let _ = self.0.changed().await;
    }
}

/// Why a transfer ended without its result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The coordinator refuses; trying again would not help.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// What arrived is, again and again, not what was announced.
    #[error("{0}")]
    Damaged(String),
    /// The worker stops.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// Why one try of a transfer ended.
#[derive(Debug)]
enum Broken {
    /// Try again.
    Again(String),
    /// Give up.
    Refused(String),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unimplemented => Self::Refused(text),
            _ => Self::Again(text),
        }
    }
}

/// The pause before the next try, longer after each try that moved nothing.
#[derive(Debug)]
struct Patience {
    key: u64,
    tries: u64,
    attempt: u32,
    moved: u64,
}

impl Patience {
    fn new(key: u64) -> Self {
        Self { key, tries: 0, attempt: 0, moved: 0 }
    }

    /// After a try that ended at byte `moved`.
    fn pause(&mut self, moved: u64) -> Duration {
        if moved > self.moved {
            (self.moved, self.attempt) = (moved, 0);
        }
        let pause = backoff::delay(self.key, self.tries, self.attempt);
        self.tries += 1;
        self.attempt = self.attempt.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests;
