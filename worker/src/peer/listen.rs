//! Connections of other peers and of operators: accept, TLS with a deadline, and who is at the other end.

use identity::{Bundle, Current, Identity, Socket};
use proto::limits;
use rustls::ServerConfig;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, transport::server::Connected};

/// Accepted connections that wait for the server.
const READY: usize = 64;
/// A pause after the operating system could not accept.
const PAUSE: Duration = Duration::from_millis(100);

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
    listener: TcpListener,
    tls: Arc<ServerConfig>,
) -> (ReceiverStream<io::Result<Connection>>, AbortOnDropHandle<()>) {
    let (sender, ready) = mpsc::channel(READY);
    let places = Arc::new(Semaphore::new(limits::HANDSHAKES));
    let accepting = async move {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((io, address)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (tls, sender) = (Arc::clone(&tls), sender.clone());
            tokio::spawn(async move {
                let opened = timeout(limits::HANDSHAKE, open(io, tls)).await;
                drop(place);
                match opened {
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(why)) => tracing::warn!(%address, why, "a connection was not let in"),
                    Err(_) => tracing::warn!(%address, "a connection was not let in: no handshake in time"),
                }
            });
        }
    };
    (ReceiverStream::new(ready), AbortOnDropHandle::new(tokio::spawn(accepting)))
}

async fn open(io: tokio::net::TcpStream, tls: Arc<ServerConfig>) -> Result<Connection, String> {
    io.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = TlsAcceptor::from(tls).accept(io).await.map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let who = Identity::of(certificate.ok_or("it showed no certificate")?)?;
    Ok(Connection { io: Box::pin(stream), who: Arc::new(who) })
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
    type ConnectInfo = Arc<Identity>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.who)
    }
}
