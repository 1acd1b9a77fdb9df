//! A worker that speaks the protocol by hand, so that it can break every rule of it.

use crate::operator::channel;
use bytes::Bytes;
use proto::{
    CAPABILITIES, PROTOCOL_VERSION,
    chunk::{chunk, chunks},
    digest::Digest,
    v1::{
        self, Chunk, CoordinatorMessage, ElementType, Outcome, RejectReason, UploadHeader, UploadRequest,
        UploadVerdict, VectorShape, WorkerMessage, coordinator_message::Body, fleet_client::FleetClient,
        upload_reply::Body as Reply, upload_request::Body as Sent, worker_message::Body as Said,
    },
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// An answer comes within this time.
const ANSWER: Duration = Duration::from_secs(15);

/// A session whose messages the test writes.
#[derive(Debug)]
pub struct Peer {
    /// For transfers.
    pub fleet: FleetClient<Channel>,
    name: String,
    out: mpsc::Sender<WorkerMessage>,
    inbound: Streaming<CoordinatorMessage>,
    beat: Option<JoinHandle<()>>,
    assigned: Option<(String, u64)>,
}

/// A correct greeting.
pub fn hello(name: &str) -> Said {
    Said::Hello(v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        worker: name.to_owned(),
        program: "peer".to_owned(),
        capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
        ..v1::Hello::default()
    })
}

impl Peer {
    /// Opens a session and says something on it.
    pub async fn open(address: SocketAddr, name: &str, first: Said) -> Self {
        Self::over(channel(address), name, first).await.expect("the session is opened")
    }

    /// As [`Self::open`], on a connection that the test made.
    pub async fn over(channel: Channel, name: &str, first: Said) -> Result<Self, Status> {
        let mut fleet = FleetClient::new(channel);
        let (out, queue) = mpsc::channel(64);
        out.try_send(WorkerMessage { body: Some(first) }).expect("the queue is empty");
        let opened = fleet.session(ReceiverStream::new(queue)).await?;
        Ok(Self {
            fleet,
            name: name.to_owned(),
            out,
            inbound: opened.into_inner(),
            beat: None,
            assigned: None,
        })
    }

    /// Opens a session as a worker that is welcome, and stays alive.
    pub async fn join(address: SocketAddr, name: &str) -> Self {
        Self::join_over(channel(address), name).await
    }

    /// As [`Self::join`], on a connection that the test made.
    pub async fn join_over(channel: Channel, name: &str) -> Self {
        let mut peer = Self::over(channel, name, hello(name)).await.expect("the session is opened");
        match peer.next().await {
            Ok(Body::Welcome(_)) => {}
            other => panic!("{name} is not welcome: {other:?}"),
        }
        let out = peer.out.clone();
        peer.beat = Some(tokio::spawn(async move {
            for sequence in 0.. {
                let body = Some(Said::Heartbeat(v1::Heartbeat { sequence }));
                if out.send(WorkerMessage { body }).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(500)).await;
            }
        }));
        peer
    }

    /// The next message that is no heartbeat, or how the stream ended.
    pub async fn next(&mut self) -> Result<Body, Status> {
        loop {
            let message =
                timeout(ANSWER, self.inbound.message()).await.expect("the coordinator says something");
            match message?.ok_or_else(|| Status::aborted("the stream ended"))?.body {
                Some(Body::Heartbeat(_)) | None => {}
                Some(body) => return Ok(body),
            }
        }
    }

    /// The next assignment; what else is said before is skipped. A round may be assigned twice (to a
    /// worker that joins while its run starts), and the second time says nothing new.
    pub async fn assignment(&mut self) -> v1::Assignment {
        loop {
            if let Body::Assignment(assignment) = self.next().await.expect("the session lives") {
                let round = Some((assignment.run.clone(), assignment.round));
                if self.assigned != round {
                    self.assigned = round;
                    return assignment;
                }
            }
        }
    }

    /// The next notice; what else is said before is skipped.
    pub async fn notice(&mut self) -> String {
        loop {
            if let Body::Notice(notice) = self.next().await.expect("the session lives") {
                return notice.text;
            }
        }
    }

    /// A correct update for an assignment of FedAvg.
    pub fn update(&self, assignment: &v1::Assignment, delta: &[f32]) -> Upload {
        Upload::new(&self.name, assignment, delta)
    }

    /// Trains nothing and uploads it, as an honest worker.
    pub async fn obey(&mut self) {
        let assignment = self.assignment().await;
        let length = assignment.vectors[0].length as usize;
        let upload = self.update(&assignment, &vec![0.001; length]);
        assert_eq!(self.send(upload).await.0, Judged::Applied);
    }

    /// Sends an upload to its verdict; gives the offset from which the coordinator wanted it.
    pub async fn send(&mut self, upload: Upload) -> (Judged, Option<u64>) {
        send(&mut self.fleet, upload).await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(beat) = &self.beat {
            beat.abort();
        }
    }
}

