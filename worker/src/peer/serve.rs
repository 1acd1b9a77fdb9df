//! What a peer answers. Everything that comes in is checked here: whose certificate it is, that it is of this
//! run, that a vector is the announced one; then it goes to the node.

pub(super) use super::shared::Shared;
use super::{claim::Refused, form::Form, listen::caller, rumour::Ear, shared::Partial};
use futures::{Stream, StreamExt};
use gossip::machine::{Envelope, Member};
use identity::{Identity, Role};
use proto::{
    chunk::{Assembler, bytes_of, chunks},
    digest::Digest,
    limits::STALL,
    peers,
    v1::{
        self, ExportMessage, export_message::Body as Export, hand_reply::Body as Reply,
        hand_request::Body as Hand, peer_message::Body as Wire, peers_server::Peers,
    },
};
use std::{
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What reaches the node from outside.
pub(super) enum Input {
    /// A machine's message, and the bytes of its vector.
    Message(Envelope<f32>, u64),
    /// How another peer stood at the end of a round.
    Report(v1::PeerReport),
    /// A question.
    Ask(Ask),
}

/// What may be asked.
pub(super) enum Ask {
    Meet(oneshot::Sender<v1::MeetReply>),
    Status(oneshot::Sender<v1::PeerStatusReply>),
    Model(oneshot::Sender<Option<(v1::ExportHeader, Arc<Vec<f32>>)>>),
    Leave,
}

/// The service.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) node: mpsc::Sender<Input>,
    pub(super) ear: Ear,
    /// What observers were told last, and when.
    pub(super) seen: Seen,
}

/// A status that is told again for a while.
pub(super) type Seen = Arc<tokio::sync::Mutex<Option<(Instant, v1::PeerStatusReply)>>>;

/// Observers are told the same for so long.
const FRESH: Duration = Duration::from_millis(200);

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stopping<E>(_: E) -> Status {
    Status::unavailable("this peer is stopping")
}

impl Service {
    /// Who calls, with a certificate that was not revoked.
    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Identity>, Status> {
        let who = caller(request)?;
        if let Err(why) = self.shared.revoked.check(&who) {
            self.shared.complaints.tell(&who.to_string(), &why);
            return Err(Status::unauthenticated(why));
        }
        if who.role == Role::Peer {
            self.shared.showed(&who);
        }
        Ok(who)
    }

    /// The peer that calls about this run.
    fn peer<T>(&self, request: &Request<T>, run: impl FnOnce(&T) -> &[u8]) -> Result<Arc<Identity>, Status> {
        let who = self.caller(request)?;
        if who.role != Role::Peer {
            return Err(Status::permission_denied(format!("{who} is no peer")));
        }
        self.same_run(run(request.get_ref()))?;
        Ok(who)
    }

    fn same_run(&self, run: &[u8]) -> Result<(), Status> {
        if run == self.shared.run {
            return Ok(());
        }
        Err(Status::failed_precondition("this peer has another run file; all peers of a run need the same"))
    }

    fn allowed<T>(&self, request: &Request<T>, roles: &[Role]) -> Result<(), Status> {
        let who = self.caller(request)?;
        if roles.contains(&who.role) {
            Ok(())
        } else {
            Err(Status::permission_denied(format!("not for {who}")))
        }
    }

    /// Takes a list of revoked certificates; the number of the newest. The node sees it and passes it on.
    fn revocations(&self, text: &str) -> Result<u64, Status> {
        self.shared.heed(text).map_err(Status::invalid_argument)?;
        Ok(self.shared.revoked.list().number())
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.node.send(Input::Ask(question(reply))).await.map_err(stopping)?;
        answer.await.map_err(stopping)
    }

