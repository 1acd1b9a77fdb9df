//! Progress reports: often enough to tell slow from stuck, seldom enough not to matter.

use crate::transfer::Line;
use proto::{
    limits::SESSION_QUEUE,
    names::RunId,
    v1::{self, Phase, WorkerMessage, worker_message::Body},
};
use std::time::Duration;
use tokio::time::Instant;

/// Reports are at least so far apart.
const APART: Duration = Duration::from_millis(250);

/// Reports one phase of one round.
pub(super) struct Reporter {
    line: Line,
    run: RunId,
    round: u64,
    phase: Phase,
    last: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(line: &Line, run: &RunId, round: u64, phase: Phase) -> Self {
        Self { line: line.clone(), run: run.clone(), round, phase, last: None }
    }

    /// Says how far the phase is, unless it was just said or nobody listens: a report may be lost.
    pub(super) fn report(&mut self, done: u64, due: u64) {
        if self.last.is_some_and(|last| last.elapsed() < APART) {
            return;
        }
        self.last = Some(Instant::now());
        let progress = v1::Progress {
            run: self.run.to_string(),
            round: self.round,
            phase: self.phase.into(),
            done,
            due,
        };
        if let Some(live) = &*self.line.0.borrow()
            // Heartbeats go first: a queue that fills up is theirs.
            && live.out.capacity() > SESSION_QUEUE / 2
        {
            let _ = live.out.try_send(WorkerMessage { body: Some(Body::Progress(progress)) });
        }
    }
}
