//! How a client's connection is made: a socket from somewhere (the operating system, or a simulated
//! network), and TLS over it.

use crate::{
    name::{Identity, Role},
    revocation::Revoked,
};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;
use tower::Service;

/// Bytes in and out.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// Opens sockets.
pub trait Dial: Send + Sync + fmt::Debug {
    /// A socket to a host and a port.
    fn dial(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Socket>>>;
}

/// Sockets of the operating system, without Nagle's delay.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Socket>)
        })
    }
}

/// For tonic's endpoints: a socket, with TLS over it when there is a configuration for it.
#[derive(Clone, Debug)]
pub struct Connector {
    dial: Arc<dyn Dial>,
    tls: Option<Arc<ClientConfig>>,
    /// What the server's certificate must name; absent: the host that is dialled.
    host: Option<&'static str>,
    /// Whose certificate it must be.
    holder: Option<(Role, Arc<str>)>,
    revoked: Revoked,
}

impl Connector {
    /// With TLS or, knowingly, without.
    pub fn new(dial: Arc<dyn Dial>, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { dial, tls, host: None, holder: None, revoked: Revoked::default() }
    }

    /// To servers whose certificate names `host`, wherever they are.
    #[must_use]
    pub fn named(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    /// To nobody whose certificate was revoked; a connection ends when that happens.
    #[must_use]
    pub fn except(self, revoked: Revoked) -> Self {
        Self { revoked, ..self }
    }

    /// To nobody but the holder of that role and name.
    #[must_use]
    pub fn to(self, role: Role, name: &str) -> Self {
        Self { holder: Some((role, name.into())), ..self }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Socket>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dial, tls, host: named, holder, revoked } = self.clone();
        Box::pin(async move {
            let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {why}"));
            // An address of version 6 stands in brackets.
            let host = uri.host().ok_or_else(|| wrong("no host"))?.trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
            let socket = dial.dial(host.clone(), port).await?;
            let Some(tls) = tls else { return Ok(TokioIo::new(socket)) };
            let host = named.map_or(host, str::to_owned);
            let name = ServerName::try_from(host).map_err(|error| wrong(&error.to_string()))?;
            let stream = TlsConnector::from(tls).connect(name, socket).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let who = shown.and_then(|certificate| Identity::of(certificate).ok());
            if let Some((role, name)) = holder
                && who.as_ref().is_none_or(|who| who.role != role || who.name != *name)
            {
                let who = who.map_or_else(|| "nobody".to_owned(), |who| who.to_string());
                return Err(wrong(&format!("{who} answers there, not {role} `{name}`")));
            }
            let Some(who) = who else { return Ok(TokioIo::new(Box::new(stream) as Box<dyn Socket>)) };
            revoked.check(&who).map_err(|why| wrong(&why))?;
            Ok(TokioIo::new(Box::new(revoked.guard(stream, who)) as Box<dyn Socket>))
        })
    }
}