    /// Receives what follows a header; `Ok` when the node has it.
    async fn take(
        &self,
        header: v1::HandHeader,
        who: &Identity,
        requests: &mut Streaming<v1::HandRequest>,
        replies: &mpsc::Sender<Result<v1::HandReply, Status>>,
    ) -> Result<(), Status> {
        let wrong = |why: &str| Status::invalid_argument(why.to_owned());
        self.same_run(&header.run)?;
        let message = header.message.ok_or_else(|| wrong("a header without a message"))?;
        let sender = self.sender(message.from, who, "vector")?;
        let (answer, seq) = match &message.body {
            Some(Wire::Transfer(transfer)) => (false, transfer.seq),
            Some(Wire::Verdict(verdict)) => (true, verdict.seq),
            _ => return Err(wrong("this message has no vector")),
        };
        let expected = self.form()?.length(peers::packed(&message));
        let known =
            || self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner).get(&sender).copied();
        // The machine answers a repetition by its number alone, and refuses another length.
        let repeated = !answer && known().is_some_and(|settled| seq <= settled);
        let Some(length) = expected.filter(|length| !repeated && *length as u64 == header.length) else {
            return self.deliver(message, None).await;
        };
        let digest = Digest::from_bytes(&header.digest).map_err(|error| wrong(&error.to_string()))?;
        let place = (sender.id, answer);
        let begun = self
            .partial()
            .remove(&place)
            .filter(|(of, number, assembler)| (*of, *number, assembler.announced()) == (sender, seq, digest));
        let mut assembler =
            begun.map_or_else(|| self.shared.assembler(length, digest), |(_, _, assembler)| assembler);
        let ready =
            v1::HandReply { body: Some(Reply::Ready(v1::HandReady { offset: assembler.received() })) };
        replies.send(Ok(ready)).await.map_err(stopping)?;
        let received = receive(requests, &mut assembler).await;
        if let Err(status) = received {
            self.partial().insert(place, (sender, seq, assembler));
            return Err(status);
        }
        let vector = assembler.finish().map_err(|error| Status::data_loss(error.to_string()))?;
        self.deliver(message, Some((vector, digest))).await
    }

    fn partial(&self) -> MutexGuard<'_, Partial> {
        self.shared.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn form(&self) -> Result<&Form, Status> {
        self.shared.form.get().ok_or_else(|| Status::unavailable("not ready yet"))
    }

    /// The sender that a message names, who must be the caller.
    fn sender(&self, named: Option<v1::PeerMember>, who: &Identity, what: &str) -> Result<Member, Status> {
        let from = peers::read_member(named).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if from.id == peers::id_of(&who.name) {
            return Ok(from);
        }
        let why = format!(
            "the certificate is that of {who}, but the {what} is in the name of member {:016x}",
            from.id
        );
        self.shared.complaints.tell(&who.to_string(), &why);
        Err(Status::permission_denied(why))
    }

    async fn deliver(
        &self,
        message: v1::PeerMessage,
        words: Option<(Vec<f32>, Digest)>,
    ) -> Result<(), Status> {
        let bytes = words.as_ref().map_or(0, |(words, _)| words.len() as u64 * 4);
        let vector = match words {
            None => Vec::new().into(),
            Some((words, digest)) => {
                let made = self.form()?.payload(words, peers::packed(&message)).unwrap_or_else(|error| {
                    tracing::warn!(%error, "a vector that the run's compressor did not make");
                    // The machine refuses another length, for good.
                    Vec::new().into()
                });
                if made.words().is_none() && !made.is_empty() {
                    self.shared.digests.know(&made.vector().shared(), digest);
                }
                made
            }
        };
        let envelope =
            peers::read(message, vector).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.node.send(Input::Message(envelope, bytes)).await.map_err(stopping)
    }
}

