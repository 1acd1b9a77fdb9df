//! A read-only HTTP server for pages, which must never cost its host much: few connections, each for one
//! request, bounded in time and size; whoever is slow or rude loses its own connection and nothing else.
//! HTTP/1.1, with TLS if the [`Door`] has it. It routes with axum, which answers 404 and 405 by itself.

mod peers;
mod query;

pub use peers::of_peers;
pub use query::number;

use axum::{
    Router,
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::{Handshakes, Identity, Socket};
use rustls::ServerConfig;
use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections at the same time; more wait for accept.
const CONNECTIONS: usize = 64;
/// TLS and the request must be there within this time.
const REQUEST: Duration = Duration::from_secs(5);
/// An answer is made within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection lasts so long at most: whoever reads an answer slowly is cut off.
const CONNECTION: Duration = Duration::from_secs(30);
/// A request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Once told to stop, answers that are under way may take so long.
const DRAIN: Duration = Duration::from_secs(2);

/// Nothing but what the page itself brings.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Who may read.
pub trait Door: Send + Sync + 'static {
    /// How connections are secured; `None`: not at all.
    fn tls(&self) -> Option<Arc<ServerConfig>>;

    /// Lets a reader in, or says why not. `who`: from its certificate, if it showed one.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, who: Option<&Identity>) -> Result<(), String>;
}

/// No encryption, and everybody who reaches the address may read.
#[derive(Debug, Clone, Copy)]
pub struct Open;

impl Door for Open {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        None
    }

    fn admit(&self, _: Option<&Identity>) -> Result<(), String> {
        Ok(())
    }
}

struct Visitor {
    io: Pin<Box<dyn Socket>>,
    /// Why it may not read.
    refused: Option<String>,
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, router: Router, door: impl Door, stop: CancellationToken) {
    // Other names than a loopback address has are a web site's that resolves to here, to read what it must not.
    let only_here = door.tls().is_none() && listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
    let door = Arc::new(door);
    let (sender, mut ready) = mpsc::channel(1);
    let open = move |io, _: SocketAddr| open(Arc::clone(&door), io);
    let handshakes = Handshakes { at_once: CONNECTIONS, within: REQUEST };
    let complain = |why: &str| tracing::debug!("the page: {why}");
    let accepting = tokio::spawn(identity::accept(listener, handshakes, open, complain, sender));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut visits = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let next = async { (place.await, ready.recv().await) };
        let visitor = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            (place, visitor) = next => place.ok().zip(visitor),
        };
        let Some((place, visitor)) = visitor else { break };
        let Ok(visitor) = visitor else { continue };
        while visits.try_join_next().is_some() {}
        let router = router.clone();
        visits.spawn(async move {
            let _place = place;
            // One that takes too long, or breaks off, has lost its answer: nothing to do.
            let _ = timeout(CONNECTION, visit(visitor, router, only_here)).await;
        });
    }
    accepting.abort();
    let _ = timeout(DRAIN, async { while visits.join_next().await.is_some() {} }).await;
}

async fn open<D: Door>(door: Arc<D>, io: impl Socket) -> Result<Visitor, String> {
    let (io, who): (Pin<Box<dyn Socket>>, _) = match door.tls() {
        None => (Box::pin(io), None),
        Some(tls) => identity::secure(io, tls).await?,
    };
    Ok(Visitor { io, refused: door.admit(who.as_ref()).err() })
}

async fn visit(visitor: Visitor, router: Router, only_here: bool) {
    let Visitor { io, refused } = visitor;
    let service = service_fn(|request: Request<Incoming>| {
        let (router, refused) = (router.clone(), refused.clone());
        async move {
            let answer = match refused {
                Some(why) => failure(StatusCode::FORBIDDEN, &why),
                None if only_here && !is_local(request.headers()) => {
                    let why = "this page is for http://localhost and addresses of this machine only";
                    failure(StatusCode::MISDIRECTED_REQUEST, why)
                }
                None => match timeout(ANSWER, router.oneshot(request)).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(never)) => match never {},
                    Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "this took too long; try again"),
                },
            };
            Ok::<_, Infallible>(guarded(answer))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a visit to the page broke off");
    }
}

/// Whether the request is for an address, or for this machine's own name.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

/// What every answer says to browsers.
fn guarded(mut answer: Response<Body>) -> Response<Body> {
    let said: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in said {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A page.
pub fn html(text: String) -> Response<Body> {
    content(StatusCode::OK, "text/html; charset=utf-8", text)
}

/// A JSON value.
pub fn json(value: &serde_json::Value) -> Response<Body> {
    content(StatusCode::OK, "application/json", value.to_string())
}

/// Metrics.
pub fn metrics(text: String) -> Response<Body> {
    content(StatusCode::OK, crate::metrics::CONTENT_TYPE, text)
}

/// A page that says what went wrong.
pub fn failure(status: StatusCode, why: &str) -> Response<Body> {
    content(status, "text/html; charset=utf-8", crate::html::wrong(&status.to_string(), why))
}

/// For [`Router::fallback`].
#[allow(clippy::unused_async, reason = "what the router takes")]
pub async fn not_found() -> Response<Body> {
    failure(StatusCode::NOT_FOUND, "nothing is served here")
}

fn content(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
