//! The worker's own `grpc.health.v1`, for whoever watches its machine: whether its session is up.
//!
//! It follows what the transfers follow, so it cannot say anything else than what the worker does.

use crate::{ConfigError, transfer::Live};
use std::net::SocketAddr;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};

/// The services that health is told of, the empty name being the whole.
const SERVICES: [&str; 2] = ["", "starling.v1.Worker"];
/// Calls at the same time on one connection: a watch for each service, and some checks.
const CALLS: u32 = 16;

/// Answers on `address` until the handle is dropped: SERVING while a session is up.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn serve(
    address: SocketAddr,
    line: watch::Receiver<Option<Live>>,
) -> Result<AbortOnDropHandle<()>, ConfigError> {
    let listener = TcpListener::bind(address).await.map_err(|error| ConfigError {
        key: "health",
        value: format!("`{address}`, which cannot be listened on ({error})"),
        expected: "an address of this machine with a free port".into(),
    })?;
    let (reporter, service) = health_reporter();
    report(&reporter, false).await;
    let serving = Server::builder()
        .max_concurrent_streams(CALLS)
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let both = async move {
        let (served, ()) = tokio::join!(serving, follow(line, reporter));
        if let Err(error) = served {
            tracing::error!(%error, "health is not served any more");
        }
    };
    tracing::info!(%address, "health is served");
    Ok(AbortOnDropHandle::new(tokio::spawn(both)))
}

async fn follow(mut line: watch::Receiver<Option<Live>>, reporter: HealthReporter) {
    let mut told = false;
    loop {
        let up = line.borrow_and_update().is_some();
        // Each report is told to whoever watches, so only changes are reported.
        if up != told {
            report(&reporter, up).await;
            told = up;
        }
        if line.changed().await.is_err() {
            // The driver has ended.
            if told {
                report(&reporter, false).await;
            }
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, up: bool) {
    let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
