//! Where the invariants look: each check gathers what its invariant needs to know and reports.

use super::{Federation, receiving::Call};
use crate::{Vice, invariants};
use coordinator::machine::{Action, Decision, Federated, Machine, Member, Phase};
use proto::{event::RunEvent, v1::RejectReason};
use worker::{client_state::Durable, message::Command};

/// Whom the open round waits for.
fn awaited(machine: &Machine) -> impl Iterator<Item = &str> {
    let training = machine.cohort().iter().filter(|(_, member)| **member == Member::Training);
    training.map(|(worker, _)| worker.as_str())
}

impl Federation {
    pub(super) fn vice(&self, worker: usize) -> Option<Vice> {
        self.schedule.byzantine.get(worker).copied()
    }

    fn vice_of(&self, worker: &str) -> Option<Vice> {
        self.vice(super::sessions::number(worker)?)
    }

    /// A worker's state has changed: it must be confirmed.
    pub(super) fn check_confirmed(&mut self, worker: usize) {
        // Without rounds, what a worker has is what it was told: `check_told`.
        if self.flow().is_some() {
            return;
        }
        let node = &self.nodes[worker];
        let kept = node.memory.as_ref().unwrap_or(&node.disk);
        let checked = invariants::confirmed(&node.name, kept, &self.report.rounds);
        self.report.require("confirmed", self.now, checked);
    }

    /// A round is durable: both sides must count the same.
    pub(super) fn check_balance(&mut self) {
        let disk = &self.server.disk;
        let members = self.nodes.iter().filter(|node| disk.members.contains(&node.name));
        let states: Vec<(Durable, Option<u64>)> = members
            .map(|node| {
                let committed = disk.committed.get(&node.name).copied();
                let own = invariants::settled(&node.disk, committed);
                // Of a worker that lost its disk, what it had counts for ever.
                let state = match &node.ghost {
                    Some(ghost) if own.round != committed => invariants::settled(ghost, committed),
                    _ => own,
                };
                (state, committed)
            })
            .collect();
        let vectors = self.server.vectors();
        for name in self.algorithm.mirrored() {
            let checked = invariants::balance(name, &vectors[*name], &states);
            self.report.require("balance", self.now, checked);
        }
    }

    /// Between two inputs: whatever is waited for must have an end.
    pub(super) fn check_armed(&mut self) {
        if self.flow().is_some() {
            return self.check_tasks();
        }
        let Some(machine) = &self.server.machine else { return };
        let open = *machine.phase() == Phase::Training;
        let outside = invariants::Outside {
            committing: self.server.committing,
            said_waiting: self.server.observed.waiting,
            lost: awaited(machine).filter(|worker| open && !machine.is_connected(worker)).collect(),
        };
        let checked = invariants::armed((machine.phase(), machine.round()), &self.server.timers, &outside);
        self.report.require("armed", self.now, checked);
    }

    /// A round closes: nobody who may still answer in time is left out.
    pub(super) fn check_patient(&mut self) {
        let Some(machine) = &self.server.machine else { return };
        let awaited: Vec<&str> = awaited(machine).collect();
        let checked = invariants::patient(&awaited, self.now, self.server.observed.deadline);
        self.report.require("patient", self.now, checked);
    }

    pub(super) fn check_log(&mut self) {
        let checked = invariants::log(&self.server.journal.stored, self.report.rounds.len());
        self.report.require("log", self.now, checked);
    }

    /// Somebody is asked: the disk must know of it, and nobody in quarantine is asked.
    pub(super) fn check_assignment(&mut self, worker: &str, round: u64) {
        let opening = self.server.disk.opening.as_ref();
        let known = opening.is_some_and(|opening| {
            opening.round == round && opening.cohort.iter().any(|member| member == worker)
        });
        let known = if self.flow().is_some() { self.is_task_known(worker, round) } else { known };
        let detail = || format!("{worker} is asked for round {round}, the disk has {opening:?}");
        let checked = if known { Ok(()) } else { Err(detail()) };
        self.report.require("announced", self.now, checked);
        if self.server.quarantine.contains(worker) {
            let detail = format!("{worker} is in quarantine and was asked for round {round}");
            self.report.require("quarantine", self.now, Err(detail));
        }
    }

    /// An update is about to be folded.
    pub(super) fn check_accepted(&mut self, call: &Call) {
        let harmful = self.vice(call.worker).filter(|vice| vice.is_rejected());
        let name = &self.nodes[call.worker].name;
        let checked = invariants::accepted(name, harmful, &call.upload.values);
        self.report.require("accepted", self.now, checked);
    }

