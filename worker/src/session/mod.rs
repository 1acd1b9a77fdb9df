//! The session machine: when to connect, whom to believe alive, what to work on.
//!
//! Pure: events and the time come in, actions go out; no socket, no clock, no thread. [`Link`] keeps
//! one connection alive, [`Desk`] decides what the worker works on; they share nothing, so that a
//! lost connection never touches work in progress: training goes on, the upload waits.

pub mod backoff;
mod desk;
mod link;
#[cfg(test)]
mod tests;

use crate::message::{Command, Say};
use desk::Desk;
pub use desk::{JobId, Work};
use link::Link;
pub use link::{Timer, Token};
use proto::{names::WorkerName, v1::DeclineReason};
use std::time::Duration;

/// Time since the process started, on a clock that never goes back.
pub type Time = Duration;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The worker starts.
    Start,
    /// The connection is open, nothing was said.
    Opened,
    /// A message of the coordinator.
    Received(Command),
    /// The connection failed or ended.
    Lost(String),
    /// A timer fired; an outdated one is ignored.
    Fired(Token),
    /// A job ended, in whatever way.
    Ended(JobId),
    /// The worker is told to stop.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Open a connection; answer with `Opened` or `Lost`.
    Connect,
    /// Say this on the connection.
    Send(Say),
    /// Fire this token at that time.
    Arm {
        /// To be given back.
        token: Token,
        /// When.
        at: Time,
    },
    /// The session is up: transfers may start.
    Up,
    /// Drop the connection, if there is one; no event of it may arrive any more.
    Disconnect,
    /// Begin a job; `Ended` follows. One at a time.
    Begin(JobId, Work),
    /// Cancel the running job; `Ended` follows nevertheless.
    Cancel(JobId),
    /// Tell the worker's operator.
    Log(Level, String),
    /// Nothing is left to do; an error says why trying again is useless.
    Exit(Result<(), String>),
}

/// How urgently the operator should read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Business as usual.
    Info,
    /// Something is wrong, but the worker goes on.
    Warn,
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    link: Link,
    desk: Desk,
}

impl Session {
    /// For a worker of this name, which seeds its jitter.
    pub fn new(name: &WorkerName) -> Self {
        Self { link: Link::new(name), desk: Desk::default() }
    }

    /// Whether the coordinator has welcomed the worker and was not lost since.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// Reacts to an event; `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.link.start(now, &mut out),
            Event::Opened => self.link.opened(now, &mut out),
            Event::Lost(why) => self.link.lost(&why, now, &mut out),
            Event::Fired(token) => self.link.fired(token, now, &mut out),
            Event::Ended(id) => self.desk.ended(id, &mut out),
            Event::Received(command) => {
                if let Some(order) = self.link.received(command, now, &mut out) {
                    self.obey(order, &mut out);
                }
            }
            Event::Stop => {
                self.desk.stop(&mut out);
                self.link.stop(&mut out);
            }
        }
        out
    }

    fn obey(&mut self, order: Command, out: &mut Vec<Action>) {
        match order {
            Command::Assign(assignment) => self.desk.assign(*assignment, out),
            Command::Evaluate(evaluation) => self.desk.evaluate(*evaluation, out),
            Command::Closed { run, round, included } => self.desk.closed(run, round, included, out),
            Command::Abandon { run, round, reason } => self.desk.abandon(&run, round, reason, out),
            Command::Notice(text) => {
                out.push(Action::Log(Level::Warn, format!("notice of the coordinator: {text}")));
            }
            Command::Unusable { run, round, detail } => {
                let text = format!("declined round {round} of {run}: {detail}");
                out.push(Action::Log(Level::Warn, text));
                out.push(Action::Send(Say::Decline { run, round, reason: DeclineReason::Spec, detail }));
            }
            Command::Welcome { .. } | Command::Refusal { .. } | Command::Heartbeat => {}
        }
    }
}
