//! How a server's connections are accepted: sockets from somewhere (the operating system, or a simulated
//! network), each opened in a task and a time of its own, so that nobody who is slow holds up others.

use crate::{Identity, Socket};
use rustls::ServerConfig;
use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// A pause after the operating system could not accept, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listen: Send + 'static {
    /// Their bytes.
    type Io: Socket;
    /// The next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        let (stream, address) = Self::accept(self).await?;
        // Without this a round waits 40 ms for each delayed acknowledgement.
        stream.set_nodelay(true)?;
        Ok((stream, address))
    }
}

/// Connections that may be opened at the same time, and the time for each.
#[derive(Debug, Clone, Copy)]
pub struct Handshakes {
    /// How many.
    pub at_once: usize,
    /// How long.
    pub within: Duration,
}

/// Accepts, opens and hands over until dropped. Whom it does not let in, it complains about.
pub async fn accept<L: Listen, C: Send + 'static, O>(
    mut listener: L,
    handshakes: Handshakes,
    open: impl Fn(L::Io, SocketAddr) -> O,
    complain: impl Fn(&str) + Clone + Send + 'static,
    ready: mpsc::Sender<io::Result<C>>,
) where
    O: Future<Output = Result<C, String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(handshakes.at_once));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (io, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                complain(&format!("a connection could not be accepted: {error}"));
                sleep(PAUSE).await;
                continue;
            }
        };
        let (opening, complain, ready) = (open(io, address), complain.clone(), ready.clone());
        tokio::spawn(async move {
            let opened = timeout(handshakes.within, opening).await;
            drop(place);
            match opened {
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(why)) => complain(&format!("{address} was not let in: {why}")),
                Err(_) => complain(&format!("{address} was not let in: no handshake in time")),
            }
        });
    }
}

/// TLS over a socket, and who showed a certificate.
///
/// # Errors
/// If the handshake fails or the certificate names nobody.
pub async fn secure(
    io: impl Socket,
    tls: Arc<ServerConfig>,
) -> Result<(Pin<Box<dyn Socket>>, Option<Identity>), String> {
    let stream = TlsAcceptor::from(tls).accept(io).await.map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = certificate.map(Identity::of).transpose()?;
    Ok((Box::pin(stream), identity))
}

/// `AsyncWrite` of a connection by that of its field.
#[macro_export]
macro_rules! writes_to {
    ($connection:ty, $io:ident) => {
        impl ::tokio::io::AsyncWrite for $connection {
            fn poll_write(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bytes: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                self.$io.as_mut().poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                slices: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                self.$io.as_mut().poll_write_vectored(cx, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.$io.is_write_vectored()
            }

            fn poll_flush(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                self.$io.as_mut().poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                self.$io.as_mut().poll_shutdown(cx)
            }
        }
    };
}