    /// A verdict goes out: rejections in a row are counted here as well.
    pub(super) fn check_verdict(&mut self, worker: usize, decision: &Decision) {
        let (name, honest) = (self.nodes[worker].name.clone(), self.vice(worker).is_none());
        let strikes = &mut self.server.observed.strikes;
        match decision {
            Decision::Reject { reason, detail } if reason.is_fault() => {
                *strikes.entry(name.clone()).or_default() += 1;
                if honest {
                    let detail = format!("{name} is honest and was rejected: {detail}");
                    self.report.require("quarantine", self.now, Err(detail));
                }
            }
            Decision::Accept => {
                strikes.remove(&name);
                if self.server.quarantine.contains(&name) {
                    let detail = format!("an update of {name} was accepted, which is in quarantine");
                    self.report.require("quarantine", self.now, Err(detail));
                }
            }
            Decision::Reject { reason: RejectReason::Quarantined, .. } if honest => {
                let detail = format!("{name} is honest and in quarantine");
                self.report.require("quarantine", self.now, Err(detail));
            }
            _ => {}
        }
    }

    /// Whoever was rejected too often is in quarantine, unless the coordinator just died.
    pub(super) fn check_quarantine(&mut self) {
        if self.server.is_up() && !self.server.is_stalled() {
            let (strikes, quarantine) = (&self.server.observed.strikes, &self.server.quarantine);
            let checked = invariants::quarantine(strikes, self.spec.vetting.quarantine_after, quarantine);
            self.report.require("quarantine", self.now, checked);
        }
    }

    pub(super) fn check_evaluation(&mut self, sums: &Federated) {
        let most = self.nodes.len() as u64 * super::working::PREDICTIONS;
        let sound = sums.loss_sum.is_finite() && sums.correct <= sums.predictions && sums.predictions <= most;
        let checked = if sound { Ok(()) } else { Err(format!("the sums of an evaluation are {sums:?}")) };
        self.report.require("evaluation", self.now, checked);
    }

    /// What the log says must be true.
    pub(super) fn check_event(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Waiting { .. } => self.server.observed.waiting = true,
            RunEvent::RoundOpened { .. } => self.server.observed.waiting = false,
            RunEvent::UpdateRejected { .. } => self.report.incidents.rejected += 1,
            RunEvent::WorkerDeclined { worker, .. } => {
                let node = super::sessions::number(worker).map(|worker| &self.nodes[worker]);
                let failing = node.is_some_and(|node| node.ghost.is_some() || node.disk_full_until > 0);
                if !failing && self.vice_of(worker) != Some(Vice::Refuse) {
                    self.report.require("nobody refuses", self.now, Err(format!("{event:?}")));
                }
            }
            _ => {}
        }
    }

    /// What the machine says of stragglers, at the time when it says so.
    pub(super) fn check_motion(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Assign { worker, .. } => {
                    self.server.observed.moved.insert(worker.clone(), self.now);
                }
                Action::Publish(RunEvent::Late { workers, stuck, .. }) => {
                    self.report.incidents.late += workers.len() as u64;
                    for worker in workers {
                        self.check_straggler(worker, stuck.contains(worker));
                    }
                }
                Action::Publish(RunEvent::WorkerStuck { worker, .. }) => {
                    self.report.incidents.named_stuck += 1;
                    self.check_straggler(worker, true);
                }
                _ => {}
            }
        }
    }

    fn check_straggler(&mut self, worker: &str, stuck: bool) {
        let Some(machine) = &self.server.machine else { return };
        let connected = machine.is_connected(worker);
        let moved = self.server.observed.moved.get(worker).copied();
        let silent = moved.filter(|_| connected).map(|moved| self.now - moved);
        let checked = invariants::stragglers(worker, stuck, (silent, machine.rules().stuck_ms));
        self.report.require("stragglers", self.now, checked);
    }

    /// A defect: a commit is announced at once.
    pub(super) fn confirm_early(&mut self, participants: &[String], round: u64) {
        for worker in participants {
            let run = self.server.run.clone();
            self.tell(worker, Command::Closed { run, round, included: true });
        }
    }

    /// The phase, for a run that did not come to its end.
    pub(super) fn standing(&self) -> String {
        let phase = self.server.machine.as_ref().map(|machine| (machine.phase().clone(), machine.cohort()));
        match phase {
            Some((Phase::Training, cohort)) => format!("training {cohort:?}"),
            Some((phase, _)) => phase.label().to_owned(),
            None => "the coordinator is down".to_owned(),
        }
    }
}
