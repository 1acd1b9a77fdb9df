//! Who is there, and when a round may open.
//!
//! A worker that lost its connection a moment ago still counts as there: a restart of a few seconds
//! must not change the cohort, or an interrupted run would train another model than an undisturbed
//! one. Only after `rejoin_ms` is it given up.

use super::{Action, Machine, Member, Millis, Phase, Token};
use algorithms::cohort;
use proto::{event::RunEvent, v1::RejectReason};
use serde::{Deserialize, Serialize};

/// Whether a worker is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Presence {
    /// Its session is alive.
    Connected,
    /// Lost, and waited for.
    LostAt(Millis),
    /// Lost for too long.
    Gone,
}

impl Machine {
    pub(super) fn joined(&mut self, worker: &str, out: &mut Vec<Action>) {
        let before = self.presence.insert(worker.to_owned(), Presence::Connected);
        if self.phase == Phase::Training || self.holds_back() {
            match self.cohort.get(worker) {
                Some(Member::Training | Member::Lost) => {
                    if before.is_some_and(|before| before != Presence::Connected) {
                        let worker = worker.to_owned();
                        let round = self.round_of(&worker);
                        out.push(Action::Publish(RunEvent::WorkerReturned { round, worker }));
                    }
                    self.cohort.insert(worker.to_owned(), Member::Training);
                    self.assign(worker, out);
                }
                // Its update is folded. Were it asked again after it lost its disk, it would train another
                // one and keep the state that belongs to that.
                Some(Member::Counted(_) | Member::Declined | Member::Rejected(_)) => {}
                // A round that is short takes whoever comes.
                None => self.try_close(out),
            }
        }
        if self.phase == Phase::Waiting {
            self.try_open(out);
        }
    }

    pub(super) fn left(&mut self, worker: &str, out: &mut Vec<Action>) {
        let Some(presence) = self.presence.get_mut(worker) else { return };
        if *presence != Presence::Connected {
            return;
        }
        *presence = Presence::LostAt(self.now);
        let token = Token::Rejoin { worker: worker.to_owned(), since: self.now };
        out.push(Action::Arm { token, at: self.now + self.rules.rejoin_ms });
        if self.phase == Phase::Training && self.cohort.get(worker) == Some(&Member::Training) {
            let round = self.round_of(worker);
            out.push(Action::Publish(RunEvent::WorkerLost { round, worker: worker.to_owned() }));
        }
        if self.phase == Phase::Evaluating && self.awaiting.remove(worker) {
            self.close_evaluation(out);
        }
    }

    pub(super) fn given_up(&mut self, worker: &str, out: &mut Vec<Action>) {
        self.presence.insert(worker.to_owned(), Presence::Gone);
        let open = self.phase == Phase::Training || self.holds_back();
        if open && self.cohort.get(worker) == Some(&Member::Training) {
            self.cohort.insert(worker.to_owned(), Member::Lost);
            self.try_close(out);
        }
        if self.phase == Phase::Waiting {
            self.try_open(out);
        }
    }

    pub(super) fn set_quarantine(&mut self, worker: &str, on: bool, out: &mut Vec<Action>) {
        if on {
            self.quarantined.insert(worker.to_owned());
            if self.awaits(worker, self.round_of(worker)) {
                self.settle(worker, Member::Rejected(RejectReason::Quarantined));
                self.try_close(out);
            }
        } else if self.quarantined.remove(worker) {
            self.strikes.remove(worker);
            match self.phase {
                Phase::Waiting => self.try_open(out),
                Phase::Training => self.try_close(out),
                _ => {}
            }
        }
    }

    fn eligible(&self) -> Vec<&str> {
        self.presence
            .iter()
            .filter(|(worker, presence)| **presence != Presence::Gone && !self.quarantined.contains(*worker))
            .filter(|(worker, _)| self.has_rounds_left(worker))
            .map(|(worker, _)| worker.as_str())
            .collect()
    }

    fn any_connected(&self) -> bool {
        self.presence.values().any(|presence| *presence == Presence::Connected)
    }

    /// Opens the next round if enough workers are there; says once what is missing otherwise.
    pub(super) fn try_open(&mut self, out: &mut Vec<Action>) {
        let eligible = self.eligible();
        let connected = self.any_connected();
        let first = self.members.is_empty();
        let needed = if first { self.rules.min_workers } else { self.rules.min_updates };
        if eligible.len() < needed || !connected {
            let said = (eligible.len(), needed);
            if self.said_waiting != Some(said) {
                self.said_waiting = Some(said);
                out.push(Action::Publish(RunEvent::Waiting { eligible: said.0, needed }));
            }
            return;
        }
        if self.flow.is_some() {
            return self.open_flow(out);
        }
        let chosen = if let (Some(rate), Some(secret)) = (self.rules.rate, self.next_secret()) {
            secret.cohort(&eligible, rate).into_iter().map(str::to_owned).collect()
        } else {
            let size = cohort::cohort_size(eligible.len(), self.rules.fraction, self.rules.size);
            let size = size.max(self.rules.min_updates).min(algorithms::fold::UPLOADS_MAX);
            self.draw(&eligible, size)
        };
        let members: Vec<String> = eligible.into_iter().map(str::to_owned).collect();
        self.use_secret();
        self.members.extend(members);
        self.said_waiting = None;
        self.set_cohort(chosen);
        self.attempt = 0;
        self.rejected = 0;
        out.push(Action::Persist);
        self.begin_training(out);
        if self.cohort.is_empty() {
            // Nobody was drawn: the round is noise alone.
            self.try_close(out);
        }
    }

    /// Enters `Training` with the present cohort.
    pub(super) fn begin_training(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Training;
        self.opened_at = self.now;
        self.shortfalls = 0;
        let cohort: Vec<String> = self.cohort.keys().cloned().collect();
        let deadline_s = self.rules.deadline_ms / 1_000;
        out.push(Action::Publish(RunEvent::RoundOpened {
            round: self.round,
            cohort: cohort.clone(),
            deadline_s,
        }));
        self.arm_deadline(out);
        self.motions.clear();
        self.arm_motion(self.now + self.rules.stuck_ms, out);
        for worker in &cohort {
            if self.is_connected(worker) {
                self.assign(worker, out);
            }
        }
    }

    pub(super) fn arm_deadline(&mut self, out: &mut Vec<Action>) {
        self.deadline_at = self.now + self.rules.deadline_ms;
        let token = Token::Deadline { round: self.round, attempt: self.attempt };
        out.push(Action::Arm { token, at: self.deadline_at });
    }

    pub(super) fn assign(&mut self, worker: &str, out: &mut Vec<Action>) {
        self.moves(worker);
        out.push(Action::Assign {
            worker: worker.to_owned(),
            round: self.round_of(worker),
            committed: self.committed.get(worker).copied(),
            remaining_ms: self.due_at(worker).saturating_sub(self.now),
        });
    }

    /// Workers outside the cohort that could stand in for missing ones.
    pub(super) fn substitutes(&self, wanted: usize) -> Vec<String> {
        if self.rules.rate.is_some() {
            return Vec::new();
        }
        let idle: Vec<&str> =
            self.eligible().into_iter().filter(|worker| !self.cohort.contains_key(*worker)).collect();
        cohort::sample(self.rules.seed, self.round, u64::from(self.attempt), &idle, wanted)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }
}
