//! When a simulation stops before its end, between two rounds, so that it can go on later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// A simulation stops at the first round that opens when this is due. Copies stand for the same thing.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    at: Option<Instant>,
    said: Arc<AtomicBool>,
}

impl Stop {
    /// Due from that instant on.
    pub fn at(instant: Option<Instant>) -> Self {
        Self { at: instant, said: Arc::default() }
    }

    /// Makes it due.
    pub fn say(&self) {
        self.said.store(true, Ordering::Relaxed);
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        self.said.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }
}
