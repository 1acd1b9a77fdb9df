//! The points of a sweep: one after the other or side by side, until all are done or time is up.

use super::{
    Args, Library, point,
    sweep::{Point, Sweep},
};
use crate::{
    exit::{Code, Failure},
    life, output,
};
use serde_json::Value;
use simulation::training::Stop;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use worker::engine::cuda::Placement;

/// What came of the points.
pub(super) struct Outcome {
    /// Folders of those that are finished, in the sweep's order.
    pub(super) folders: Vec<PathBuf>,
    /// Points that are not finished: time was up, or a signal came.
    pub(super) left: usize,
    /// The signal that came, if one did.
    pub(super) interrupted: Option<&'static str>,
}

struct Work<'a> {
    points: &'a [Point],
    /// In which they are run: all settings with one seed, then with the next.
    order: Vec<usize>,
    args: &'a Args,
    placement: &'a Placement,
    stop: Stop,
    next: AtomicUsize,
    library: Mutex<Library>,
    done: Mutex<Done<'a>>,
}

struct Done<'a> {
    finished: Vec<usize>,
    failure: Option<Failure>,
    report: &'a mut (dyn FnMut(&Value) -> Result<(), Failure> + Send),
}

/// Runs every point; `report` hears of each that is finished.
///
/// # Errors
/// The first failure; points that run beside it stop at their next round.
pub(super) fn run(
    sweep: &Sweep,
    (args, placement): (&Args, &Placement),
    report: &mut (dyn FnMut(&Value) -> Result<(), Failure> + Send),
) -> Result<Outcome, Failure> {
    let deadline = args.time_limit.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut order: Vec<usize> = (0..sweep.points.len()).collect();
    order.sort_by_key(|at| sweep.points[*at].spec.seed);
    let work = Work {
        points: &sweep.points,
        order,
        args,
        placement,
        stop: Stop::at(deadline),
        next: AtomicUsize::new(0),
        library: Mutex::new(Library::new(&args.data, args.examples)),
        done: Mutex::new(Done { finished: Vec::new(), failure: None, report }),
    };
    let interrupted = Arc::new(OnceLock::new());
    let (stop, told) = (work.stop.clone(), Arc::clone(&interrupted));
    life::on_signal(move |why| {
        output::note(format!("{why}: stopping after the round that runs; once more: at once"));
        let _ = told.set(why);
        stop.say();
    })?;
    let lanes = work.lanes();
    thread::scope(|scope| {
        for _ in 1..lanes {
            scope.spawn(|| work.go());
        }
        work.go();
    });
    let Done { mut finished, failure, .. } = work.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = failure {
        return Err(failure);
    }
    finished.sort_unstable();
    let left = sweep.points.len() - finished.len();
    let folders = finished.into_iter().map(|at| args.folder(&sweep.points, at)).collect();
    Ok(Outcome { folders, left, interrupted: interrupted.get().copied() })
}

impl Work<'_> {
    fn lanes(&self) -> usize {
        usize::from(self.args.parallel).clamp(1, self.points.len().max(1))
    }

    fn go(&self) {
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&at) = self.order.get(turn).filter(|_| !self.stop.is_due()) else { return };
            let run = self.one(at);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            match run.and_then(|summary| (done.report)(&summary)) {
                Ok(()) => done.finished.push(at),
                // It is counted by what is not finished.
                Err(failure) if failure.code == Code::Unfinished => {}
                Err(failure) => {
                    self.stop.say();
                    done.failure.get_or_insert(failure);
                    return;
                }
            }
        }
    }

    fn one(&self, at: usize) -> Result<Value, Failure> {
        let (point, args) = (&self.points[at], self.args);
        let many = self.points.len() > 1;
        if many && !args.json {
            output::note(format!("{}/{}: {}", at + 1, self.points.len(), point.name));
        }
        let data = self.library.lock().unwrap_or_else(PoisonError::into_inner).load(&point.spec)?;
        let how = point::How {
            threads: (args.threads() / self.lanes()).max(1),
            placement: self.placement.clone(),
            checkpoint: Duration::from_secs(args.checkpoint),
            memory: args.state_memory.saturating_mul(1_000_000) / self.lanes() as u64,
            quiet: args.json || self.lanes() > 1,
            reproducible_noise: args.reproducible_noise,
            stop: self.stop.clone(),
        };
        point::run(point, &args.folder(self.points, at), data, &how)
    }
}
