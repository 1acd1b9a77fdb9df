//! Runs without rounds that anybody waits for (`[async]` in a run file): workers train on the version that
//! was the newest when they were asked, updates gather in a buffer, and a full buffer makes a version.
//!
//! The run's round is the number of the version. The cohort holds whoever trains, each on a version of its
//! own, its *task*. Three rules differ from a round's. *An update is durable before its worker hears so*:
//! the buffer outlives a crash, and a task whose update is in it is over. *A worker trains a version once*:
//! equal tasks would draw equal batches. *Whoever is free is asked at once*, until as many train as may; a
//! worker that is lost, late, or too many versions behind gives its place to another.

use super::{Action, Counted, Decision, Facts, Kept, Machine, Member, Millis, Phase, Token};
use proto::{
    digest::Digest,
    event::RunEvent,
    spec::AsyncSpec,
    v1::{AbandonReason, RejectReason},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// An update that waits in the buffer, or is being committed. Durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buffered {
    /// Whose.
    pub worker: String,
    /// The version that it was trained on.
    pub version: u64,
    /// How many versions later it met the model.
    pub staleness: u64,
    /// Its scalars.
    pub facts: Facts,
    /// Its values and the other scalars, as the driver keeps them.
    pub kept: Kept,
}

/// The durable facts of a run without rounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ongoing {
    /// Who trains, and on which version.
    pub tasks: BTreeMap<String, u64>,
    /// In order of arrival.
    pub buffer: Vec<Buffered>,
}

/// What a machine has in addition in such a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) rules: AsyncSpec,
    pub(super) ongoing: Ongoing,
    /// When each task is given up.
    deadlines: BTreeMap<String, Millis>,
    /// Accepted, and not told so: (worker, version).
    pub(super) untold: Vec<(String, u64)>,
    /// Whose last task was given up: asked again when nobody else is left, and not waited for.
    pub(super) late: BTreeSet<String>,
}

impl Flow {
    pub(super) fn new(rules: AsyncSpec, ongoing: Ongoing) -> Self {
        Self { rules, ongoing, deadlines: BTreeMap::new(), untold: Vec::new(), late: BTreeSet::new() }
    }

    /// Those that have a task.
    pub(super) fn workers(&self) -> Vec<String> {
        self.ongoing.tasks.keys().cloned().collect()
    }
}

impl Machine {
    /// The durable facts of a run without rounds.
    pub fn ongoing(&self) -> Option<&Ongoing> {
        self.flow.as_ref().map(|flow| &flow.ongoing)
    }

    /// Whether nothing comes of a timer any more: a driver need not keep it until it is due.
    pub fn is_void(&self, token: &Token) -> bool {
        let task = |worker| self.ongoing().and_then(|ongoing| ongoing.tasks.get(worker));
        matches!(token, Token::Task { worker, version } if task(worker) != Some(version))
    }

    /// Whether an update that is whole must wait until the disk has confirmed a commit: what it would change
    /// cannot be made durable before.
    pub fn holds_back(&self) -> bool {
        self.flow.is_some() && self.phase == Phase::Committing
    }

    /// The version that a worker trains, which in rounds is the same for all.
    pub(super) fn round_of(&self, worker: &str) -> u64 {
        let task = self.flow.as_ref().and_then(|flow| flow.ongoing.tasks.get(worker));
        task.copied().unwrap_or(self.round)
    }

    /// When what a worker was asked for is given up.
    pub(super) fn due_at(&self, worker: &str) -> Millis {
        let task = self.flow.as_ref().and_then(|flow| flow.deadlines.get(worker));
        task.copied().unwrap_or(self.deadline_at)
    }

    /// Whether an update of that worker for that round is awaited.
    pub(super) fn awaits(&self, worker: &str, round: u64) -> bool {
        let open = match &self.flow {
            Some(flow) => flow.ongoing.tasks.get(worker) == Some(&round),
            None => round == self.round && self.phase == Phase::Training,
        };
        open && matches!(self.cohort.get(worker), Some(Member::Training | Member::Lost))
    }

