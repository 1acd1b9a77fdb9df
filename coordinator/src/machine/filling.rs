//! Who is asked next in a run without rounds, when its buffer is committed, and what is said when nobody
//! can be asked.

use super::{Action, End, Machine, Member, Phase, flow::Flow, membership::Presence, round::ATTEMPTS};
use algorithms::cohort;
use proto::event::RunEvent;

impl Machine {
    /// Commits a full buffer; asks whoever is free otherwise, and says what is missing if nobody is.
    /// `changed`: durable facts changed that nobody may hear of before the disk has them.
    pub(super) fn fill(&mut self, changed: bool, out: &mut Vec<Action>) {
        let Some(flow) = self.flow.as_ref().filter(|_| self.phase == Phase::Training) else { return };
        let buffered = flow.ongoing.buffer.len();
        let (fresh, late) = self.free(flow);
        let enough = buffered >= self.rules.min_updates.max(1);
        let alone = fresh.is_empty() && !self.anybody_to_come(flow);
        if buffered >= flow.rules.buffer_size() || (enough && alone) {
            return self.commit(out);
        }
        let training = self.cohort.values().filter(|member| **member == Member::Training).count();
        let places = flow.rules.concurrency().unwrap_or(usize::MAX).saturating_sub(training);
        let drawn = |from: &[String], places: usize| -> Vec<String> {
            let names: Vec<&str> = from.iter().map(String::as_str).collect();
            let drawn = cohort::sample(self.rules.seed, self.round, buffered as u64, &names, places);
            drawn.into_iter().map(str::to_owned).collect()
        };
        let mut chosen = drawn(&fresh, places);
        chosen.extend(drawn(&late, places - chosen.len().min(places)));
        self.begin_tasks(chosen, changed, out);
        if training == 0 && !self.cohort.values().any(|member| *member == Member::Training) {
            self.idle(out);
        }
    }

    /// Those that are connected and may be asked for this version; beside them, those that were late.
    fn free(&self, flow: &Flow) -> (Vec<String>, Vec<String>) {
        let connected = self.presence.iter().filter(|(_, presence)| **presence == Presence::Connected);
        let free = connected.map(|(worker, _)| worker).filter(|worker| self.may_train(worker));
        free.cloned().partition(|worker| !flow.late.contains(worker))
    }

    fn may_train(&self, worker: &str) -> bool {
        !self.quarantined.contains(worker)
            && !self.cohort.contains_key(worker)
            && self.committed.get(worker) != Some(&self.round)
    }

    /// Whether an update is to be expected: from a task, or from a worker that was lost a moment ago.
    fn anybody_to_come(&self, flow: &Flow) -> bool {
        let trains =
            |(worker, member): (&String, &Member)| *member == Member::Training && !flow.late.contains(worker);
        let returns = |(worker, presence): (&String, &Presence)| {
            matches!(presence, Presence::LostAt(_)) && self.may_train(worker) && !flow.late.contains(worker)
        };
        self.cohort.iter().any(trains) || self.presence.iter().any(returns)
    }

    fn begin_tasks(&mut self, chosen: Vec<String>, changed: bool, out: &mut Vec<Action>) {
        let round = self.round;
        self.members.extend(chosen.iter().cloned());
        self.cohort.extend(chosen.iter().map(|worker| (worker.clone(), Member::Training)));
        let Some(flow) = &mut self.flow else { return };
        flow.ongoing.tasks.extend(chosen.iter().map(|worker| (worker.clone(), round)));
        if changed || !chosen.is_empty() {
            out.push(Action::Persist);
        }
        self.tell(out);
        if !chosen.is_empty() {
            self.said_waiting = None;
        }
        for worker in chosen {
            self.arm_task(&worker, out);
            self.assign(&worker, out);
        }
    }

    /// Says to those whose updates are durable that they are.
    pub(super) fn tell(&mut self, out: &mut Vec<Action>) {
        let untold = self.flow.as_mut().map(|flow| std::mem::take(&mut flow.untold)).unwrap_or_default();
        for (worker, round) in untold {
            if self.is_connected(&worker) {
                out.push(Action::Closed { worker, round, included: true });
            }
        }
    }

    /// Nobody trains. Whoever refused is asked again after a while; else somebody has to come.
    fn idle(&mut self, out: &mut Vec<Action>) {
        if !self.cohort.is_empty() && self.now >= self.deadline_at {
            self.attempt += 1;
            return self.arm_deadline(out);
        }
        let buffered = self.flow.as_ref().map_or(0, |flow| flow.ongoing.buffer.len());
        let there = |(worker, presence): &(&String, &Presence)| {
            **presence == Presence::Connected && !self.quarantined.contains(*worker)
        };
        let eligible = self.presence.iter().filter(there).count();
        // Whoever is there has trained this version already.
        let said = (eligible, eligible + self.rules.min_updates.saturating_sub(buffered).max(1));
        if self.said_waiting != Some(said) {
            self.said_waiting = Some(said);
            out.push(Action::Publish(RunEvent::Waiting { eligible: said.0, needed: said.1 }));
        }
    }

    /// The time after which those that refused are asked again.
    pub(super) fn ask_refused(&mut self, out: &mut Vec<Action>) {
        let refused = |member: &Member| matches!(member, Member::Declined | Member::Rejected(_));
        let trains = self.cohort.values().any(|member| *member == Member::Training);
        if trains || !self.cohort.values().any(refused) {
            return;
        }
        self.cohort.retain(|_, member| !refused(member));
        self.shortfalls += 1;
        if self.shortfalls >= ATTEMPTS {
            let reason = format!(
                "version {} got no update: every worker declined or was rejected {ATTEMPTS} times",
                self.round
            );
            return self.end(End::Failed(reason), out);
        }
        self.fill(false, out);
    }
}
