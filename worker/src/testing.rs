//! A coordinator in a few lines, on a real socket: what the tests of transfers and jobs talk to. It
//! can cut streams, keeps what it was sent and counts what it was asked.

use algorithms::Vector;
use proto::{
    PROTOCOL_VERSION,
    chunk::{bytes_of, chunks},
    digest::Digest,
    v1::{
        self, Chunk, CoordinatorMessage, FetchRequest, UploadReply, UploadRequest, WorkerMessage,
        coordinator_message::Body as Order,
        fleet_server::{Fleet, FleetServer},
        upload_reply::Body as Reply,
        upload_request::Body as Part,
        worker_message::Body,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Nothing in these tests takes so long.
const LATE: Duration = Duration::from_secs(20);

type Said<T> = Result<T, Status>;
type Replies<T> = Result<Response<ReceiverStream<Said<T>>>, Status>;

/// What the coordinator knows and has seen.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// What can be fetched.
    pub(crate) vectors: BTreeMap<Digest, Vector>,
    /// Every fetch: digest and offset.
    pub(crate) fetches: Vec<(Digest, u64)>,
    /// The next fetches are cut after so many chunks.
    pub(crate) cut_fetch: VecDeque<usize>,
    /// Every header that was offered.
    pub(crate) offers: Vec<v1::UploadHeader>,
    /// Headers on which a verdict was given.
    pub(crate) judged: Vec<v1::UploadHeader>,
    /// Payloads by digest, as far as they have arrived.
    pub(crate) payloads: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offsets at which payloads were asked for.
    pub(crate) asked: Vec<u64>,
    /// The next uploads are cut after so many chunks.
    pub(crate) cut_upload: VecDeque<usize>,
    /// Verdicts on the next whole payloads; then `applied`.
    pub(crate) verdicts: VecDeque<v1::UploadVerdict>,
    /// The next greetings are refused.
    pub(crate) refusals: VecDeque<v1::ErrorCode>,
}

/// The coordinator; stops when dropped.
pub(crate) struct Coordinator {
    pub(crate) address: String,
    book: Arc<Mutex<Book>>,
    sessions: mpsc::UnboundedReceiver<Conversation>,
    server: JoinHandle<()>,
}

/// One worker's session, as the coordinator sees it.
pub(crate) struct Conversation {
    orders: mpsc::Sender<Said<CoordinatorMessage>>,
    heard: mpsc::UnboundedReceiver<Body>,
}

struct Service {
    book: Arc<Mutex<Book>>,
    sessions: mpsc::UnboundedSender<Conversation>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let book = Arc::new(Mutex::new(Book::default()));
        let (opened, sessions) = mpsc::unbounded_channel();
        let service = FleetServer::new(Service { book: Arc::clone(&book), sessions: opened });
        let serving =
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, book, sessions, server }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Offers a vector.
    pub(crate) fn hold(&self, vector: &Vector) -> v1::VectorRef {
        let digest = Digest::of_vector(vector);
        self.book().vectors.insert(digest, Arc::clone(vector));
        v1::VectorRef { name: "w".into(), digest: digest.0.to_vec(), length: vector.len() as u64 }
    }

    /// The next session that was greeted.
    pub(crate) async fn session(&mut self) -> Conversation {
        timeout(LATE, self.sessions.recv()).await.expect("no worker connected").unwrap()
    }

    /// Waits until something was seen.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Book) -> bool) {
        let polling = async {
            while !holds(&self.book()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LATE, polling).await.unwrap_or_else(|_| panic!("{what} never came"));
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Conversation {
    pub(crate) async fn order(&self, body: Order) {
        self.orders.send(Ok(CoordinatorMessage { body: Some(body) })).await.unwrap();
    }

    /// Ends the session as a broken connection would.
    pub(crate) async fn cut(self) {
        self.orders.send(Err(Status::unavailable("cut"))).await.unwrap();
    }

    /// The next message that is no sign of life.
    pub(crate) async fn hear(&mut self) -> Body {
        loop {
            match timeout(LATE, self.heard.recv()).await.expect("the worker says nothing").unwrap() {
                Body::Heartbeat(_) | Body::Progress(_) => {}
                body => return body,
            }
        }
    }
}

#[tonic::async_trait]
impl Fleet for Service {
    type SessionStream = ReceiverStream<Said<CoordinatorMessage>>;
    type FetchStream = ReceiverStream<Said<Chunk>>;
    type UploadStream = ReceiverStream<Said<UploadReply>>;

    async fn session(&self, request: Request<Streaming<WorkerMessage>>) -> Replies<CoordinatorMessage> {
        let mut messages = request.into_inner();
        let (orders, out) = mpsc::channel(64);
        let (saying, heard) = mpsc::unbounded_channel();
        let (book, sessions) = (Arc::clone(&self.book), self.sessions.clone());
        tokio::spawn(async move {
            let Some(Ok(WorkerMessage { body: Some(Body::Hello(_)) })) = messages.next().await else {
                return;
            };
            let refusal = book.lock().unwrap().refusals.pop_front();
            let answer = refusal.map_or_else(welcome, |code| {
                Order::Refusal(v1::Refusal { code: code.into(), detail: "not you".into() })
            });
            let _ = orders.send(Ok(CoordinatorMessage { body: Some(answer) })).await;
            if refusal.is_some() {
                return;
            }
            let _ = sessions.send(Conversation { orders, heard });
            while let Some(Ok(message)) = messages.next().await {
                let _ = saying.send(message.body.unwrap());
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Replies<Chunk> {
        let FetchRequest { digest, offset, run: _ } = request.into_inner();
        let digest = Digest::from_bytes(&digest).unwrap();
        let (vector, cut) = {
            let mut book = self.book.lock().unwrap();
            book.fetches.push((digest, offset));
            (book.vectors.get(&digest).cloned(), book.cut_fetch.pop_front())
        };
        let vector = vector.ok_or_else(|| Status::not_found("no such vector"))?;
        let (chunk, out) = mpsc::channel(4);
        tokio::spawn(async move {
            let all = chunks(vec![bytes_of(&vector)], offset);
            for part in all.take(cut.unwrap_or(usize::MAX)) {
                let _ = chunk.send(Ok(part)).await;
            }
            if cut.is_some() {
                let _ = chunk.send(Err(Status::unavailable("cut"))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Replies<UploadReply> {
        let (reply, out) = mpsc::channel(4);
        let book = Arc::clone(&self.book);
        tokio::spawn(async move {
            if let Err(status) = receive(&book, request.into_inner(), &reply).await {
                let _ = reply.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

async fn receive(
    book: &Mutex<Book>,
    mut requests: Streaming<UploadRequest>,
    reply: &mpsc::Sender<Said<UploadReply>>,
) -> Result<(), Status> {
    let Some(Part::Header(header)) = requests.message().await?.and_then(|request| request.body) else {
        return Err(Status::invalid_argument("no header"));
    };
    let length: u64 = header.vectors.iter().map(|shape| shape.length * 4).sum();
    let (mut have, mut cut) = {
        let mut book = book.lock().unwrap();
        let have = book.payloads.entry(header.digest.clone()).or_default().len() as u64;
        book.offers.push(header.clone());
        (have, if have < length { book.cut_upload.pop_front() } else { None })
    };
    let mut outcome = v1::Outcome::Duplicate;
    if have < length {
        outcome = v1::Outcome::Applied;
        book.lock().unwrap().asked.push(have);
        say(reply, Reply::Ready(v1::UploadReady { offset: have })).await;
    }
    while have < length {
        if cut == Some(0) {
            return Err(Status::unavailable("cut"));
        }
        cut = cut.map(|left| left - 1);
        let Some(Part::Chunk(chunk)) = requests.message().await?.and_then(|request| request.body) else {
            return Err(Status::invalid_argument("no chunk"));
        };
        assert_eq!(chunk.offset, have);
        assert_eq!(chunk.crc32c, proto::chunk::chunk(0, chunk.data.clone()).crc32c);
        have += chunk.data.len() as u64;
        let mut book = book.lock().unwrap();
        let payload = book.payloads.entry(header.digest.clone()).or_default();
        // A later offer of the same payload may have taken over.
        if payload.len() as u64 != chunk.offset {
            return Err(Status::aborted("offered elsewhere"));
        }
        payload.extend_from_slice(&chunk.data);
    }
    let verdict = {
        let book = &mut *book.lock().unwrap();
        assert_eq!(header.digest, Digest::of(&book.payloads[&header.digest]).0);
        book.judged.push(header);
        book.verdicts.pop_front()
    };
    let plain = v1::UploadVerdict { outcome: outcome.into(), reason: 0, detail: String::new() };
    say(reply, Reply::Verdict(verdict.unwrap_or(plain))).await;
    Ok(())
}

async fn say(reply: &mpsc::Sender<Said<UploadReply>>, body: Reply) {
    let _ = reply.send(Ok(UploadReply { body: Some(body) })).await;
}

fn welcome() -> Order {
    Order::Welcome(v1::Welcome {
        protocol_version: PROTOCOL_VERSION,
        capabilities: Vec::new(),
        heartbeat_ms: 200,
        silence_ms: 15_000,
    })
}
