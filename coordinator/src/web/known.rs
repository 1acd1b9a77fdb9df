//! What the page remembers of a run, so that a second look costs little and a thousandth costs the same.

use super::promise;
use crate::{
    run::{Command, RunHandle},
    store::{Store, StoreError},
};
use page::{
    History,
    view::{Privacy, Run},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// A look is used again for so long.
const FRESH: Duration = Duration::from_secs(1);
/// A run that does not answer within this time is shown as it was.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lines of metrics that one look reads; the next one goes on.
const LINES: usize = 20_000;

/// A run as it was seen last.
#[derive(Default)]
pub(super) struct Known {
    /// When, up to which event, and whether the run had ended.
    seen: Option<(Instant, u64, bool)>,
    history: History,
    /// Entries of the ledger, and what follows from them.
    promise: Option<(usize, Privacy)>,
    run: Arc<Run>,
}

impl Known {
    /// The run as it is now, or was a moment ago.
    pub(super) async fn look(&mut self, handle: &RunHandle, store: &Arc<Store>) -> Arc<Run> {
        let (next, ended) = *handle.log.borrow();
        let over = |seen: &(Instant, u64, bool)| seen.2 && seen.1 == next;
        if self.seen.is_some_and(|seen| seen.0.elapsed() < FRESH || over(&seen)) {
            return Arc::clone(&self.run);
        }
        let mut run = Run::clone(&self.run);
        run.summary = handle.summary.borrow().clone();
        run.events = next;
        if let Some((cohort, rejections)) =
            handle.ask_if_idle(PATIENCE, |reply| Command::Look { reply }).await
        {
            (run.cohort, run.rejections) = (cohort, rejections);
        }
        let (history, promise) = (std::mem::take(&mut self.history), self.promise.take());
        let (shared, reading) = (handle.clone(), Arc::clone(store));
        let read = tokio::task::spawn_blocking(move || read(&shared, &reading, (history, promise))).await;
        let mut whole = true;
        if let Ok((history, newest, promise, error)) = read {
            whole = error.is_none() && newest.is_some();
            if let Some(error) = error {
                tracing::warn!(run = run.summary.id, %error, "the page cannot read the store");
            }
            run.remember(newest.as_ref().unwrap_or(&history));
            run.privacy = promise.as_ref().map(|(_, privacy)| privacy.clone());
            (self.history, self.promise) = (history, promise);
        }
        // What is not read to its end is read on at the next look.
        self.seen = whole.then(|| (Instant::now(), next, ended));
        self.run = Arc::new(run);
        Arc::clone(&self.run)
    }
}

/// What was read before, and what follows from the ledger.
type Before = (History, Option<(usize, Privacy)>);
/// The same afterwards; between the two the history with the lines that may still change, once all others
/// were read; and what went wrong.
type After = (History, Option<History>, Option<(usize, Privacy)>, Option<StoreError>);

fn read(handle: &RunHandle, store: &Store, (mut history, promise): Before) -> After {
    let newest = catch_up(handle, store, &mut history);
    let promise = promised(handle, store, promise);
    let mut failed = None;
    let newest = newest.unwrap_or_else(|error| {
        failed = Some(error);
        None
    });
    let promise = promise.unwrap_or_else(|error| {
        failed = Some(error);
        None
    });
    (history, newest, promise, failed)
}

fn catch_up(handle: &RunHandle, store: &Store, history: &mut History) -> Result<Option<History>, StoreError> {
    let (run, ended) = (&handle.shared.id, handle.log.borrow().1);
    let told = if ended { u64::MAX } else { handle.shared.told.load(Ordering::Relaxed) };
    let lines = store.metrics_from(run, history.next(), LINES)?;
    let all = lines.len() < LINES;
    let (settled, open): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.round < told);
    for line in &settled {
        history.push(line);
    }
    Ok(all.then(|| {
        let mut newest = history.clone();
        for line in &open {
            newest.push(line);
        }
        newest
    }))
}

fn promised(
    handle: &RunHandle,
    store: &Store,
    known: Option<(usize, Privacy)>,
) -> Result<Option<(usize, Privacy)>, StoreError> {
    let Some(guard) = handle.shared.guard.as_deref() else { return Ok(None) };
    let dataset = &handle.shared.spec.data.name;
    let journal = store.journal(dataset)?;
    let entries = journal.as_ref().map_or(0, |journal| journal.entries().len());
    if known.as_ref().is_some_and(|known| known.0 == entries) {
        return Ok(known);
    }
    Ok(Some((entries, promise::of(guard, dataset, journal.as_deref()))))
}
