//! Messages to other peers: small ones in order, of vectors the newest of each kind, each until the other
//! end has it whole. Losing one is allowed, since the mixing machine repeats what has no answer; what has
//! arrived of a vector stays there, and a repetition goes on from it.

use super::{
    complaint::Complaints,
    form::words,
    net::{Lane, Net},
};
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use gossip::machine::{Body, Envelope, Payload};
use proto::{
    chunk::chunks,
    digest::Digest,
    limits::{CALL, STALL},
    peers,
    v1::{self, hand_reply::Body as Reply, hand_request::Body as Hand},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

/// Small messages to one peer that wait.
const QUEUE: usize = 64;
/// Tries of a vector, one after the other; then the machine's repetition is the next.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(150);

/// Since when nothing gets through to a peer, if that is so.
#[derive(Default)]
struct Silence(Mutex<Option<Instant>>);

impl Silence {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a call that began at that time.
    fn note(&self, began: Instant, got_through: bool) {
        let mut since = self.lock();
        *since = if got_through { None } else { Some(since.map_or(began, |since| since.min(began))) };
    }
}

/// Whether the other end has answered, be it with a refusal.
fn answered(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// Of one peer.
struct Mailbox {
    silence: Arc<Silence>,
    address: watch::Sender<String>,
    small: mpsc::Sender<v1::TellRequest>,
    vectors: Arc<Vectors>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What is to be handed to one peer: at most one transfer and one answer, since a link has no more.
#[derive(Default)]
struct Vectors {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    /// By whether it is an answer.
    next: [Option<Envelope<f32>>; 2],
    /// Is being handed over.
    doing: Option<Key>,
}

/// What tells two messages with vectors apart: kind, incarnations, number.
type Key = (bool, u64, u64, u64);

fn key(envelope: &Envelope<f32>) -> Option<Key> {
    let (kind, seq) = match &envelope.body {
        Body::Transfer(transfer) => (false, transfer.seq),
        Body::Verdict { seq, .. } => (true, *seq),
        _ => return None,
    };
    Some((kind, envelope.from.incarnation, envelope.to.incarnation, seq))
}

/// All mailboxes.
pub(super) struct Post {
    net: Net,
    run: Vec<u8>,
    boxes: BTreeMap<u64, Mailbox>,
    /// Bytes of vectors and masses that were handed over.
    sent: Arc<AtomicU64>,
    complaints: Arc<Complaints>,
}

impl Post {
    pub(super) fn new(net: Net, run: [u8; 32]) -> Self {
        Self {
            net,
            run: run.to_vec(),
            boxes: BTreeMap::new(),
            sent: Arc::default(),
            complaints: Arc::default(),
        }
    }

    /// Bytes of vectors and masses that were handed over so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Where the peer of that name is from now on.
    pub(super) fn locate(&mut self, name: &str, address: &str) {
        let id = peers::id_of(name);
        if let Some(known) = self.boxes.get(&id) {
            known.address.send_if_modified(|old| {
                let moved = old != address;
                if moved {
                    address.clone_into(old);
                }
                moved
            });
            return;
        }
        let (sender, place) = watch::channel(address.to_owned());
        let (small, queue) = mpsc::channel(QUEUE);
        let vectors = Arc::<Vectors>::default();
        let silence = Arc::<Silence>::default();
        let line = Line {
            net: self.net.clone(),
            name: name.into(),
            place,
            run: self.run.clone(),
            silence: Arc::clone(&silence),
            complaints: Arc::clone(&self.complaints),
        };
        let telling = tell(line.clone(), queue);
        let handing = hand(line, Arc::clone(&vectors), Arc::clone(&self.sent));
        let tasks = [tokio::spawn(telling), tokio::spawn(handing)].map(AbortOnDropHandle::new);
        self.boxes.insert(id, Mailbox { silence, address: sender, small, vectors, _tasks: tasks });
    }

    /// How long nothing has got through to a peer.
    pub(super) fn silent(&self, id: u64) -> Duration {
        let since = self.boxes.get(&id).and_then(|mailbox| *mailbox.silence.lock());
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sends a machine's message.
    pub(super) fn send(&self, envelope: Envelope<f32>) {
        let Some(mailbox) = self.boxes.get(&envelope.to.id) else { return };
        let (message, payload) = peers::write(&envelope);
        match (payload, key(&envelope)) {
            (Some(_), Some(key)) => {
                let mut waiting = mailbox.vectors.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.doing != Some(key) {
                    waiting.next[usize::from(key.0)] = Some(envelope);
                    mailbox.vectors.bell.notify_one();
                }
            }
            _ => self.tell(envelope.to.id, v1::tell_request::Body::Message(message)),
        }
    }

    /// Sends something small.
    pub(super) fn tell(&self, to: u64, body: v1::tell_request::Body) {
        if let Some(mailbox) = self.boxes.get(&to) {
            // A full queue is a peer that cannot be reached: what it misses is repeated.
            let _ = mailbox.small.try_send(v1::TellRequest { run: self.run.clone(), body: Some(body) });
        }
    }
}

async fn tell(line: Line, mut queue: mpsc::Receiver<v1::TellRequest>) {
    while let Some(request) = queue.recv().await {
        let address = line.place.borrow().clone();
        let Ok(mut client) = line.net.client_of(&line.name, &address, Lane::Small) else { continue };
        let began = Instant::now();
        let reply = timeout(CALL, client.tell(request)).await;
        line.silence.note(began, matches!(&reply, Ok(reply) if reply.as_ref().err().is_none_or(answered)));
        match reply {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                if status.code() == Code::Unauthenticated {
                    line.complaints.tell(&line.name, status.message());
                }
                tracing::debug!(address, code = ?status.code(), why = status.message(), "not told");
                sleep(PAUSE).await;
            }
            Err(_) => tracing::debug!(address, "not told in time"),
        }
    }
}

#[derive(Clone)]
struct Line {
    net: Net,
    name: Arc<str>,
    place: watch::Receiver<String>,
    run: Vec<u8>,
    silence: Arc<Silence>,
    complaints: Arc<Complaints>,
}

async fn hand(line: Line, vectors: Arc<Vectors>, sent: Arc<AtomicU64>) {
    loop {
        vectors.bell.notified().await;
        while let Some((envelope, key)) = take(&vectors) {
            for attempt in 0..TRIES {
                let began = Instant::now();
                match attempt_one(&line, &envelope).await {
                    Ok(bytes) => {
                        line.silence.note(began, true);
                        sent.fetch_add(bytes, Ordering::Relaxed);
                        break;
                    }
                    Err(why) => {
                        line.silence.note(began, false);
                        tracing::debug!(
                            to = envelope.to.id,
                            seq = key.3,
                            why,
                            "a vector was not handed over"
                        );
                        let newer = {
                            let waiting = vectors.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                            waiting.next[usize::from(key.0)].is_some()
                        };
                        if newer {
                            break;
                        }
                        sleep(PAUSE * (1 << attempt)).await;
                    }
                }
            }
            vectors.waiting.lock().unwrap_or_else(PoisonError::into_inner).doing = None;
        }
    }
}

fn take(vectors: &Vectors) -> Option<(Envelope<f32>, Key)> {
    let mut waiting = vectors.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    // Answers first: somebody waits for them.
    let envelope = waiting.next[1].take().or_else(|| waiting.next[0].take())?;
    let key = key(&envelope)?;
    waiting.doing = Some(key);
    Some((envelope, key))
}

/// A vector's bytes, shared with the ledger.
struct Shared(Payload<f32>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(words(&self.0))
    }
}

/// One try; the bytes that the message has when it was handed over by this one.
async fn attempt_one(line: &Line, envelope: &Envelope<f32>) -> Result<u64, String> {
    let (message, payload) = peers::write(envelope);
    let Some(payload) = payload else { return Ok(0) };
    let mass = match &message.body {
        Some(v1::peer_message::Body::Transfer(v1::PeerTransfer { content, .. })) => {
            matches!(content, Some(v1::peer_transfer::Content::Mass(_)))
        }
        _ => false,
    };
    let length = words(&payload).len() as u64;
    let bytes = length * 4 + if mass { 8 } else { 0 };
    let header = v1::HandHeader {
        run: line.run.clone(),
        message: Some(message),
        length,
        digest: Digest::of_vector(words(&payload)).0.to_vec(),
    };
    let (start, started) = oneshot::channel();
    let parts = vec![Bytes::from_owner(Shared(payload))];
    let vector =
        stream::once(started).filter_map(|offset| future::ready(offset.ok())).flat_map(move |offset| {
            stream::iter(
                chunks(parts.clone(), offset).map(|chunk| v1::HandRequest { body: Some(Hand::Chunk(chunk)) }),
            )
        });
    let first = stream::iter([v1::HandRequest { body: Some(Hand::Header(header)) }]);
    let address = line.place.borrow().clone();
    let mut client = line.net.client_of(&line.name, &address, Lane::Vectors)?;
    let failed = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
    let call = timeout(CALL, client.hand(first.chain(vector))).await.map_err(|_| "no answer".to_owned())?;
    let mut replies = call.map_err(failed)?.into_inner();
    let mut start = Some(start);
    loop {
        // The whole may take longer on a slow line, but then chunks go out and the window moves.
        let reply = timeout(STALL * 6, replies.message()).await.map_err(|_| "nothing moved".to_owned())?;
        match reply.map_err(failed)?.and_then(|reply| reply.body) {
            Some(Reply::Ready(ready)) => {
                let start = start.take().ok_or("asked twice to start")?;
                start.send(ready.offset).map_err(|_| "the connection closed".to_owned())?;
            }
            // Already there before a byte was sent: not counted twice.
            Some(Reply::Taken(_)) => return Ok(if start.is_some() { 0 } else { bytes }),
            None => return Err("closed without a receipt".into()),
        }
    }
}
