//! From a listening socket to connections of known peers: accept, handshake with a deadline, limits.
//!
//! A connection ends when its certificate does, when it is revoked, and when whoever opened it does not
//! begin to speak HTTP/2 in time. It is the socket that fails then, so that everything on it ends.

use crate::access::{Access, Place};
use futures::Stream;
use identity::{Identity, Socket};
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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, mpsc},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Length of the preface by which an HTTP/2 client begins (RFC 9113, 3.4).
const PREFACE_BYTES: u64 = 24;
/// Accepted connections that wait for the server.
const READY: usize = 64;
/// A pause after the operating system could not accept, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from: the operating system, or a simulated network.
pub trait Listen: Send + 'static {
    /// Their bytes.
    type Io: Socket;
    /// The next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Listen for tokio::net::TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        let (stream, address) = Self::accept(self).await?;
        // Without this a round waits 40 ms for each delayed acknowledgement.
        stream.set_nodelay(true)?;
        Ok((stream, address))
    }
}

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

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Accepts until told to stop.
pub(crate) fn incoming<L: Listen>(
    mut listener: L,
    access: Arc<Access>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, ready) = mpsc::channel(READY);
    let handshakes = Arc::new(Semaphore::new(limits::HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let (slot, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = async {
                    let slot = Arc::clone(&handshakes).acquire_owned().await;
                    (slot, listener.accept().await)
                } => next,
            };
            let (io, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    access.complain(&format!("a connection could not be accepted: {error}"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (access, sender) = (Arc::clone(&access), sender.clone());
            tokio::spawn(async move {
                let opened = timeout(limits::HANDSHAKE, open(&access, io, address)).await;
                drop(slot);
                match opened {
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(why)) => access.complain(&format!("{address} was not let in: {why}")),
                    Err(_) => access.complain(&format!("{address} was not let in: no handshake in time")),
                }
            });
        }
    });
    ReceiverStream::new(ready)
}

async fn open(access: &Access, io: impl Socket, address: SocketAddr) -> Result<Connection, String> {
    let mut place = access.connections().enter()?;
    let cancel = CancellationToken::new();
    let (io, identity): (Pin<Box<dyn Socket>>, _) = match access.tls() {
        None => (Box::pin(io), None),
        Some(tls) => {
            let stream = tokio_rustls::TlsAcceptor::from(tls).accept(io).await.map_err(|e| e.to_string())?;
            let identity = match stream.get_ref().1.peer_certificates() {
                Some([certificate, ..]) => Some(Identity::of(certificate)?),
                _ => None,
            };
            // A revoked one may connect, to be told that it is: each of its calls is refused.
            place.name(identity.as_ref(), &cancel)?;
            (Box::pin(stream), identity)
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