    /// What the machine would say to an update before its bytes move.
    pub(super) fn offer_flow(&self, flow: &Flow, worker: &str, version: u64) -> Decision {
        let behind = self.round.saturating_sub(version);
        if behind > flow.rules.max_staleness() {
            return Decision::reject(RejectReason::TooStale, too_stale(version, self.round, &flow.rules));
        }
        if !self.awaits(worker, version) {
            let detail = format!(
                "version {version} is not asked of this worker (any more): the run is {} in version {}",
                self.phase.label(),
                self.round
            );
            return Decision::reject(RejectReason::StaleRound, detail);
        }
        Decision::Accept
    }

    /// A vetted update, whose values are durable.
    pub(super) fn stored(
        &mut self,
        (worker, version): (&str, u64),
        (facts, kept): (Facts, Kept),
        out: &mut Vec<Action>,
    ) {
        let mut decision = self.offer(worker, version);
        if self.holds_back() && decision == Decision::Accept {
            let detail = "the buffer is being committed: offer it again";
            decision = Decision::reject(RejectReason::StaleRound, detail);
        }
        if let Decision::Reject { reason, detail } = &decision {
            self.note_rejection(worker, version, (*reason, detail), out);
        }
        let accepted = decision == Decision::Accept;
        out.push(Action::Verdict { worker: worker.to_owned(), decision });
        if !accepted {
            return;
        }
        self.end_task(worker);
        self.strikes.remove(worker);
        self.shortfalls = 0;
        self.committed.insert(worker.to_owned(), version);
        let staleness = self.round.saturating_sub(version);
        let (round, worker) = (self.round, worker.to_owned());
        let Some(flow) = &mut self.flow else { return };
        flow.late.remove(&worker);
        flow.untold.push((worker.clone(), version));
        flow.ongoing.buffer.push(Buffered { worker: worker.clone(), version, staleness, facts, kept });
        out.push(Action::Publish(RunEvent::UpdateBuffered {
            round,
            worker,
            version,
            staleness,
            weight: flow.rules.weight(staleness),
            examples: facts.examples,
            train_loss: facts.train_loss,
            seconds: facts.seconds,
            digest: kept.digest,
            buffered: flow.ongoing.buffer.len(),
            buffer_size: flow.rules.buffer_size(),
        }));
        self.fill(true, out);
    }

    /// A worker has no task any more.
    pub(super) fn end_task(&mut self, worker: &str) {
        if let Some(flow) = &mut self.flow {
            flow.ongoing.tasks.remove(worker);
            flow.deadlines.remove(worker);
            self.cohort.remove(worker);
            self.motions.remove(worker);
        }
    }

    /// A worker's task ended without an update: not asked again for this version.
    pub(super) fn settle(&mut self, worker: &str, how: Member) {
        self.end_task(worker);
        self.cohort.insert(worker.to_owned(), how);
    }

    /// The first version opens, or an operator let the run go on.
    pub(super) fn open_flow(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Training;
        self.opened_at = self.now;
        self.said_waiting = None;
        self.arm_motion(self.now + self.rules.stuck_ms, out);
        self.announce(out);
    }

    /// After a restart: everybody goes on with what it was asked for, with a new deadline.
    pub(super) fn resume_flow(&mut self, out: &mut Vec<Action>) {
        out.push(Action::Publish(RunEvent::Resumed { round: self.round }));
        self.phase = Phase::Training;
        self.opened_at = self.now;
        for worker in self.cohort.keys().cloned().collect::<Vec<_>>() {
            self.arm_task(&worker, out);
        }
        self.arm_motion(self.now + self.rules.stuck_ms, out);
        self.fill(false, out);
    }

    fn announce(&mut self, out: &mut Vec<Action>) {
        let before: BTreeSet<String> = self.cohort.keys().cloned().collect();
        let at = out.len();
        self.fill(false, out);
        let cohort: Vec<String> =
            self.cohort.keys().filter(|worker| !before.contains(*worker)).cloned().collect();
        if !cohort.is_empty() {
            let (round, deadline_s) = (self.round, self.rules.deadline_ms / 1_000);
            out.insert(at, Action::Publish(RunEvent::RoundOpened { round, cohort, deadline_s }));
        }
    }

