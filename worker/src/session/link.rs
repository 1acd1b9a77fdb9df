//! One connection to the coordinator: opened, greeted, kept alive, given up, opened again.
//!
//! A peer that says nothing is dead after a while whatever TCP believes; a connection that died
//! young does not reset the backoff, or a coordinator that fails on the first message would be
//! called in a tight loop.

use super::{Action, Level, Time, backoff};
use crate::message::{Command, Say};
use algorithms::seed;
use proto::{PROTOCOL_OLDEST, PROTOCOL_VERSION, limits, names::WorkerName, v1::ErrorCode};
use std::time::Duration;

/// Opening a connection may take so long.
const OPEN: Duration = Duration::from_secs(5);
/// The answer to Hello may take so long: a coordinator that has just restarted reads its store first.
const GREET: Duration = Duration::from_secs(10);
/// A session that lived so long was a good one: the next failure starts a new series of waits.
const GOOD: Duration = Duration::from_secs(10);

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Try to connect again.
    Retry,
    /// Opening or greeting took too long.
    Deadline,
    /// A heartbeat is due.
    Heartbeat,
    /// The coordinator may have been silent for too long.
    Silence,
}

/// Names one armed timer; worthless after the next change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    generation: u64,
    timer: Timer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Disconnected,
    Connecting,
    Greeting,
    Connected { since: Time, heard: Time, sequence: u64, heartbeat: Duration, silence: Duration },
    Stopped,
}

/// The connection's part of the machine.
#[derive(Debug)]
pub(super) struct Link {
    state: State,
    generation: u64,
    /// Failures since the last good session.
    attempt: u32,
    /// Waits drawn in all.
    draws: u64,
    key: u64,
}

impl Link {
    pub(super) fn new(name: &WorkerName) -> Self {
        let key = seed::word(name.as_str());
        Self { state: State::Disconnected, generation: 0, attempt: 0, draws: 0, key }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    pub(super) fn start(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.state == State::Disconnected && self.generation == 0 {
            self.connect(now, out);
        }
    }

    pub(super) fn opened(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.state == State::Connecting {
            self.enter(State::Greeting);
            out.push(Action::Send(Say::Hello));
            self.arm(Timer::Deadline, now + GREET, out);
        }
    }

    pub(super) fn fired(&mut self, token: Token, now: Time, out: &mut Vec<Action>) {
        if token.generation != self.generation {
            return;
        }
        match (token.timer, &mut self.state) {
            (Timer::Retry, State::Disconnected) => self.connect(now, out),
            (Timer::Deadline, State::Connecting) => self.lost(&late("connection", OPEN), now, out),
            (Timer::Deadline, State::Greeting) => self.lost(&late("answer to the greeting", GREET), now, out),
            (Timer::Heartbeat, State::Connected { sequence, heartbeat, .. }) => {
                out.push(Action::Send(Say::Heartbeat { sequence: *sequence }));
                *sequence += 1;
                let next = now + *heartbeat;
                self.arm(Timer::Heartbeat, next, out);
            }
            (Timer::Silence, State::Connected { heard, silence, .. }) => {
                let (due, silence) = (*heard + *silence, *silence);
                if due <= now {
                    self.lost(&late("sign of life", silence), now, out);
                } else {
                    self.arm(Timer::Silence, due, out);
                }
            }
            _ => {}
        }
    }

    /// Handles what concerns the connection; returns what is for the desk.
    pub(super) fn received(&mut self, command: Command, now: Time, out: &mut Vec<Action>) -> Option<Command> {
        match (&mut self.state, command) {
            (State::Greeting, Command::Welcome { version, heartbeat, silence }) => {
                self.welcomed(version, (heartbeat, silence), now, out);
                None
            }
            (State::Greeting | State::Connected { .. }, Command::Refusal { code, detail }) => {
                self.refused(code, &detail, now, out);
                None
            }
            (State::Greeting, _) => {
                self.lost("the coordinator spoke before it answered the greeting", now, out);
                None
            }
            (State::Connected { heard, .. }, command) => {
                *heard = now;
                Some(command)
            }
            _ => None,
        }
    }

    /// The connection is gone, or is given up: wait, then try again.
    pub(super) fn lost(&mut self, why: &str, now: Time, out: &mut Vec<Action>) {
        match self.state {
            State::Disconnected | State::Stopped => return,
            State::Connected { since, .. } if now.saturating_sub(since) >= GOOD => self.attempt = 0,
            _ => {}
        }
        let wait = backoff::delay(self.key, self.draws, self.attempt);
        self.draws += 1;
        self.attempt = self.attempt.saturating_add(1);
        self.enter(State::Disconnected);
        out.push(Action::Disconnect);
        let text = format!("disconnected: {why}; trying again in {:.1} s", wait.as_secs_f64());
        out.push(Action::Log(Level::Warn, text));
        self.arm(Timer::Retry, now + wait, out);
    }

    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        self.end(Ok(()), out);
    }

    fn connect(&mut self, now: Time, out: &mut Vec<Action>) {
        self.enter(State::Connecting);
        out.push(Action::Connect);
        self.arm(Timer::Deadline, now + OPEN, out);
    }

    fn welcomed(
        &mut self,
        version: u32,
        (heartbeat, silence): (Duration, Duration),
        now: Time,
        out: &mut Vec<Action>,
    ) {
        if !(PROTOCOL_OLDEST..=PROTOCOL_VERSION).contains(&version) {
            let why = format!(
                "it wants protocol version {version}, this worker speaks {PROTOCOL_OLDEST} to {PROTOCOL_VERSION}"
            );
            return self.end(Err(why), out);
        }
        let (heartbeat, silence) = periods(heartbeat, silence);
        self.enter(State::Connected { since: now, heard: now, sequence: 0, heartbeat, silence });
        out.push(Action::Up);
        out.push(Action::Log(Level::Info, "connected".into()));
        self.arm(Timer::Heartbeat, now + heartbeat, out);
        self.arm(Timer::Silence, now + silence, out);
    }

    fn refused(&mut self, code: ErrorCode, detail: &str, now: Time, out: &mut Vec<Action>) {
        let why = format!("refused ({}): {detail}", code.label());
        // A name in use is most often our own, from a connection whose death was not noticed yet; a
        // coordinator that drains comes back. Only an incompatible program stays incompatible.
        if code == ErrorCode::Incompatible {
            return self.end(Err(why), out);
        }
        self.lost(&why, now, out);
    }

    fn end(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        if self.state != State::Stopped {
            self.enter(State::Stopped);
            out.push(Action::Disconnect);
            out.push(Action::Exit(result));
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    fn arm(&self, timer: Timer, at: Time, out: &mut Vec<Action>) {
        out.push(Action::Arm { token: Token { generation: self.generation, timer }, at });
    }
}

fn late(what: &str, after: Duration) -> String {
    format!("no {what} within {:.1} s", after.as_secs_f64())
}

/// The coordinator's periods within sane bounds, ours where it says nothing: a period of zero would
/// be a busy loop, a silence shorter than two heartbeats would never hold.
fn periods(heartbeat: Duration, silence: Duration) -> (Duration, Duration) {
    let or = |given: Duration, default| if given.is_zero() { default } else { given };
    let heartbeat = or(heartbeat, limits::HEARTBEAT).clamp(Duration::from_millis(10), Duration::from_mins(1));
    let silence = or(silence, limits::SILENCE).clamp(heartbeat * 2, Duration::from_mins(10));
    (heartbeat, silence)
}
