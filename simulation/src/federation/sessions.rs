//! Sessions of the virtual coordinator, as `coordinator::service` keeps them: who is connected, who has
//! been silent for too long, and whose name is taken.

use super::{Federation, Happening, network::Parcel};
use crate::Millis;
use coordinator::machine::{Event, Federated};
use proto::{PROTOCOL_VERSION, limits, v1::ErrorCode};
use worker::message::{Command, Say};

/// One worker's session.
#[derive(Debug)]
pub(super) struct Session {
    connection: u64,
    seen: Millis,
}

/// A worker's number, from its name.
pub(super) fn number(worker: &str) -> Option<usize> {
    worker.strip_prefix('w')?.parse().ok()
}

impl Federation {
    pub(super) fn hear(&mut self, connection: u64, worker: usize, say: Say) {
        let known = self.server.sessions.get_mut(&worker);
        let current = known.filter(|session| session.connection == connection);
        if let Some(session) = current {
            session.seen = self.now;
            match say {
                Say::Heartbeat { .. } => self.send(connection, &Parcel::Ordered(Command::Heartbeat)),
                Say::Decline { round, reason, detail, .. } => {
                    let worker = self.nodes[worker].name.clone();
                    self.machine(Event::Declined { worker, round, reason, detail });
                }
                Say::Hello => {}
            }
        } else if say == Say::Hello {
            self.enter(connection, worker);
        }
    }

    fn enter(&mut self, connection: u64, worker: usize) {
        let silence = limits::SILENCE.as_millis() as Millis;
        let name = self.nodes[worker].name.clone();
        let old = self.server.sessions.get(&worker);
        if old.is_some_and(|old| self.now - old.seen < silence / 2) {
            let detail = format!("`{name}` is already connected");
            return self
                .send(connection, &Parcel::Ordered(Command::Refusal { code: ErrorCode::Name, detail }));
        }
        self.server.sessions.insert(worker, Session { connection, seen: self.now });
        let welcome = Command::Welcome {
            version: PROTOCOL_VERSION,
            heartbeat: limits::HEARTBEAT,
            silence: limits::SILENCE,
        };
        self.send(connection, &Parcel::Ordered(welcome));
        self.queue.push(self.now + silence, Happening::Quiet { connection });
        self.note(&format!("the coordinator welcomes {name}"));
        self.machine(Event::Joined { worker: name });
    }

    fn session_of(&self, connection: u64) -> Option<(usize, &Session)> {
        let mut sessions = self.server.sessions.iter();
        sessions
            .find(|(_, session)| session.connection == connection)
            .map(|(worker, session)| (*worker, session))
    }

    pub(super) fn quiet(&mut self, connection: u64) {
        let Some((_, session)) = self.session_of(connection) else { return };
        let due = session.seen + limits::SILENCE.as_millis() as Millis;
        if due <= self.now {
            self.leave(connection, "no sign of life");
        } else {
            self.queue.push(due, Happening::Quiet { connection });
        }
    }

    pub(super) fn leave(&mut self, connection: u64, why: &str) {
        let Some((worker, _)) = self.session_of(connection) else { return };
        self.server.sessions.remove(&worker);
        let worker = self.nodes[worker].name.clone();
        self.note(&format!("the coordinator loses {worker}: {why}"));
        self.machine(Event::Left { worker });
    }

    pub(super) fn evaluated(&mut self, connection: u64, worker: usize, round: u64, report: Federated) {
        if self.session_of(connection).is_some() {
            let worker = self.nodes[worker].name.clone();
            self.machine(Event::Evaluated { worker, round, report: report.into() });
        }
    }

    pub(super) fn progressed(&mut self, connection: u64, worker: usize, round: u64, done: u64) {
        if self.session_of(connection).is_none() {
            return;
        }
        let worker = self.nodes[worker].name.clone();
        self.machine(Event::Progress { worker, round, mark: (0, done) });
    }

    pub(super) fn tell(&mut self, worker: &str, command: Command) {
        let session = number(worker).and_then(|worker| self.server.sessions.get(&worker));
        if let Some(connection) = session.map(|session| session.connection) {
            self.send(connection, &Parcel::Ordered(command));
        }
    }
}