    pub(super) fn arm_task(&mut self, worker: &str, out: &mut Vec<Action>) {
        let at = self.now + self.rules.deadline_ms;
        let (version, worker) = (self.round_of(worker), worker.to_owned());
        if let Some(flow) = &mut self.flow {
            flow.deadlines.insert(worker.clone(), at);
            out.push(Action::Arm { token: Token::Task { worker, version }, at });
        }
    }

    /// A task's time is over.
    pub(super) fn task_deadline(&mut self, worker: &str, version: u64, out: &mut Vec<Action>) {
        let due = self.flow.as_ref().and_then(|flow| flow.deadlines.get(worker));
        if due.is_none_or(|due| self.now < *due) || !self.awaits(worker, version) {
            return;
        }
        let workers = vec![worker.to_owned()];
        let stuck = self.stuck_among(&workers);
        out.push(Action::Publish(RunEvent::Late { round: version, workers, stuck }));
        if self.is_connected(worker) {
            let reason = AbandonReason::Deadline;
            out.push(Action::Abandon { worker: worker.to_owned(), round: version, reason });
        }
        self.end_task(worker);
        if let Some(flow) = &mut self.flow {
            flow.late.insert(worker.to_owned());
        }
        self.fill(true, out);
    }

    /// The buffer's updates, as a commit counts them.
    pub(super) fn counted_in_buffer(&self) -> Option<Vec<Counted>> {
        let counted = |one: &Buffered| Counted { worker: one.worker.clone(), facts: one.facts };
        Some(self.flow.as_ref()?.ongoing.buffer.iter().map(counted).collect())
    }

    /// The disk has the version: the next one is open.
    pub(super) fn confirm_flow(&mut self, digest: Digest, out: &mut Vec<Action>) {
        let Some(flow) = &mut self.flow else { return };
        let participants = std::mem::take(&mut flow.ongoing.buffer).len();
        let round = self.round;
        out.push(Action::Publish(RunEvent::RoundCommitted { round, participants, model_digest: digest }));
        self.tell(out);
        self.round += 1;
        (self.population_before, self.rejected, self.opened_at) = (self.members.len(), 0, self.now);
        self.cohort.retain(|_, member| matches!(member, Member::Training | Member::Lost));
        // What was armed for the version is void.
        self.deadline_at = self.now;
        if self.round < self.rules.rounds {
            self.give_up_stale(out);
        }
        self.advance(out);
    }

    /// After a version: who is free now.
    pub(super) fn advance_flow(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Training;
        // The look that was due stays due, under the new version's name.
        let look = if self.motion_at > self.now { self.motion_at } else { self.now + self.rules.stuck_ms };
        self.arm_motion(look, out);
        self.announce(out);
    }

    /// Tasks whose updates would be refused for their age, whenever they came.
    fn give_up_stale(&mut self, out: &mut Vec<Action>) {
        let Some(Flow { rules, ongoing, .. }) = &self.flow else { return };
        let (rules, round) = (*rules, self.round);
        let stale = |version: &u64| round - version > rules.max_staleness();
        let tasks: Vec<(String, u64)> = ongoing
            .tasks
            .iter()
            .filter(|(_, version)| stale(version))
            .map(|(worker, version)| (worker.clone(), *version))
            .collect();
        for (worker, version) in tasks {
            let detail = too_stale(version, round, &rules);
            self.note_rejection(&worker, version, (RejectReason::TooStale, &detail), out);
            if self.is_connected(&worker) {
                let reason = AbandonReason::Deadline;
                out.push(Action::Abandon { worker: worker.clone(), round: version, reason });
            }
            self.end_task(&worker);
        }
    }

    /// Forgets tasks, and at the end of a run the buffer, too.
    pub(super) fn abandon_flow(&mut self, over: bool) {
        if let Some(flow) = &mut self.flow {
            self.cohort.clear();
            flow.ongoing.tasks.clear();
            flow.deadlines.clear();
            if over {
                flow.ongoing.buffer.clear();
            }
        }
    }
}

fn too_stale(version: u64, round: u64, rules: &AsyncSpec) -> String {
    format!(
        "trained on version {version}, the run is at {round}: {} versions behind, at most {} are accepted",
        round - version,
        rules.max_staleness()
    )
}
