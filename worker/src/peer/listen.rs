//! Connections of other peers and of operators: accept, TLS with a deadline, and who is at the other end.

use identity::{Bundle, Current, Handshakes, Identity, Listen, Revoked, Socket};
use proto::limits;
use rustls::ServerConfig;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, transport::server::Connected};

/// Accepted connections that wait for the server.
const READY: usize = 64;

/// A connection of somebody with a certificate.
pub(super) struct Connection {
    io: Pin<Box<dyn Socket>>,
    who: Arc<Identity>,
}

/// Who is at the other end of a call.
///
/// # Errors
/// Never for calls over [`incoming`].
pub(super) fn caller<T>(request: &Request<T>) -> Result<Arc<Identity>, Status> {
    let who = request.extensions().get::<Arc<Identity>>().cloned();
    who.ok_or_else(|| Status::unauthenticated("a certificate is needed"))
}

/// The server's side of TLS, for a bundle.
///
/// # Errors
/// If the bundle cannot be used.
pub(super) fn tls(bundle: &Bundle) -> Result<Arc<ServerConfig>, String> {
    identity::server(Current::new(bundle)?, bundle.authority())
}

/// Accepts until the handle is dropped.
pub(super) fn incoming(
    listener: impl Listen,
    tls: Arc<ServerConfig>,
    revoked: &Revoked,
) -> (ReceiverStream<io::Result<Connection>>, AbortOnDropHandle<()>) {
    let (sender, ready) = mpsc::channel(READY);
    let handshakes = Handshakes { at_once: limits::HANDSHAKES, within: limits::HANDSHAKE };
    let revoked = revoked.clone();
    let open = move |io, _| open(io, Arc::clone(&tls), revoked.clone());
    let complain = |why: &str| tracing::warn!("{why}");
    let accepting = identity::accept(listener, handshakes, open, complain, sender);
    (ReceiverStream::new(ready), AbortOnDropHandle::new(tokio::spawn(accepting)))
}

async fn open(io: impl Socket, tls: Arc<ServerConfig>, revoked: Revoked) -> Result<Connection, String> {
    let (io, who) = identity::secure(io, tls).await?;
    let who = who.ok_or("it showed no certificate")?;
    // A revoked one may connect, to be told that it is: each of its calls is refused.
    let io: Pin<Box<dyn Socket>> = match revoked.check(&who) {
        Ok(()) => Box::pin(revoked.guard(io, who.clone())),
        Err(_) => io,
    };
    Ok(Connection { io, who: Arc::new(who) })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, to)
    }
}

identity::writes_to!(Connection, io);

impl Connected for Connection {
    type ConnectInfo = Arc<Identity>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.who)
    }
}
