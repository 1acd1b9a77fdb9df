//! The coordinator's page: what it shows is collected here and rendered by the crate `page`.
//!
//! Nothing that a reader does can hold up a run. Lists come in parts, histories are bounded, what was
//! collected is used again for a second whoever asks, a run that has no time to answer is shown as it was,
//! and whatever reads the store does so beside its writers.

mod door;
mod known;
mod look;
mod promise;

use crate::{Config, ServeError, service::Service};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{Response, StatusCode, Uri},
    routing::get,
};
use door::ForReaders;
use known::Known;
use look::Looks;
use page::{html, http, json, metrics};
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs in a part of the list.
const RUNS: usize = 50;
/// Workers in a part of the list.
const WORKERS: usize = 200;
/// Events in a part of a log.
const EVENTS: u64 = 50;

/// Listens where the configuration says that the page is, if it says so.
///
/// # Errors
/// If the page may not be there, or the address is taken.
pub async fn bind_page(config: &Config) -> Result<Option<TcpListener>, ServeError> {
    let Some(page) = &config.page else { return Ok(None) };
    page.check(config.tls.is_some()).map_err(ServeError::Page)?;
    let listener = TcpListener::bind(page.listen).await.map_err(|error| {
        let listen = page.listen;
        ServeError::Page(format!(
            "page.listen: cannot listen on {listen} ({error}); choose a free address of this machine under \
             [page] or with --page"
        ))
    })?;
    Ok(Some(listener))
}

/// Serves the page until told to stop.
pub(crate) async fn serve(service: Service, listener: TcpListener, stop: CancellationToken) {
    let secure = service.parts.config.page.as_ref().is_some_and(|page| page.tls);
    let door = ForReaders::new(Arc::clone(&service.parts.access), secure);
    if let Ok(address) = listener.local_addr() {
        let scheme = if secure { "https" } else { "http" };
        tracing::info!("the page is at {scheme}://{address}/");
    }
    http::serve(listener, router(service), door, stop).await;
}

type Answer = Response<Body>;
type Site = State<Arc<Looks>>;

fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/runs.json", get(runs_json))
        .route("/runs/{run}", get(run))
        .route("/runs/{run}/log", get(log))
        .route("/runs/{run}/log.json", get(log_json))
        .route("/workers", get(workers))
        .route("/workers.json", get(workers_json))
        .route("/metrics", get(prometheus))
        .route("/health.json", get(health))
        .fallback(http::not_found)
        .with_state(Arc::new(Looks::new(service)))
}

fn part(uri: &Uri) -> usize {
    http::number(uri, "page").and_then(|page| usize::try_from(page).ok()).unwrap_or(1)
}

async fn overview(State(looks): Site, uri: Uri) -> Answer {
    let runs = looks.part(part(&uri), RUNS).await;
    http::html(html::overview(&looks.site(), &runs))
}

async fn runs_json(State(looks): Site, uri: Uri) -> Answer {
    http::json(&json::runs(&looks.part(part(&uri), RUNS).await))
}

fn no_run(id: &str) -> Answer {
    let short: String = id.chars().take(80).collect();
    http::failure(StatusCode::NOT_FOUND, &format!("no run `{short}`"))
}

/// `/runs/ID` and `/runs/ID.json`.
async fn run(State(looks): Site, Path(name): Path<String>) -> Answer {
    // A run may have a dot in its name, even `.json`.
    let (id, is_json) = match name.strip_suffix(".json") {
        Some(id) if looks.find(&name).is_none() => (id, true),
        _ => (name.as_str(), false),
    };
    match looks.detail(id, EVENTS).await {
        None => no_run(id),
        Some(Err(error)) => http::failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Some(Ok(detail)) if is_json => http::json(&json::detail(&detail)),
        Some(Ok(detail)) => http::html(html::detail(&detail)),
    }
}

async fn log(State(looks): Site, Path(id): Path<String>, uri: Uri) -> Answer {
    match looks.log(&id, http::number(&uri, "from"), EVENTS).await {
        None => no_run(&id),
        Some(Err(error)) => http::failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Some(Ok((run, from, lines))) => http::html(html::log(&run, &lines, from, EVENTS)),
    }
}

/// An object with run, events (all there are), from and log.
async fn log_json(State(looks): Site, Path(id): Path<String>, uri: Uri) -> Answer {
    match looks.log(&id, http::number(&uri, "from"), EVENTS).await {
        None => no_run(&id),
        Some(Err(error)) => http::failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Some(Ok((run, from, lines))) => {
            let log: Vec<_> = lines.iter().map(json::line).collect();
            http::json(&json!({"run": run.summary.id, "events": run.events, "from": from, "log": log}))
        }
    }
}

async fn workers(State(looks): Site, uri: Uri) -> Answer {
    http::html(html::workers(&looks.workers(part(&uri), WORKERS)))
}

async fn workers_json(State(looks): Site, uri: Uri) -> Answer {
    http::json(&json::workers(&looks.workers(part(&uri), WORKERS)))
}

async fn prometheus(State(looks): Site) -> Answer {
    let runs = looks.for_metrics().await;
    http::metrics(metrics::of_site(&looks.site(), &runs))
}

/// For whoever watches the process: 503 while it cannot do its work. An object with serving, trouble.
async fn health(State(looks): Site) -> Answer {
    let site = looks.site();
    let mut answer = http::json(&json!({"serving": site.serving, "trouble": site.trouble}));
    if !site.serving {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}
