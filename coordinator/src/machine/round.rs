//! The open round: counting, closing, committing, evaluating.

use super::{Action, Counted, Decision, End, Facts, Machine, Member, Phase, Token};
use proto::{
    digest::Digest,
    event::RunEvent,
    v1::{AbandonReason, DeclineReason, RejectReason},
};

/// A round in which every member refuses is asked so often before the run fails.
pub(super) const ATTEMPTS: u32 = 3;

impl Machine {
    pub(super) fn update(&mut self, worker: &str, round: u64, facts: Facts, out: &mut Vec<Action>) {
        let decision = self.offer(worker, round);
        let accepted = decision == Decision::Accept;
        if let Decision::Reject { reason, detail } = &decision {
            self.note_rejection(worker, round, (*reason, detail), out);
        }
        out.push(Action::Verdict { worker: worker.to_owned(), decision });
        if accepted {
            self.strikes.remove(worker);
            self.cohort.insert(worker.to_owned(), Member::Counted(facts));
            out.push(Action::Publish(RunEvent::UpdateApplied {
                round,
                worker: worker.to_owned(),
                examples: facts.examples,
                train_loss: facts.train_loss,
                seconds: facts.seconds,
            }));
            self.try_close(out);
        }
    }

    pub(super) fn reject(
        &mut self,
        worker: &str,
        round: u64,
        (reason, detail): (RejectReason, String),
        out: &mut Vec<Action>,
    ) {
        self.note_rejection(worker, round, (reason, &detail), out);
        out.push(Action::Verdict {
            worker: worker.to_owned(),
            decision: Decision::Reject { reason, detail },
        });
        if reason.is_fault() {
            self.strike(worker, out);
        }
        if !reason.settles() {
            return;
        }
        if self.awaits(worker, round) {
            self.settle(worker, Member::Rejected(reason));
            self.try_close(out);
        }
    }

    fn strike(&mut self, worker: &str, out: &mut Vec<Action>) {
        let strikes = self.strikes.entry(worker.to_owned()).or_default();
        *strikes += 1;
        let rejections = *strikes;
        if self.rules.quarantine_after > 0 && rejections >= self.rules.quarantine_after {
            self.quarantined.insert(worker.to_owned());
            out.push(Action::Publish(RunEvent::Quarantined { worker: worker.to_owned(), rejections }));
            out.push(Action::Quarantine { worker: worker.to_owned() });
        }
    }

    pub(super) fn note_rejection(
        &mut self,
        worker: &str,
        round: u64,
        (reason, detail): (RejectReason, &str),
        out: &mut Vec<Action>,
    ) {
        self.rejected += 1;
        out.push(Action::Publish(RunEvent::UpdateRejected {
            round,
            worker: worker.to_owned(),
            reason: reason.label().to_owned(),
            detail: detail.to_owned(),
        }));
    }

    pub(super) fn decline(
        &mut self,
        worker: &str,
        round: u64,
        (reason, detail): (DeclineReason, String),
        out: &mut Vec<Action>,
    ) {
        if !self.awaits(worker, round) {
            return;
        }
        self.settle(worker, Member::Declined);
        out.push(Action::Publish(RunEvent::WorkerDeclined {
            round,
            worker: worker.to_owned(),
            reason: reason.label().to_owned(),
            detail,
        }));
        self.try_close(out);
    }

    fn counted(&self) -> usize {
        self.cohort.values().filter(|member| matches!(member, Member::Counted(_))).count()
    }

    /// Closes the round when nobody is waited for and enough was counted; asks substitutes otherwise.
    pub(super) fn try_close(&mut self, out: &mut Vec<Action>) {
        if self.flow.is_some() {
            return self.fill(true, out);
        }
        if self.cohort.values().any(|member| *member == Member::Training) {
            return;
        }
        if self.counted() >= self.needed() {
            self.commit(out);
            return;
        }
        let missing = self.rules.min_updates - self.counted();
        self.attempt += 1;
        let substitutes = self.substitutes(missing);
        if substitutes.is_empty() {
            self.attempt -= 1;
            return;
        }
        self.short(&substitutes, out);
        self.enlist(&substitutes, out);
        let token = Token::Deadline { round: self.round, attempt: self.attempt };
        out.push(Action::Arm { token, at: self.deadline_at });
        for worker in substitutes {
            if self.is_connected(&worker) {
                self.assign(&worker, out);
            }
        }
    }

    /// Substitutes become members, durably before they hear of it.
    fn enlist(&mut self, substitutes: &[String], out: &mut Vec<Action>) {
        self.members.extend(substitutes.iter().cloned());
        self.cohort.extend(substitutes.iter().map(|worker| (worker.clone(), Member::Training)));
        out.push(Action::Persist);
    }

    fn short(&self, substitutes: &[String], out: &mut Vec<Action>) {
        out.push(Action::Publish(RunEvent::RoundShort {
            round: self.round,
            updates: self.counted(),
            needed: self.rules.min_updates,
            substitutes: substitutes.to_vec(),
        }));
    }

