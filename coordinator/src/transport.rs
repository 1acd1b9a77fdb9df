//! From a listening socket to connections of known peers: accept, handshake with a deadline, limits.
//!
//! A connection ends when its certificate does, when it is revoked, and when whoever opened it does not
//! begin to speak HTTP/2 in time. It is the socket that fails then, so that everything on it ends.

use crate::access::{Access, Place};
use futures::Stream;
use identity::{Handshakes, Identity, Listen, Socket};
use proto::limits;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Length of the preface by which an HTTP/2 client begins (RFC 9113, 3.4).
const PREFACE_BYTES: u64 = 24;
/// Accepted connections that wait for the server.
const READY: usize = 64;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// From its certificate, if it showed one.
    pub(crate) identity: Option<Arc<Identity>>,
}

/// A connection that HTTP/2 may be spoken on.
pub(crate) struct Connection {
    io: Pin<Box<dyn Socket>>,
    peer: Peer,
    received: u64,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until the preface is there: when it must be; then: when the certificate ends.
    until: Pin<Box<Sleep>>,
    ends: Option<Instant>,
    _place: Place,
}

impl Connection {
    /// Whether it may go on; asks to be woken when it may not.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "revoked"));
        }
        let spoken = self.received >= PREFACE_BYTES;
        if spoken && self.ends.is_none() {
            return Ok(());
        }
        if self.until.as_mut().poll(cx).is_ready() {
            let why = if spoken { "its time is over" } else { "it did not speak HTTP/2 in time" };
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }

    fn count(&mut self, read: usize) {
        let before = self.received;
        self.received += read as u64;
        if before < PREFACE_BYTES
            && self.received >= PREFACE_BYTES
            && let Some(ends) = self.ends
        {
            self.until.as_mut().reset(ends);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(cx)?;
        let before = buffer.filled().len();
        let polled = this.io.as_mut().poll_read(cx, buffer);
        this.count(buffer.filled().len() - before);
        polled
    }
}

identity::writes_to!(Connection, io);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Accepts until told to stop.
pub(crate) fn incoming<L: Listen>(
    listener: L,
    access: Arc<Access>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, ready) = mpsc::channel(READY);
    let handshakes = Handshakes { at_once: limits::HANDSHAKES, within: limits::HANDSHAKE };
    let complainant = Arc::clone(&access);
    let open = move |io, address| {
        let access = Arc::clone(&access);
        async move { open(&access, io, address).await }
    };
    let complain = move |text: &str| complainant.complain(text);
    let accepting = identity::accept(listener, handshakes, open, complain, sender);
    tokio::spawn(async move { stop.run_until_cancelled(accepting).await });
    ReceiverStream::new(ready)
}

async fn open(access: &Access, io: impl Socket, address: SocketAddr) -> Result<Connection, String> {
    let mut place = access.connections().enter()?;
    let cancel = CancellationToken::new();
    let (io, identity): (Pin<Box<dyn Socket>>, _) = match access.tls() {
        None => (Box::pin(io), None),
        Some(tls) => {
            let (io, identity) = identity::secure(io, tls).await?;
            // A revoked one may connect, to be told that it is: each of its calls is refused.
            place.name(identity.as_ref(), &cancel)?;
            (io, identity)
        }
    };
    let left = match (&identity, access.is_open()) {
        (Some(identity), _) => {
            Some(Duration::from_secs(identity.not_after.saturating_sub(crate::Clock::wall_s())))
        }
        (None, false) => Some(limits::ANONYMOUS),
        (None, true) => None,
    };
    let now = Instant::now();
    let identity = identity.map(Arc::new);
    Ok(Connection {
        io,
        peer: Peer { address, identity },
        received: 0,
        cut: Box::pin(cancel.cancelled_owned()),
        until: Box::pin(sleep_until(now + limits::HANDSHAKE)),
        ends: left.map(|left| now + left),
        _place: place,
    })
}
