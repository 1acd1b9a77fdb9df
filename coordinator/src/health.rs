//! What `grpc.health.v1` tells: whether this coordinator can do its work right now.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The services that health is told of, the empty name being the whole.
pub(crate) const SERVICES: [&str; 3] = ["", "starling.v1.Fleet", "starling.v1.Operator"];

/// Shared state of health.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    serving: watch::Sender<bool>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { serving: watch::Sender::new(true), trouble: Arc::default() }
    }

    /// The store failed.
    pub(crate) fn store_failed(&self, error: &str) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
        self.serving.send_if_modified(|serving| std::mem::replace(serving, false));
    }

    /// The store works (again).
    pub(crate) fn store_works(&self) {
        let was = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was.is_some() {
            tracing::info!("the store works again");
            self.serving.send_if_modified(|serving| !std::mem::replace(serving, true));
        }
    }

    /// Follows changes.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }
}
