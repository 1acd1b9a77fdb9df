//! What `grpc.health.v1` tells: whether this coordinator can do its work right now, and if not, why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// The services that health is told of, the empty name being the whole.
pub(crate) const SERVICES: [&str; 4] =
    ["", "starling.v1.Access", "starling.v1.Fleet", "starling.v1.Operator"];

/// What can fail while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The disk.
    Store,
    /// The coordinator's certificate, or its authority's.
    Certificate,
}

impl Part {
    fn label(self) -> &'static str {
        match self {
            Self::Store => "the store",
            Self::Certificate => "the certificate",
        }
    }
}

/// Shared state of health.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    serving: watch::Sender<bool>,
    trouble: Arc<Mutex<BTreeMap<Part, String>>>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { serving: watch::Sender::new(true), trouble: Arc::default() }
    }

    /// A part failed.
    pub(crate) fn failed(&self, part: Part, error: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.insert(part, error.to_owned()).as_deref() != Some(error) {
            tracing::error!(error, "{} failed: not serving", part.label());
        }
        self.serving.send_if_modified(|serving| std::mem::replace(serving, false));
    }

    /// A part works (again).
    pub(crate) fn works(&self, part: Part) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.remove(&part).is_none() {
            return;
        }
        tracing::info!("{} works again", part.label());
        if trouble.is_empty() {
            self.serving.send_if_modified(|serving| !std::mem::replace(serving, true));
        }
    }

    /// Whether everything works, and what does not.
    pub(crate) fn told(&self) -> (bool, Vec<String>) {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let told = trouble.iter().map(|(part, error)| format!("{} failed: {error}", part.label())).collect();
        (trouble.is_empty(), told)
    }

    /// Follows changes.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_again_when_everything_is_mended() {
        let health = Health::new();
        let watch = health.watch();
        health.failed(Part::Store, "full");
        health.failed(Part::Certificate, "expired");
        assert!(!*watch.borrow());
        health.works(Part::Store);
        assert!(!*watch.borrow(), "the certificate has still expired");
        health.works(Part::Certificate);
        assert!(*watch.borrow());
        health.works(Part::Certificate);
        assert!(*watch.borrow());
    }
}
