//! The session's stream: opened, read until it ends, and what is said on it in the wire's words.

use super::Tagged;
use crate::{
    Config,
    access::Route,
    message::{self, Command, Say},
    session::Event,
    transfer::channel,
};
use proto::{
    CAPABILITIES, PROTOCOL_VERSION,
    v1::{self, WorkerMessage, worker_message::Body},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Holds one connection until it is lost, and says so.
pub(super) async fn hold(
    route: Route,
    queue: mpsc::Receiver<WorkerMessage>,
    events: mpsc::Sender<Tagged>,
    id: u64,
) {
    let why = match talk(&route, queue, &events, id).await {
        Ok(()) => "the coordinator closed the session".to_owned(),
        Err(why) => why,
    };
    let _ = events.send((Some(id), Event::Lost(why))).await;
}

async fn talk(
    route: &Route,
    queue: mpsc::Receiver<WorkerMessage>,
    events: &mpsc::Sender<Tagged>,
    id: u64,
) -> Result<(), String> {
    let failed = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
    let mut fleet = channel::session(route).await?;
    let _ = events.send((Some(id), Event::Opened)).await;
    let mut messages = fleet.session(ReceiverStream::new(queue)).await.map_err(failed)?.into_inner();
    while let Some(message) = messages.message().await.map_err(failed)? {
        let command = match message::read(message) {
            Ok(Some(command)) => command,
            // Whatever it was, it was a sign of life.
            Ok(None) => Command::Heartbeat,
            Err(error) => {
                tracing::warn!(%error, "ignored");
                Command::Heartbeat
            }
        };
        let _ = events.send((Some(id), Event::Received(command))).await;
    }
    Ok(())
}

/// What is said, in the wire's words.
pub(super) fn wire(say: &Say, config: &Config) -> WorkerMessage {
    let body = match say {
        Say::Hello => Body::Hello(v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
            worker: config.name.to_string(),
            program: concat!("starling ", env!("CARGO_PKG_VERSION")).to_owned(),
            datasets: config.datasets.keys().cloned().collect(),
        }),
        Say::Heartbeat { sequence } => Body::Heartbeat(v1::Heartbeat { sequence: *sequence }),
        Say::Decline { run, round, reason, detail } => Body::Decline(v1::Decline {
            run: run.to_string(),
            round: *round,
            reason: (*reason).into(),
            detail: detail.clone(),
        }),
    };
    WorkerMessage { body: Some(body) }
}
