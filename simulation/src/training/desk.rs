//! Between the round and the lanes: orders by the virtual time of their arrival, results that wait for
//! their turn.
//!
//! Lanes take the earliest order first, and no more than a window ahead of what was taken back: memory
//! holds that many results, however large the cohort is.

use super::lane::{Order, Report};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Virtual time of arrival, and a number that makes it unique.
pub(super) type Key = (u64, u64);

#[derive(Debug, Default)]
struct Papers {
    todo: BTreeMap<Key, Order>,
    running: BTreeMap<Key, Arc<AtomicBool>>,
    done: BTreeMap<Key, Report>,
    /// Nobody waits for these any more.
    dropped: BTreeSet<Key>,
    closed: bool,
}

/// Orders and results.
#[derive(Debug)]
pub(super) struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
    window: usize,
}

impl Desk {
    /// For so many lanes.
    pub(super) fn new(lanes: usize) -> Self {
        Self { papers: Mutex::default(), changed: Condvar::new(), window: 2 * lanes }
    }

    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays an order down.
    pub(super) fn order(&self, key: Key, order: Order) {
        self.papers().todo.insert(key, order);
        self.changed.notify_all();
    }

    /// Nobody waits for it any more.
    pub(super) fn cancel(&self, key: Key) {
        let mut papers = self.papers();
        papers.todo.remove(&key);
        papers.done.remove(&key);
        if let Some(flag) = papers.running.get(&key) {
            flag.store(true, Ordering::Relaxed);
            papers.dropped.insert(key);
        }
        drop(papers);
        self.changed.notify_all();
    }

    /// Waits for a result.
    pub(super) fn take(&self, key: Key) -> Report {
        let mut papers = self.papers();
        loop {
            if let Some(report) = papers.done.remove(&key) {
                self.changed.notify_all();
                return report;
            }
            papers = self.changed.wait(papers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next order for a lane, and whether it was cancelled; `None` when the simulation is over.
    pub(super) fn next(&self) -> Option<(Key, Order, Arc<AtomicBool>)> {
        let mut papers = self.papers();
        loop {
            if papers.closed {
                return None;
            }
            if let Some(key) = papers.startable(self.window)
                && let Some(order) = papers.todo.remove(&key)
            {
                let flag = Arc::new(AtomicBool::new(false));
                papers.running.insert(key, Arc::clone(&flag));
                return Some((key, order, flag));
            }
            papers = self.changed.wait(papers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A lane is done.
    pub(super) fn done(&self, key: Key, report: Report) {
        let mut papers = self.papers();
        papers.running.remove(&key);
        if !papers.dropped.remove(&key) {
            papers.done.insert(key, report);
        }
        drop(papers);
        self.changed.notify_all();
    }

    /// The lanes may go.
    pub(super) fn close(&self) {
        let mut papers = self.papers();
        papers.closed = true;
        papers.running.values().for_each(|flag| flag.store(true, Ordering::Relaxed));
        drop(papers);
        self.changed.notify_all();
    }
}

impl Papers {
    /// The earliest order, if there is room for its result, or if what fills the room arrives later.
    fn startable(&self, window: usize) -> Option<Key> {
        let (key, _) = self.todo.first_key_value()?;
        let others = [self.running.keys().next(), self.done.keys().next()];
        let first = others.into_iter().flatten().all(|other| key < other);
        (first || self.running.len() + self.done.len() < window).then_some(*key)
    }
}
