//! What the worker works on: one job at a time, in order of arrival, a newer order of a run in the
//! place of an older one.
//!
//! An order that repeats the running job changes nothing: after a reconnect the coordinator assigns
//! again what it has not received, and training twice for one round would waste the time that the
//! round still has. A job that waits for the connection goes on by itself.

use super::{Action, Level};
use crate::message::{Assignment, Evaluation};
use proto::{names::RunId, v1::AbandonReason};
use std::collections::VecDeque;

/// Counts jobs, for telling the end of one from the end of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Settle client state, train unless an upload is pending, upload.
    Train(Assignment),
    /// Evaluate and report.
    Evaluate(Evaluation),
    /// Keep or drop pending state.
    Settle {
        /// The run.
        run: RunId,
        /// The committed round.
        round: u64,
        /// Whether this worker's update was counted.
        included: bool,
    },
    /// The run is over: drop its state.
    Forget {
        /// The run.
        run: RunId,
    },
}

impl Work {
    /// The round if this is training for `run`.
    fn training(&self, of: &RunId) -> Option<u64> {
        match self {
            Self::Train(Assignment { run, round, .. }) if run == of => Some(*round),
            _ => None,
        }
    }

    fn evaluates(&self, of: &RunId) -> bool {
        matches!(self, Self::Evaluate(Evaluation { run, .. }) if run == of)
    }
}

#[derive(Debug)]
struct Current {
    id: JobId,
    work: Work,
    cancelled: bool,
}

/// The jobs' part of the machine.
#[derive(Debug, Default)]
pub(super) struct Desk {
    issued: u64,
    current: Option<Current>,
    queue: VecDeque<Work>,
}

impl Desk {
    pub(super) fn assign(&mut self, assignment: Assignment, out: &mut Vec<Action>) {
        if let Some(Current { work: Work::Train(running), cancelled: false, .. }) = &self.current
            && running.same_work(&assignment)
        {
            return;
        }
        let run = assignment.run.clone();
        self.drop_work(out, |work| work.training(&run).is_some());
        self.push(Work::Train(assignment), out);
    }

    pub(super) fn evaluate(&mut self, evaluation: Evaluation, out: &mut Vec<Action>) {
        let run = evaluation.run.clone();
        let work = Work::Evaluate(evaluation);
        if self.current.as_ref().is_some_and(|current| !current.cancelled && current.work == work) {
            return;
        }
        self.drop_work(out, |other| other.evaluates(&run));
        self.push(work, out);
    }

    pub(super) fn closed(&mut self, run: RunId, round: u64, included: bool, out: &mut Vec<Action>) {
        self.drop_work(out, |work| work.training(&run).is_some_and(|training| training <= round));
        self.push(Work::Settle { run, round, included }, out);
    }

    pub(super) fn abandon(&mut self, run: &RunId, round: u64, reason: AbandonReason, out: &mut Vec<Action>) {
        let why = reason.label();
        out.push(Action::Log(Level::Info, format!("run {run}: told to stop round {round}: {why}")));
        // A finished run may still be evaluated.
        let cancelled = reason == AbandonReason::Cancelled;
        let over = cancelled || reason == AbandonReason::Finished;
        self.drop_work(out, |work| {
            work.training(run).is_some_and(|training| over || training <= round)
                || (cancelled && work.evaluates(run))
        });
        if over {
            self.push(Work::Forget { run: run.clone() }, out);
        }
    }

    pub(super) fn ended(&mut self, id: JobId, out: &mut Vec<Action>) {
        if self.current.as_ref().is_some_and(|current| current.id == id) {
            self.current = None;
            self.next(out);
        }
    }

    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        self.queue.clear();
        self.drop_work(out, |_| true);
    }

    fn drop_work(&mut self, out: &mut Vec<Action>, which: impl Fn(&Work) -> bool) {
        self.queue.retain(|work| !which(work));
        if let Some(current) = &mut self.current
            && !current.cancelled
            && which(&current.work)
        {
            current.cancelled = true;
            out.push(Action::Cancel(current.id));
        }
    }

    fn push(&mut self, work: Work, out: &mut Vec<Action>) {
        self.queue.push_back(work);
        self.next(out);
    }

    fn next(&mut self, out: &mut Vec<Action>) {
        if self.current.is_some() {
            return;
        }
        let Some(work) = self.queue.pop_front() else { return };
        self.issued += 1;
        let id = JobId(self.issued);
        out.push(Action::Begin(id, work.clone()));
        self.current = Some(Current { id, work, cancelled: false });
    }
}
