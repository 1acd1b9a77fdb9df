//! The virtual network. Messages of a session keep their order, as on one HTTP/2 stream; uploads and
//! their verdicts are calls of their own and may overtake. When a connection breaks, what was on its
//! way is lost, and often one side does not hear of it: heartbeats have to find out.

use super::{Federation, Happening};
use crate::Millis;
use coordinator::machine::{Decision, Federated};
use proto::v1::UploadHeader;
use std::collections::BTreeMap;
use worker::{
    message::{Command, Say},
    session::{Event, JobId},
};

/// An upload as it travels: whole or not at all.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) header: UploadHeader,
    /// The vectors end to end.
    pub(super) values: Vec<f32>,
}

/// A message.
#[derive(Debug, Clone)]
pub(super) enum Parcel {
    /// A worker speaks in its session.
    Said(Say),
    /// A worker reports how far its training is.
    Progress(u64, u64),
    /// A worker reports its evaluation of a round's model.
    Evaluated(u64, Federated),
    /// A worker's call.
    Upload(JobId, Box<Upload>),
    /// The coordinator speaks in a session.
    Ordered(Command),
    /// The answer to a call.
    Verdict(JobId, Decision),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Loss breaks the connection.
    Stream,
    /// Loss is mended by the next one.
    Beat,
    /// Loss is mended by the caller.
    Call,
}

impl Parcel {
    fn kind(&self) -> Kind {
        match self {
            Self::Said(Say::Heartbeat { .. }) | Self::Progress(..) | Self::Ordered(Command::Heartbeat) => {
                Kind::Beat
            }
            Self::Said(_) | Self::Evaluated(..) | Self::Ordered(_) => Kind::Stream,
            Self::Upload(..) | Self::Verdict(..) => Kind::Call,
        }
    }

    fn direction(&self) -> usize {
        match self {
            Self::Said(_) | Self::Progress(..) | Self::Evaluated(..) | Self::Upload(..) => UP,
            Self::Ordered(_) | Self::Verdict(..) => DOWN,
        }
    }
}

/// From worker to coordinator.
pub(super) const UP: usize = 0;
/// From coordinator to worker.
pub(super) const DOWN: usize = 1;

#[derive(Debug)]
struct Connection {
    worker: usize,
    worker_life: u32,
    /// Of the coordinator.
    server_life: u32,
    broken: bool,
    /// When the last ordered message arrives, up and down.
    last: [Millis; 2],
}

/// Every connection that there ever was.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: BTreeMap<u64, Connection>,
    issued: u64,
}

impl Federation {
    /// A worker opens a connection.
    pub(super) fn connect(&mut self, worker: usize) {
        self.connections.issued += 1;
        let id = self.connections.issued;
        let node = &mut self.nodes[worker];
        node.connection = Some(id);
        let (worker_life, server_life) = (node.life, self.server.life);
        let connection = Connection { worker, worker_life, server_life, broken: false, last: [0; 2] };
        self.connections.all.insert(id, connection);
        // Behind a partition nobody answers, and the session's own timer has to find out.
        if !self.is_blocked(worker, UP) && !self.is_blocked(worker, DOWN) {
            let at = self.now + self.delay();
            self.queue.push(at, Happening::Opened { connection: id });
        }
    }

    pub(super) fn delay(&mut self) -> Millis {
        let most = self.schedule.faults.delay_ms;
        1 + self.dice.between(0, most)
    }

    fn is_blocked(&self, worker: usize, direction: usize) -> bool {
        self.now < self.nodes[worker].blocked[direction]
    }

    /// The worker at the other end, if both ends are alive and the connection is whole.
    fn worker_of(&self, id: u64) -> Option<usize> {
        let connection = self.connections.all.get(&id)?;
        let alive = !connection.broken
            && self.server.is_up()
            && connection.server_life == self.server.life
            && self.nodes[connection.worker].life == connection.worker_life;
        alive.then_some(connection.worker)
    }

    pub(super) fn opened(&mut self, id: u64) {
        let Some(connection) = self.connections.all.get(&id) else { return };
        let worker = connection.worker;
        if self.nodes[worker].connection != Some(id) {
            return;
        }
        if self.worker_of(id).is_some() {
            self.session(worker, Event::Opened);
        } else {
            self.session(worker, Event::Lost("nobody answers".to_owned()));
        }
    }

