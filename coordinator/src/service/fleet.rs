//! What sessions and downloads do. Uploads are in their own file.

use super::{Service, download, draining, peer_of};
use crate::{access::speaks_for, fleet::Session, machine::Event, run::Command, transport::Peer};
use futures::Stream;
use proto::{
    CAPABILITIES, PROTOCOL_OLDEST, PROTOCOL_VERSION,
    digest::Digest,
    limits,
    names::WorkerName,
    v1::{
        self, Chunk, CoordinatorMessage, ErrorCode, WorkerMessage, coordinator_message::Body,
        worker_message::Body as Said,
    },
};
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

impl Service {
    /// Opens a session.
    pub(super) fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<ReceiverStream<Result<CoordinatorMessage, Status>>>, Status> {
        if self.parts.stop.is_cancelled() {
            return Err(draining());
        }
        let peer = peer_of(&request)?;
        let (outbox, messages) = mpsc::channel(limits::SESSION_QUEUE);
        let (service, inbound) = (self.clone(), request.into_inner());
        self.tasks.spawn(async move { service.serve_session(peer, inbound, outbox).await });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    /// The chunks of a vector, from an offset on.
    pub(super) fn fetch(
        &self,
        request: &v1::FetchRequest,
    ) -> Result<impl Stream<Item = Result<Chunk, Status>> + Send + 'static, Status> {
        let digest = Digest::from_bytes(&request.digest)
            .map_err(|error| ErrorCode::Malformed.status(error.to_string()))?;
        let reader = self
            .parts
            .store
            .blobs()
            .reader(digest)
            .map_err(|error| ErrorCode::Store.status(error.to_string()))?
            .ok_or_else(|| {
                ErrorCode::NotFound.status(format!("no vector {digest}; a newer round may be open"))
            })?;
        let left = reader.length().saturating_sub(request.offset);
        if let Some(run) = self.fleet().run(&request.run) {
            run.shared.bytes_down.fetch_add(left, Ordering::Relaxed);
        }
        Ok(download::chunks(digest, reader, request.offset))
    }

