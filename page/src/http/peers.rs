//! The routes of an observer's page: what was seen at the last look, however many ask.

use super::{html, json, metrics, not_found};
use crate::peers::Peers;
use axum::{Router, extract::State, routing::get};
use tokio::sync::watch;

type Seen = State<watch::Receiver<Peers>>;

/// `/`, `/peers.json` and `/metrics` of the newest look.
pub fn of_peers(seen: watch::Receiver<Peers>) -> Router {
    Router::new()
        .route("/", get(async |State(seen): Seen| html(crate::html::peers(&seen.borrow()))))
        .route("/peers.json", get(async |State(seen): Seen| json(&serde_json::json!(*seen.borrow()))))
        .route("/metrics", get(async |State(seen): Seen| metrics(seen.borrow().metrics())))
        .fallback(not_found)
        .with_state(seen)
}