    /// Sends over a connection: late, twice or never.
    pub(super) fn send(&mut self, id: u64, parcel: &Parcel) {
        let Some(worker) = self.connections.all.get(&id).map(|connection| connection.worker) else { return };
        let (kind, faults, calm) = (parcel.kind(), self.schedule.faults, self.is_calm());
        if self.is_blocked(worker, parcel.direction()) {
            return self.swallow(id, kind);
        }
        let luck = self.dice.unit();
        let copies = match luck {
            _ if calm => 1,
            luck if luck < faults.drop => 0,
            luck if luck < faults.drop + faults.duplicate && (faults.silent || kind == Kind::Call) => 2,
            _ => 1,
        };
        if copies == 0 {
            self.report.incidents.dropped += 1;
            if kind == Kind::Stream && !faults.silent {
                self.cut(id);
            }
        }
        self.report.incidents.duplicated += u64::from(copies == 2);
        for _ in 0..copies {
            let at = self.arrival(id, parcel);
            let parcel = Box::new(parcel.clone());
            self.queue.push(at, Happening::Arrival { connection: id, parcel });
        }
    }

    /// When a parcel that is sent now arrives: after those of its stream, mostly.
    fn arrival(&mut self, id: u64, parcel: &Parcel) -> Millis {
        let at = self.now + self.delay();
        let overtakes = self.schedule.faults.reorder > 0.0
            && !self.is_calm()
            && self.dice.unit() < self.schedule.faults.reorder;
        if overtakes {
            self.report.incidents.reordered += 1;
        }
        let ordered = !overtakes && parcel.kind() != Kind::Call;
        match self.connections.all.get_mut(&id).filter(|_| ordered) {
            Some(connection) => {
                let last = &mut connection.last[parcel.direction()];
                *last = at.max(*last);
                *last
            }
            None => at,
        }
    }

    /// A partition takes a message. Neither side hears of it; a stream that lost one is dead.
    fn swallow(&mut self, id: u64, kind: Kind) {
        self.report.incidents.dropped += 1;
        if let Some(connection) = self.connections.all.get_mut(&id).filter(|_| kind == Kind::Stream) {
            connection.broken = true;
        }
    }

    pub(super) fn arrive(&mut self, id: u64, parcel: Parcel) {
        let Some(worker) = self.worker_of(id) else { return };
        match parcel {
            Parcel::Said(say) => self.hear(id, worker, say),
            Parcel::Progress(round, done) => self.progressed(id, worker, round, done),
            Parcel::Evaluated(round, report) => self.evaluated(id, worker, round, report),
            Parcel::Upload(job, upload) => self.offered(id, worker, job, *upload),
            Parcel::Ordered(_) | Parcel::Verdict(..) if self.nodes[worker].connection != Some(id) => {}
            Parcel::Ordered(command) => self.session(worker, Event::Received(command)),
            Parcel::Verdict(job, decision) => self.verdict(worker, job, &decision),
        }
    }

    /// Breaks a connection; each side hears of it, or does not.
    pub(super) fn cut(&mut self, id: u64) {
        let Some(connection) = self.connections.all.get_mut(&id).filter(|connection| !connection.broken)
        else {
            return;
        };
        connection.broken = true;
        self.report.incidents.cuts += 1;
        if self.dice.unit() < 0.7 {
            let at = self.now + self.delay();
            self.queue.push(at, Happening::WorkerLost { connection: id });
        }
        if self.dice.unit() < 0.7 {
            let at = self.now + self.delay();
            self.queue.push(at, Happening::CoordinatorLost { connection: id });
        }
    }

    pub(super) fn worker_lost(&mut self, id: u64) {
        let worker = self.connections.all.get(&id).map(|connection| connection.worker);
        if let Some(worker) = worker.filter(|worker| self.nodes[*worker].connection == Some(id)) {
            self.session(worker, Event::Lost("the connection broke".to_owned()));
        }
    }

    /// A worker closes its connection.
    pub(super) fn hang_up(&mut self, worker: usize) {
        if let Some(id) = self.nodes[worker].connection.take() {
            let at = self.now + self.delay();
            if !self.is_blocked(worker, UP) {
                self.queue.push(at, Happening::CoordinatorLost { connection: id });
            }
        }
    }
}
