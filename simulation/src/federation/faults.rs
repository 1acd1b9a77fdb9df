//! Deaths and repairs. Each kind of fault comes as a Poisson process until the schedule says stop; a
//! dead process comes back by itself, a partition heals, a disk is mended.

use super::{
    Federation, Happening,
    network::{DOWN, UP},
    node::Mood,
};
use crate::Millis;
use coordinator::machine::{Command, Event};
use worker::client_state::Durable;

/// Something goes wrong, or is mended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Cut(usize),
    Partition,
    WorkerCrash(usize),
    DiskLoss(usize),
    DiskFull(usize),
    Slow(usize),
    Stuck(usize),
    WorkerBack(usize),
    CoordinatorCrash,
    CoordinatorBack,
    StoreFailure,
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
            self.plan(Fault::DiskLoss(worker));
            self.plan(Fault::DiskFull(worker));
            self.plan(Fault::Slow(worker));
            self.plan(Fault::Stuck(worker));
        }
        self.plan(Fault::Partition);
        self.plan(Fault::CoordinatorCrash);
        self.plan(Fault::StoreFailure);
        self.plan(Fault::Pause);
    }

    /// The next fault of that kind, unless faults have stopped by then.
    fn plan(&mut self, fault: Fault) {
        let faults = &self.schedule.faults;
        let rate = match fault {
            Fault::Cut(_) => faults.cuts,
            Fault::Partition => faults.partitions,
            Fault::WorkerCrash(_) => faults.worker_crashes,
            Fault::DiskLoss(_) => faults.disk_losses,
            Fault::DiskFull(_) => faults.full_disks,
            Fault::Slow(_) => faults.slow,
            Fault::Stuck(_) => faults.stuck,
            Fault::CoordinatorCrash => faults.coordinator_crashes,
            Fault::StoreFailure => faults.store_failures,
            Fault::Pause => faults.pauses,
            Fault::WorkerBack(_) | Fault::CoordinatorBack | Fault::Resume => return,
        };
        if let Some(wait) = self.dice.wait(rate)
            && self.now + wait < self.schedule.faults.until
        {
            self.queue.push(self.now + wait, Happening::Fault(fault));
        }
    }

    /// When what fails now is mended: at the latest when all faults stop.
    fn mended(&mut self) -> Millis {
        let most = self.schedule.faults.down_ms;
        (self.now + self.dice.between(50, most)).min(self.schedule.faults.until)
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
            Fault::Partition => self.partition(),
            Fault::WorkerCrash(worker) => {
                self.worker_down(worker);
                self.plan(fault);
            }
            Fault::DiskLoss(worker) => {
                // A run whose workers have all lost their state cannot go on, and says so.
                let lost = self.nodes.iter().filter(|node| node.ghost.is_some()).count();
                if lost < self.nodes.len() / 3 {
                    self.worker_down(worker);
                    self.lose_disk(worker);
                }
                self.plan(fault);
            }
            Fault::DiskFull(worker) => {
                self.report.incidents.full_disks += 1;
                self.nodes[worker].disk_full_until = self.mended();
                self.note(&format!("w{worker}: the disk takes no writes"));
                self.plan(fault);
            }
            Fault::Slow(worker) => self.spoil(worker, Mood::Slow, fault),
            Fault::Stuck(worker) => self.spoil(worker, Mood::Stuck, fault),
            Fault::WorkerBack(worker) => self.worker_up(worker),
            // Half of the time at once, half of the time in the midst of what it does next.
            Fault::CoordinatorCrash if self.dice.unit() < 0.5 => self.coordinator_down(),
            Fault::CoordinatorCrash => self.server.fuse = Some(self.dice.between(0, FUSE)),
            Fault::CoordinatorBack => {
                self.coordinator_up();
                self.plan(Fault::CoordinatorCrash);
            }
            Fault::StoreFailure => {
                self.report.incidents.store_failures += 1;
                self.server.store_fails_until = self.mended();
                self.note("the store takes no writes");
                self.plan(fault);
            }
            Fault::Pause | Fault::Resume => self.operate(fault),
        }
    }

    fn operate(&mut self, fault: Fault) {
        // An operator whose command fails tries again.
        if !self.server.is_up() {
            return self.queue.push(self.now + 500, Happening::Fault(fault));
        }
        if matches!(fault, Fault::Pause) {
            self.report.incidents.pauses += 1;
            self.note("the operator pauses the run");
            self.machine(Event::Command(Command::Pause));
            let at = self.now + self.dice.between(100, PAUSE);
            return self.queue.push(at, Happening::Fault(Fault::Resume));
        }
        self.note("the operator resumes the run");
        self.machine(Event::Command(Command::Resume));
        // No answer: the operator does not know, and asks again.
        if self.server.is_up() && !self.server.is_stalled() {
            self.plan(Fault::Pause);
        } else {
            self.queue.push(self.now + 500, Happening::Fault(fault));
        }
    }

    /// Up to half of the workers are cut off, in one direction or in both.
    fn partition(&mut self) {
        self.report.incidents.partitions += 1;
        let until = self.mended();
        let directions: &[usize] = match self.dice.between(0, 3) {
            0 => &[UP],
            1 => &[DOWN],
            _ => &[UP, DOWN],
        };
        for worker in 0..self.nodes.len() {
            if self.dice.unit() < 0.5 {
                for direction in directions {
                    self.nodes[worker].blocked[*direction] = until;
                }
                self.note(&format!("w{worker}: cut off in {directions:?} until {until}"));
            }
        }
        self.plan(Fault::Partition);
    }

    fn spoil(&mut self, worker: usize, mood: Mood, fault: Fault) {
        self.nodes[worker].mood = mood;
        self.plan(fault);
    }

    fn worker_down(&mut self, worker: usize) {
        // One that is down already is down for longer, and comes back once.
        if !self.nodes[worker].is_up() {
            return;
        }
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

    fn lose_disk(&mut self, worker: usize) {
        self.report.incidents.disk_losses += 1;
        self.note(&format!("w{worker}: the disk is gone"));
        let node = &mut self.nodes[worker];
        let lost = std::mem::take(&mut node.disk);
        // What the coordinator has counted of it stays counted.
        if lost != Durable::default() {
            node.ghost = Some(lost);
        }
    }

    pub(super) fn coordinator_down(&mut self) {
        if !self.server.is_up() {
            return;
        }
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
