//! The event log of a run whose cohort is drawn in secret: amplification by sampling holds against
//! readers who do not know who was drawn, so the log must not tell.

use proto::event::{Metrics, RunEvent};

/// What may be said of an event, if anything.
pub fn redact(event: RunEvent) -> Option<RunEvent> {
    match event {
        RunEvent::RoundOpened { round, deadline_s, .. } => {
            Some(RunEvent::RoundOpened { round, cohort: Vec::new(), deadline_s })
        }
        RunEvent::RoundCommitted { round, model_digest, .. } => {
            Some(RunEvent::RoundCommitted { round, participants: 0, model_digest })
        }
        // That an update is refused is no secret of the one who sent it, but when it was asked is.
        RunEvent::UpdateApplied { .. }
        | RunEvent::UpdateBuffered { .. }
        | RunEvent::UpdateRejected { .. }
        | RunEvent::WorkerDeclined { .. }
        | RunEvent::WorkerLost { .. }
        | RunEvent::WorkerReturned { .. }
        | RunEvent::WorkerStuck { .. }
        | RunEvent::Late { .. }
        | RunEvent::RoundShort { .. } => None,
        other => Some(other),
    }
}

/// The line of a round without what tells how many took part.
pub fn redact_metrics(metrics: &mut Metrics) {
    (metrics.participants, metrics.rejected) = (0, 0);
    (metrics.bytes_down, metrics.bytes_up) = (0, 0);
    metrics.clients = None;
}