    async fn serve_session(
        self,
        peer: Peer,
        mut inbound: Streaming<WorkerMessage>,
        outbox: crate::fleet::Outbox,
    ) {
        let say = |body: Body| CoordinatorMessage { body: Some(body) };
        let hello = match tokio::time::timeout(limits::SILENCE, inbound.message()).await {
            Ok(Ok(Some(WorkerMessage { body: Some(Said::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => {
                let status = ErrorCode::Malformed.status("the first message of a session must be Hello");
                let _ = outbox.send(Err(status)).await;
                return;
            }
            Ok(Err(status)) => return drop(outbox.send(Err(status)).await),
            Err(_) => {
                let text = format!("no Hello within {} s", limits::SILENCE.as_secs());
                return drop(outbox.send(Err(ErrorCode::Malformed.status(text))).await);
            }
        };
        let (worker, session) = match self.greet(&hello, &peer, &outbox) {
            Ok(greeted) => greeted,
            Err((code, detail)) => {
                tracing::warn!(worker = hello.worker, code = code.label(), detail, "a worker was refused");
                let refusal = v1::Refusal { code: code.into(), detail };
                let _ = outbox.send(Ok(say(Body::Refusal(refusal)))).await;
                return;
            }
        };
        let welcome = v1::Welcome {
            protocol_version: hello.protocol_version.min(PROTOCOL_VERSION),
            capabilities: CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
            heartbeat_ms: limits::HEARTBEAT.as_millis() as u32,
            silence_ms: limits::SILENCE.as_millis() as u32,
        };
        let _ = outbox.send(Ok(say(Body::Welcome(welcome)))).await;
        tracing::info!(worker, address = session.address, program = session.program, "connected");
        self.fleet().tell_runs(&worker, &session, true).await;
        let why = self.listen(&worker, &session, &mut inbound).await;
        if self.fleet().leave(&worker, session.number) {
            tracing::info!(worker, why, "disconnected");
            self.fleet().tell_runs(&worker, &session, false).await;
        }
    }

    fn greet(
        &self,
        hello: &v1::Hello,
        peer: &Peer,
        outbox: &crate::fleet::Outbox,
    ) -> Result<(String, Session), (ErrorCode, String)> {
        if hello.protocol_version < PROTOCOL_OLDEST {
            let detail = format!(
                "protocol version {}, this coordinator speaks {PROTOCOL_OLDEST} to {PROTOCOL_VERSION}",
                hello.protocol_version
            );
            return Err((ErrorCode::Incompatible, detail));
        }
        let worker: WorkerName =
            hello.worker.parse().map_err(|e: proto::names::NameError| (ErrorCode::Name, e.to_string()))?;
        speaks_for(peer, worker.as_str()).map_err(|why| (ErrorCode::Forbidden, why))?;
        if hello.datasets.len() > limits::DATASETS_MAX {
            let detail =
                format!("{} data sets, at most {} are kept", hello.datasets.len(), limits::DATASETS_MAX);
            return Err((ErrorCode::Limit, detail));
        }
        let session = Session {
            number: self.fleet().next_session(),
            outbox: outbox.clone(),
            datasets: hello.datasets.clone(),
            capabilities: hello.capabilities.iter().take(limits::DATASETS_MAX).cloned().collect(),
            program: hello.program.chars().take(64).collect(),
            address: peer.address.to_string(),
            last_seen: Arc::new(self.parts.clock.now().into()),
            cancel: self.parts.stop.child_token(),
        };
        self.fleet().enter(worker.as_str(), session.clone(), self.parts.config.workers_max)?;
        Ok((worker.into(), session))
    }

    /// Takes messages until the session ends; says why.
    async fn listen(
        &self,
        worker: &str,
        session: &Session,
        inbound: &mut Streaming<WorkerMessage>,
    ) -> &'static str {
        loop {
            let message = tokio::select! {
                biased;
                () = session.cancel.cancelled() => return "ended by the coordinator",
                message = tokio::time::timeout(limits::SILENCE, inbound.message()) => message,
            };
            let said = match message {
                Err(_) => return "no sign of life",
                Ok(Err(status)) => {
                    tracing::debug!(worker, %status, "nothing more can be read");
                    // Whoever sent what cannot be decoded is told; a broken connection tells nobody.
                    let _ = session.outbox.try_send(Err(status));
                    return "the connection broke, or what it carried cannot be decoded";
                }
                Ok(Ok(None)) => return "the worker closed the session",
                Ok(Ok(Some(message))) => message.body,
            };
            session.last_seen.store(self.parts.clock.now(), Ordering::Relaxed);
            match said {
                Some(Said::Heartbeat(beat)) => {
                    let echo = CoordinatorMessage { body: Some(Body::Heartbeat(beat)) };
                    // A full queue holds signs of life of its own.
                    let _ = session.outbox.try_send(Ok(echo));
                }
                Some(said) => self.forward(worker, said).await,
                // A newer worker may say what this version does not know.
                None => {}
            }
        }
    }

    async fn forward(&self, worker: &str, said: Said) {
        let worker = worker.to_owned();
        let (run, command) = match said {
            Said::Progress(progress) => (progress.run.clone(), Command::Progress { worker, progress }),
            Said::Decline(decline) => {
                let reason = decline.reason();
                let detail = decline.detail.chars().take(512).collect();
                let event = Event::Declined { worker, round: decline.round, reason, detail };
                (decline.run, Command::Machine(event))
            }
            Said::Evaluation(report) => {
                let (run, round) = (report.run.clone(), report.round);
                let event = Event::Evaluated { worker, round, report: super::evaluation::read(report) };
                (run, Command::Machine(event))
            }
            Said::Hello(_) | Said::Heartbeat(_) => return,
        };
        if let Some(run) = self.fleet().run(&run) {
            run.send(command).await;
        }
    }
}
