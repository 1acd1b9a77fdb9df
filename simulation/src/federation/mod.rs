//! The loop: takes the next event, lets the one whom it concerns act, checks what must hold.
//!
//! An event for a process that died in the meantime is void: each names the life that it belongs to.

mod asking;
mod buffering;
mod byzantine;
mod checks;
mod faults;
mod network;
mod node;
mod noising;
mod private;
mod receiving;
mod serving;
mod sessions;
mod storing;
mod working;

use crate::{Millis, Queue, Report, Schedule, ScheduleError, dice::Dice, invariants, objective::Quadratic};
use algorithms::Algorithm;
use coordinator::machine;
use faults::Fault;
use network::{Connections, Parcel};
use node::{Node, Step};
use noising::Workshop;
use proto::spec::RunSpec;
use receiving::Call;
use serving::{Input, Server};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use storing::{Commit, Disk};
use worker::session::{JobId, Token};

/// What may happen next.
#[derive(Debug)]
enum Happening {
    /// A message arrives.
    Arrival { connection: u64, parcel: Box<Parcel> },
    /// The worker learns whether its connection is open.
    Opened { connection: u64 },
    /// The worker learns that its connection broke.
    WorkerLost { connection: u64 },
    /// The coordinator learns that a connection broke.
    CoordinatorLost { connection: u64 },
    /// The coordinator looks when it last heard of a session.
    Quiet { connection: u64 },
    /// A timer of a worker's session.
    Fired { worker: usize, life: u32, token: Token },
    /// A worker's job goes on.
    Job { worker: usize, life: u32, job: JobId, step: Step },
    /// A timer of the round machine.
    Timer { life: u32, at: Millis, token: machine::Token },
    /// A payload is complete.
    Payload { life: u32, call: Box<Call> },
    /// The coordinator's disk takes a part of a commit.
    Written { life: u32, commit: Box<Commit> },
    /// The coordinator hears of it.
    Committed { life: u32, disk: Box<Disk> },
    /// The coordinator tries again to write.
    Retry { life: u32 },
    /// The fleet tells the run of a quarantine.
    Quarantine { life: u32, worker: String },
    /// Something goes wrong, or is mended.
    Fault(Fault),
}

/// A run under way.
#[derive(Debug)]
struct Federation {
    schedule: Schedule,
    spec: Arc<RunSpec>,
    algorithm: Box<dyn Algorithm>,
    now: Millis,
    queue: Queue<Happening>,
    dice: Dice,
    /// Not the network's: how training differs must not depend on messages.
    noise: Dice,
    connections: Connections,
    nodes: Vec<Node>,
    server: Server,
    /// Every sum that got noise, with it: over all lives of the coordinator.
    noised: Vec<invariants::Noised>,
    /// The norm that follows from the committed rounds, by the round that it is for.
    norms: BTreeMap<u64, f64>,
    workshop: Workshop,
    /// Of a run without rounds.
    seen: buffering::Seen,
    report: Report,
}

/// Runs a schedule to its end, to its bound, or to the first violation.
///
/// # Errors
/// If the schedule is not valid. A violated invariant is no error: the report has it.
pub fn run(schedule: &Schedule) -> Result<Report, ScheduleError> {
    let mut federation = Federation::new(schedule)?;
    federation.go();
    let standing = federation.standing();
    let mut report = federation.report;
    report.server = federation.server.vectors();
    if report.violation.is_none() {
        let checked = invariants::bounded(schedule, &report).map_err(|why| format!("{why}; {standing}"));
        report.require("bounded", federation.now, checked);
    }
    Ok(report)
}

impl Federation {
    fn new(schedule: &Schedule) -> Result<Self, ScheduleError> {
        let spec = Arc::new(schedule.spec()?);
        let algorithm = spec.algorithm.make()?;
        let nodes = (0..schedule.workers)
            .map(|number| {
                let name = format!("w{number}");
                let objective = Quadratic::new(schedule.seed, &name, schedule.dimension);
                Node::new(name, objective)
            })
            .collect();
        let server = Server::new(algorithm.as_ref(), &spec, schedule);
        let norm = server.disk.standing.as_ref().map(|standing| (0, standing.norm.get()));
        let workshop = Workshop::new(&spec, algorithm.as_ref(), schedule.dimension);
        Ok(Self {
            schedule: schedule.clone(),
            spec,
            algorithm,
            now: 0,
            queue: Queue::default(),
            dice: Dice::new(schedule.seed, "network"),
            noise: Dice::new(schedule.seed, "noise"),
            connections: Connections::default(),
            nodes,
            server,
            noised: Vec::new(),
            norms: norm.into_iter().collect(),
            workshop,
            seen: buffering::Seen::default(),
            report: Report::new(schedule),
        })
    }

    fn go(&mut self) {
        self.coordinator_up();
        for worker in 0..self.nodes.len() {
            self.worker_up(worker);
        }
        self.plan_faults();
        let bound = self.schedule.bound();
        while let Some((at, happening)) = self.queue.pop() {
            if at > bound || self.report.finished.is_some() || self.report.violation.is_some() {
                break;
            }
            self.now = at;
            self.report.events += 1;
            self.happen(happening);
        }
    }

    fn is_calm(&self) -> bool {
        self.now >= self.schedule.faults.until
    }

    /// Time as a worker's session sees it.
    fn time(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn note(&mut self, line: &str) {
        self.report.note(self.now, line);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { connection, parcel } => self.arrive(connection, *parcel),
            Happening::Opened { connection } => self.opened(connection),
            Happening::WorkerLost { connection } => self.worker_lost(connection),
            Happening::CoordinatorLost { connection } => self.leave(connection, "the connection broke"),
            Happening::Quiet { connection } => self.quiet(connection),
            Happening::Fired { worker, life, token } => {
                if self.nodes[worker].life == life {
                    self.session(worker, worker::session::Event::Fired(token));
                }
            }
            Happening::Job { worker, life, job, step } => {
                if self.nodes[worker].life == life {
                    self.step(worker, job, step);
                }
            }
            Happening::Fault(fault) => self.fault(fault),
            happening => self.happen_to_coordinator(happening),
        }
    }

    fn happen_to_coordinator(&mut self, happening: Happening) {
        let now = self.server.life;
        match happening {
            Happening::Timer { life, at, token } if life == now => self.input(Input::Timer(at, token)),
            Happening::Payload { life, call } if life == now => self.input(Input::Payload(call)),
            Happening::Written { life, commit } if life == now => self.written(commit),
            Happening::Committed { life, disk } if life == now => self.input(Input::Committed(disk)),
            Happening::Retry { life } if life == now => self.retry(),
            Happening::Quarantine { life, worker } if life == now => {
                self.machine(machine::Event::Quarantine { worker, on: true });
            }
            // Of a life that is over.
            _ => {}
        }
    }
}
