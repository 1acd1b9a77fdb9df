//! The gRPC services: they check what comes from outside, and turn it into events and back.

mod access;
mod download;
mod evaluation;
mod fleet;
mod ledger;
mod operator;
mod routes;
mod upload;

pub(crate) use routes::FleetRoutes;

use crate::{fleet::Fleet, run::Parts};
use proto::v1::ErrorCode;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use tonic::Status;

/// Both services over one coordinator.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) parts: Parts,
    /// Tasks of live sessions, transfers and runs; the coordinator waits for them when it stops.
    pub(crate) tasks: TaskTracker,
    /// One submission at a time: numbers are given in order.
    pub(crate) submission: Arc<Mutex<()>>,
}

impl Service {
    pub(crate) fn fleet(&self) -> &Arc<Fleet> {
        &self.parts.fleet
    }

    fn run(&self, id: &str) -> Result<crate::run::RunHandle, Status> {
        self.fleet().run(id).ok_or_else(|| {
            let known: Vec<String> = self.fleet().runs().iter().map(|run| run.shared.id.clone()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            let short: String = id.chars().take(80).collect();
            ErrorCode::NotFound.status(format!("no run `{short}`; known runs: {known}"))
        })
    }
}

/// Who calls.
fn peer_of<T>(request: &tonic::Request<T>) -> Result<crate::transport::Peer, Status> {
    let peer = request.extensions().get().cloned();
    peer.ok_or_else(|| Status::internal("a connection without its description"))
}

fn draining() -> Status {
    ErrorCode::Draining.status("the coordinator is shutting down")
}
