//! The simulated network behind the two seams: where the coordinator accepts and where a worker dials.

use coordinator::Listen;
use futures::future::BoxFuture;
use identity::{Dial, Socket};
use std::{io, net::SocketAddr};
use turmoil::net::{TcpListener, TcpStream};

/// Where the coordinator listens in every scene.
pub(crate) const PORT: u16 = 7077;

/// A listening socket of a simulated host.
pub(crate) struct Port(TcpListener);

impl Port {
    /// Bound on all addresses of the host that asks.
    pub(crate) async fn bind() -> io::Result<Self> {
        Self::bind_at(PORT).await
    }

    /// The same at another port.
    pub(crate) async fn bind_at(port: u16) -> io::Result<Self> {
        TcpListener::bind(("0.0.0.0", port)).await.map(Self)
    }
}

impl Listen for Port {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        self.0.accept().await
    }
}

/// Sockets of the simulated host that asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cable;

impl Dial for Cable {
    fn dial(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            Ok(Box::new(stream) as Box<dyn Socket>)
        })
    }
}