/// A verdict, easy to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Counted.
    Applied,
    /// Counted before.
    Duplicate,
    /// Not counted.
    Rejected(RejectReason),
}

impl From<UploadVerdict> for Judged {
    fn from(verdict: UploadVerdict) -> Self {
        match verdict.outcome() {
            Outcome::Applied => Self::Applied,
            Outcome::Duplicate => Self::Duplicate,
            Outcome::Rejected => Self::Rejected(verdict.reason()),
            Outcome::Unspecified => panic!("a verdict without an outcome"),
        }
    }
}

/// An upload, to be falsified.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The header.
    pub header: UploadHeader,
    /// What follows it.
    pub chunks: Vec<Chunk>,
}

impl Upload {
    /// A correct one.
    pub fn new(worker: &str, assignment: &v1::Assignment, delta: &[f32]) -> Self {
        let shape = VectorShape {
            name: "delta".into(),
            length: delta.len() as u64,
            element: ElementType::F32.into(),
        };
        let header = UploadHeader {
            run: assignment.run.clone(),
            round: assignment.round,
            worker: worker.to_owned(),
            vectors: vec![shape],
            digest: Digest::of_vector(delta).0.to_vec(),
            examples: 10,
            steps: 1,
            lr: assignment.lr,
            train_loss: 0.5,
            seconds: 0.1,
        };
        let bytes: Vec<u8> = delta.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { header, chunks: chunks(vec![Bytes::from(bytes)], 0).collect() }
    }

    /// Another payload, announced as such.
    #[must_use]
    pub fn with_values(mut self, delta: &[f32]) -> Self {
        let bytes: Vec<u8> = delta.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.header.digest = Digest::of(&bytes).0.to_vec();
        self.chunks = chunks(vec![Bytes::from(bytes)], 0).collect();
        self
    }

    /// One chunk instead of the payload.
    #[must_use]
    pub fn with_bytes(mut self, offset: u64, bytes: Vec<u8>) -> Self {
        self.chunks = vec![chunk(offset, bytes.into())];
        self
    }
}

/// A header on a fresh stream, and the first reply.
pub async fn offer(
    fleet: &mut FleetClient<Channel>,
    header: UploadHeader,
) -> (mpsc::Sender<UploadRequest>, Streaming<v1::UploadReply>, Reply) {
    let (out, queue) = mpsc::channel(4);
    out.try_send(UploadRequest { body: Some(Sent::Header(header)) }).expect("the queue is empty");
    let mut replies = fleet.upload(ReceiverStream::new(queue)).await.expect("uploads are taken").into_inner();
    let first = reply(&mut replies).await;
    (out, replies, first)
}

/// The next reply.
pub async fn reply(replies: &mut Streaming<v1::UploadReply>) -> Reply {
    let message = timeout(ANSWER, replies.message()).await.expect("an upload is answered");
    message.expect("the stream lives").expect("the stream goes on").body.expect("a reply says something")
}

/// Sends an upload to its verdict; gives the offset from which the coordinator wanted it.
pub async fn send(fleet: &mut FleetClient<Channel>, upload: Upload) -> (Judged, Option<u64>) {
    let (out, mut replies, first) = offer(fleet, upload.header).await;
    let ready = match first {
        Reply::Verdict(verdict) => return (verdict.into(), None),
        Reply::Ready(ready) => ready.offset,
    };
    for chunk in upload.chunks {
        // A part that was received before is not sent again. An error: the verdict is there already.
        if ready > 0 && chunk.offset < ready {
            continue;
        }
        if out.send(UploadRequest { body: Some(Sent::Chunk(chunk)) }).await.is_err() {
            break;
        }
    }
    drop(out);
    match reply(&mut replies).await {
        Reply::Verdict(verdict) => (verdict.into(), Some(ready)),
        Reply::Ready(_) => panic!("asked twice to start"),
    }
}