async fn receive(requests: &mut Streaming<v1::HandRequest>, assembler: &mut Assembler) -> Result<(), Status> {
    while !assembler.is_complete() {
        let next = timeout(STALL, requests.message()).await;
        match next.map_err(|_| Status::deadline_exceeded("no byte for a while"))?? {
            Some(v1::HandRequest { body: Some(Hand::Chunk(chunk)) }) => {
                assembler.push(&chunk).map_err(|error| Status::data_loss(error.to_string()))?;
            }
            Some(_) => return Err(Status::invalid_argument("expected one header, then chunks")),
            None => return Err(Status::aborted("the vector was cut off")),
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Peers for Service {
    type HandStream = ReceiverStream<Result<v1::HandReply, Status>>;
    type ModelStream = Outgoing<ExportMessage>;

    async fn meet(&self, request: Request<v1::MeetRequest>) -> Result<Response<v1::MeetReply>, Status> {
        let who = self.peer(&request, |request| &request.run)?;
        self.sender(request.into_inner().member, &who, "question")?;
        self.ask(Ask::Meet).await.map(Response::new)
    }

    async fn rumour(&self, request: Request<v1::RumourRequest>) -> Result<Response<v1::RumourReply>, Status> {
        let who = self.peer(&request, |request| &request.run)?;
        let v1::RumourRequest { address, datagram, .. } = request.into_inner();
        let address = address.parse().map_err(|_| Status::invalid_argument("the address is none"))?;
        self.ear.hear(&who.name, (address, datagram)).map_err(|refused| {
            self.shared.complaints.tell(&who.to_string(), &refused.to_string());
            match refused {
                Refused::Damaged(_) => Status::invalid_argument(refused.to_string()),
                _ => Status::permission_denied(refused.to_string()),
            }
        })?;
        Ok(Response::new(v1::RumourReply {}))
    }

    async fn tell(&self, request: Request<v1::TellRequest>) -> Result<Response<v1::TellReply>, Status> {
        let who = self.peer(&request, |request| &request.run)?;
        match request.into_inner().body {
            Some(v1::tell_request::Body::Message(message)) => {
                self.sender(message.from, &who, "message")?;
                self.deliver(message, None).await?;
            }
            Some(v1::tell_request::Body::Report(report)) => {
                self.sender(report.from, &who, "report")?;
                self.node.send(Input::Report(report)).await.map_err(stopping)?;
            }
            Some(v1::tell_request::Body::Revocations(list)) => drop(self.revocations(&list)?),
            None => return Err(Status::invalid_argument("it says nothing")),
        }
        Ok(Response::new(v1::TellReply {}))
    }

    async fn hand(
        &self,
        request: Request<Streaming<v1::HandRequest>>,
    ) -> Result<Response<Self::HandStream>, Status> {
        let who = self.caller(&request)?;
        self.allowed(&request, &[Role::Peer])?;
        let mut requests = request.into_inner();
        let (replies, stream) = mpsc::channel(2);
        let service = self.clone();
        tokio::spawn(async move {
            let done = match requests.message().await {
                Ok(Some(v1::HandRequest { body: Some(Hand::Header(header)) })) => {
                    service.take(header, &who, &mut requests, &replies).await
                }
                Ok(_) => Err(Status::invalid_argument("expected a header")),
                Err(status) => Err(status),
            };
            let reply = done.map(|()| v1::HandReply { body: Some(Reply::Taken(v1::HandTaken {})) });
            let _ = replies.send(reply).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn model(&self, request: Request<v1::ModelRequest>) -> Result<Response<Self::ModelStream>, Status> {
        self.allowed(&request, &[Role::Peer, Role::Operator])?;
        let v1::ModelRequest { digest, offset } = request.into_inner();
        let Some((header, model)) = self.ask(Ask::Model).await? else {
            return Err(Status::failed_precondition("this peer has no model at the moment"));
        };
        let same = header.model.as_ref().is_some_and(|model| model.digest == digest);
        let offset = if same { offset } else { 0 };
        let first = ExportMessage { body: Some(Export::Header(header)) };
        let rest = chunks(vec![bytes_of(&model)], offset)
            .map(|chunk| Ok(ExportMessage { body: Some(Export::Chunk(chunk)) }));
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(first)]).chain(futures::stream::iter(rest)))))
    }

    async fn peer_status(
        &self,
        request: Request<v1::PeerStatusRequest>,
    ) -> Result<Response<v1::PeerStatusReply>, Status> {
        self.allowed(&request, &[Role::Peer, Role::Operator, Role::Observer])?;
        if caller(&request)?.role != Role::Observer {
            return self.ask(Ask::Status).await.map(Response::new);
        }
        // However many look on, this peer is asked as if it were one.
        let mut seen = self.seen.lock().await;
        if let Some((_, status)) = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Response::new(status.clone()));
        }
        let status = self.ask(Ask::Status).await?;
        *seen = Some((Instant::now(), status.clone()));
        Ok(Response::new(status))
    }

    async fn leave_run(
        &self,
        request: Request<v1::LeaveRunRequest>,
    ) -> Result<Response<v1::LeaveRunReply>, Status> {
        self.allowed(&request, &[Role::Operator])?;
        self.node.send(Input::Ask(Ask::Leave)).await.map_err(stopping)?;
        Ok(Response::new(v1::LeaveRunReply {}))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeReply>, Status> {
        self.allowed(&request, &[Role::Peer, Role::Operator])?;
        let number = self.revocations(&request.into_inner().revocations)?;
        Ok(Response::new(v1::RevokeReply { number }))
    }
}
