//! Deaths and repairs. Each kind of fault comes as a Poisson process until the schedule says stop; a
//! dead process comes back by itself.

use super::{Federation, Happening};
use crate::Millis;
use coordinator::machine::{Command, Event};

/// Something goes wrong, or is mended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Cut(usize),
    WorkerCrash(usize),
    WorkerBack(usize),
    CoordinatorCrash,
    CoordinatorBack,
    Pause,
    Resume,
}

/// A pause lasts so long at most.
const PAUSE: Millis = 6_000;
/// The coordinator dies after so many of its next actions at most.
const FUSE: Millis = 12;

impl Federation {
    pub(super) fn plan_faults(&mut self) {
        for worker in 0..self.nodes.len() {
            self.plan(Fault::Cut(worker));
            self.plan(Fault::WorkerCrash(worker));
        }
        self.plan(Fault::CoordinatorCrash);
        self.plan(Fault::Pause);
    }

    /// The next fault of that kind, unless faults have stopped by then.
    fn plan(&mut self, fault: Fault) {
        let faults = &self.schedule.faults;
        let rate = match fault {
            Fault::Cut(_) => faults.cuts,
            Fault::WorkerCrash(_) => faults.worker_crashes,
            Fault::CoordinatorCrash => faults.coordinator_crashes,
            Fault::Pause => faults.pauses,
            Fault::WorkerBack(_) | Fault::CoordinatorBack | Fault::Resume => return,
        };
        if let Some(wait) = self.dice.wait(rate)
            && self.now + wait < self.schedule.faults.until
        {
            self.queue.push(self.now + wait, Happening::Fault(fault));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(worker) => {
                if let Some(id) = self.nodes[worker].connection {
                    self.note(&format!("w{worker}: the connection breaks"));
                    self.cut(id);
                }
                self.plan(fault);
            }
            Fault::WorkerCrash(worker) => self.worker_down(worker),
            Fault::WorkerBack(worker) => {
                self.worker_up(worker);
                self.plan(Fault::WorkerCrash(worker));
            }
            // Half of the time at once, half of the time in the midst of what it does next.
            Fault::CoordinatorCrash if self.dice.unit() < 0.5 => self.coordinator_down(),
            Fault::CoordinatorCrash => self.server.fuse = Some(self.dice.between(0, FUSE)),
            Fault::CoordinatorBack => {
                self.coordinator_up();
                self.plan(Fault::CoordinatorCrash);
            }
            Fault::Pause if self.server.is_up() => {
                self.report.incidents.pauses += 1;
                self.note("the operator pauses the run");
                self.machine(Event::Command(Command::Pause));
                let at = self.now + self.dice.between(100, PAUSE);
                self.queue.push(at, Happening::Fault(Fault::Resume));
            }
            Fault::Resume if self.server.is_up() => {
                self.note("the operator resumes the run");
                self.machine(Event::Command(Command::Resume));
                // No answer: the operator does not know, and asks again.
                if self.server.is_up() {
                    self.plan(Fault::Pause);
                } else {
                    self.queue.push(self.now + 500, Happening::Fault(fault));
                }
            }
            // An operator whose command fails tries again.
            Fault::Pause | Fault::Resume => self.queue.push(self.now + 500, Happening::Fault(fault)),
        }
    }

    fn worker_down(&mut self, worker: usize) {
        self.report.incidents.worker_crashes += 1;
        self.note(&format!("w{worker}: crashes"));
        let connection = self.nodes[worker].connection;
        self.nodes[worker].die();
        if let Some(id) = connection {
            self.cut(id);
        }
        let at = self.now + self.dice.between(50, self.schedule.faults.down_ms);
        self.queue.push(at, Happening::Fault(Fault::WorkerBack(worker)));
    }

    pub(super) fn coordinator_down(&mut self) {
        self.report.incidents.coordinator_crashes += 1;
        self.note("the coordinator crashes");
        self.server.die();
        for worker in 0..self.nodes.len() {
            if let Some(id) = self.nodes[worker].connection {
                self.cut(id);
            }
        }
        let at = self.now + self.dice.between(50, self.schedule.faults.down_ms);
        self.queue.push(at, Happening::Fault(Fault::CoordinatorBack));
    }
}