    pub(super) fn deadline(&mut self, out: &mut Vec<Action>) {
        let late: Vec<String> = self
            .cohort
            .iter()
            .filter(|(_, member)| matches!(member, Member::Training | Member::Lost))
            .map(|(worker, _)| worker.clone())
            .collect();
        if !late.is_empty() {
            let (round, workers, stuck) = (self.round, late.clone(), self.stuck_among(&late));
            out.push(Action::Publish(RunEvent::Late { round, workers, stuck }));
        }
        if self.counted() >= self.needed() {
            for worker in late {
                if self.is_connected(&worker) {
                    let reason = AbandonReason::Deadline;
                    out.push(Action::Abandon { worker, round: self.round, reason });
                }
            }
            self.commit(out);
            return;
        }
        self.attempt += 1;
        self.shortfalls += 1;
        let substitutes = self.substitutes(self.rules.min_updates - self.counted());
        if late.is_empty() && substitutes.is_empty() && self.shortfalls >= ATTEMPTS {
            let reason = format!(
                "round {} got {} of {} updates: every worker declined or was rejected {ATTEMPTS} times",
                self.round,
                self.counted(),
                self.rules.min_updates
            );
            self.end(End::Failed(reason), out);
            return;
        }
        self.ask_again(&substitutes, out);
    }

    /// A new deadline for the same round: refused members are asked again, substitutes join.
    fn ask_again(&mut self, substitutes: &[String], out: &mut Vec<Action>) {
        self.short(substitutes, out);
        self.enlist(substitutes, out);
        let stuck = self.stuck_among(&self.cohort.keys().cloned().collect::<Vec<_>>());
        self.arm_deadline(out);
        let waiting: Vec<String> = self
            .cohort
            .iter()
            .filter(|(worker, member)| {
                !matches!(member, Member::Counted(_)) && !self.quarantined.contains(worker.as_str())
            })
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in waiting {
            if self.is_connected(&worker) {
                // The same order again would change nothing for one that hangs.
                if stuck.contains(&worker) {
                    let (worker, reason) = (worker.clone(), AbandonReason::Deadline);
                    out.push(Action::Abandon { worker, round: self.round, reason });
                }
                self.cohort.insert(worker.clone(), Member::Training);
                self.assign(&worker, out);
            }
        }
    }

    pub(super) fn commit(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Committing;
        let of_round = || {
            let counted = |(worker, member): (&String, &Member)| match member {
                Member::Counted(facts) => Some(Counted { worker: worker.clone(), facts: *facts }),
                _ => None,
            };
            self.cohort.iter().filter_map(counted).collect()
        };
        let counted = self.counted_in_buffer().unwrap_or_else(of_round);
        out.push(Action::Commit {
            round: self.round,
            counted,
            population: self.members.len(),
            population_before: if self.round == 0 { self.members.len() } else { self.population_before },
            rejected: self.rejected,
            opened_at: self.opened_at,
        });
    }

    /// The disk has the round: tell everybody, then go on.
    pub(super) fn confirm(&mut self, round: u64, digest: Digest, out: &mut Vec<Action>) {
        if self.phase != Phase::Committing || round != self.round {
            return;
        }
        if self.flow.is_some() {
            return self.confirm_flow(digest, out);
        }
        let cohort = std::mem::take(&mut self.cohort);
        let participants = cohort.values().filter(|member| matches!(member, Member::Counted(_))).count();
        out.push(Action::Publish(RunEvent::RoundCommitted { round, participants, model_digest: digest }));
        for (worker, member) in cohort {
            let included = matches!(member, Member::Counted(_));
            self.learn(&worker, &member);
            if included {
                self.committed.insert(worker.clone(), round);
                *self.participations.entry(worker.clone()).or_default() += 1;
            }
            if self.is_connected(&worker) {
                out.push(Action::Closed { worker, round, included });
            }
        }
        self.population_before = self.members.len();
        self.round += 1;
        self.secret = None;
        let every = self.rules.federated_every;
        let due = every > 0 && (self.round.is_multiple_of(every) || self.round == self.rules.rounds);
        if due { self.evaluate(out) } else { self.advance(out) }
    }

    pub(super) fn advance(&mut self, out: &mut Vec<Action>) {
        if self.round >= self.rules.rounds {
            self.end(End::Finished, out);
        } else if let Some(reason) = self.spent.clone() {
            self.end(End::Exhausted(reason), out);
        } else if self.paused {
            if self.flow.is_some() {
                self.abandon_round(AbandonReason::Paused, out);
            }
            self.phase = Phase::Paused;
            out.push(Action::Persist);
        } else if self.flow.is_some() && !self.members.is_empty() {
            self.advance_flow(out);
        } else {
            self.phase = Phase::Waiting;
            self.try_open(out);
        }
    }
}
