//! Collecting what pages show.

use super::Known;
use crate::{run::RunHandle, service::Service, store::StoredEvent};
use futures::{StreamExt, stream};
use page::{
    events,
    view::{Census, Detail, Line, Part, Run, Site, Workers},
};
use proto::v1::WorkerSummary;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Runs that are remembered.
const MOST: usize = 256;
/// Runs that metrics tell of beside those under way.
const ENDED: usize = 50;
/// Runs that are looked at together.
const AT_ONCE: usize = 16;
/// A list of workers is used again for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Lines of metrics on a run's page.
const LINES: usize = 20;
/// Bytes of events that are read for one part of a log.
const LOG_BYTES: usize = 1 << 20;

/// What is known of each run that somebody looked at; one look at a time.
type Memory = Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Known>>>>;

/// Looks at a coordinator.
pub(super) struct Looks {
    service: Service,
    memory: Memory,
    workers: Mutex<Option<(Instant, Arc<Vec<WorkerSummary>>)>>,
}

impl Looks {
    pub(super) fn new(service: Service) -> Self {
        Self { service, memory: Mutex::default(), workers: Mutex::default() }
    }

    /// The coordinator itself.
    pub(super) fn site(&self) -> Site {
        let fleet = self.service.fleet();
        let (serving, trouble) = self.service.parts.health.told();
        Site {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            serving,
            trouble,
            fleet: fleet.census(),
            runs: fleet.runs().len(),
        }
    }

    /// A run by its id alone: names may be given twice.
    pub(super) fn find(&self, id: &str) -> Option<RunHandle> {
        self.service.fleet().run(id).filter(|run| run.shared.id == id)
    }

    /// Every run, the newest first.
    fn newest(&self) -> Vec<RunHandle> {
        let mut runs = self.service.fleet().runs();
        runs.reverse();
        runs
    }

    async fn look(&self, handle: &RunHandle) -> Arc<Run> {
        let known = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            if memory.len() >= MOST && !memory.contains_key(&handle.shared.id) {
                memory.clear();
            }
            Arc::clone(memory.entry(handle.shared.id.clone()).or_default())
        };
        let mut known = known.lock().await;
        known.look(handle, &self.service.parts.store).await
    }

    /// Part of all runs.
    pub(super) async fn part(&self, page: usize, size: usize) -> Part<Run> {
        let part = Part::of(self.newest(), page, size);
        part.with(self.all(&part.items).await)
    }

    /// Some at a time: one that has no time to answer does not hold up the others.
    async fn all(&self, handles: &[RunHandle]) -> Vec<Run> {
        let looks = stream::iter(handles.to_vec())
            .map(|handle| async move { Run::clone(&*self.look(&handle).await) });
        looks.buffered(AT_ONCE).collect().await
    }

    /// The runs that metrics tell of: those under way, and the newest of the others.
    pub(super) async fn for_metrics(&self) -> Vec<Run> {
        let (ended, active): (Vec<_>, Vec<_>) =
            self.newest().into_iter().partition(|handle| handle.log.borrow().1);
        let told: Vec<RunHandle> = active.into_iter().chain(ended.into_iter().take(ENDED)).collect();
        self.all(&told).await
    }

    /// A run with its newest lines and events; `None`: there is none of that id.
    pub(super) async fn detail(&self, id: &str, events: u64) -> Option<Result<Detail, String>> {
        let handle = self.find(id)?;
        let run = Run::clone(&*self.look(&handle).await);
        let from = run.events.saturating_sub(events);
        let (store, id) = (Arc::clone(&self.service.parts.store), handle.shared.id.clone());
        let read = move || {
            Ok((
                store.last_metrics(&id, LINES)?,
                store.events_within(&id, from, (events as usize, LOG_BYTES))?,
            ))
        };
        let read = blocking(read).await;
        Some(read.map(|(metrics, events)| Detail {
            run,
            spec: serde_json::from_str(&handle.shared.spec.to_json()).unwrap_or_default(),
            metrics,
            events: events.iter().map(line).collect(),
        }))
    }

    /// Part of a run's log from an event on, the newest without one.
    pub(super) async fn log(
        &self,
        id: &str,
        from: Option<u64>,
        size: u64,
    ) -> Option<Result<(Arc<Run>, u64, Vec<Line>), String>> {
        let handle = self.find(id)?;
        let run = self.look(&handle).await;
        let from = from.unwrap_or_else(|| run.events.saturating_sub(size));
        let (store, id) = (Arc::clone(&self.service.parts.store), handle.shared.id.clone());
        let read = blocking(move || store.events_within(&id, from, (size as usize, LOG_BYTES))).await;
        Some(read.map(|events| (run, from, events.iter().map(line).collect())))
    }

    /// Part of the workers: those in quarantine, those who are there, the others. Listing them takes the lock
    /// that sessions take, so it is done once a second at most.
    pub(super) fn workers(&self, page: usize, size: usize) -> Workers {
        let all = {
            let mut listed = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = listed.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
            let all = fresh.map_or_else(|| Arc::new(self.list()), |(_, all)| Arc::clone(all));
            if fresh.is_none() {
                *listed = Some((Instant::now(), Arc::clone(&all)));
            }
            all
        };
        let count = |of: fn(&WorkerSummary) -> bool| all.iter().filter(|worker| of(worker)).count();
        let census = Census {
            known: all.len(),
            connected: count(|worker| worker.connected),
            quarantined: count(|worker| worker.quarantined),
        };
        let part = Part::of(all.iter().collect(), page, size);
        Workers { census, part: part.with(part.items.iter().copied().cloned().collect()) }
    }

    fn list(&self) -> Vec<WorkerSummary> {
        let mut all = self.service.fleet().workers();
        all.sort_by_key(|worker| (!worker.quarantined, !worker.connected));
        all
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, crate::StoreError> + Send + 'static,
) -> Result<T, String> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn line(event: &StoredEvent) -> Line {
    Line {
        sequence: event.sequence,
        time_ms: event.time_ms,
        text: events::line(&event.event),
        body: serde_json::to_value(&event.event).unwrap_or_default(),
    }
}
