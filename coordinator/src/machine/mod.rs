//! The round machine of one run: who is asked, what is counted, when a round closes, what may be said
//! to whom. Pure: `handle(event, now) -> actions`; no clock, no socket, no disk, no tensor.
//!
//! ```text
//! Waiting ──enough workers──▶ Training ──all settled, or deadline with enough──▶ Committing
//!    ▲                            │ ▲ deadline with too few: substitutes               │ disk confirmed
//!    └────────── resume ── Paused ┘ └───────────── Evaluating ◀── federated ───────────┤
//!                                                                Ended ◀── last round ─┘
//! ```
//!
//! Three rules carry it. *An update is counted once*: `Counted` members answer `duplicate`. *State
//! follows confirmation*: workers hear `RoundClosed` only after the disk confirmed the commit.
//! *Every wait has an owner and a deadline*: each phase has armed the timer that ends it, or names
//! the event that it waits for in a published `Waiting`.

mod evaluation;
mod filling;
mod flow;
mod membership;
mod private;
mod round;
mod rules;
mod sampling;
mod states;
mod stragglers;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_flow;
mod types;

pub use evaluation::{Evaluated, Federated};
pub use flow::{Buffered, Ongoing};
pub use rules::Rules;
pub use sampling::{Profile, is_curious};
pub use states::{Decision, End, Member, Phase};
pub use types::{Action, Command, Counted, Event, Facts, Kept, Millis, Opening, Restored, Token};

use crate::private::Secret;
use flow::Flow;
use membership::Presence;
use proto::{event::RunEvent, v1::AbandonReason};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use stragglers::Motion;

/// The round machine of one run. As a simulation keeps it between two events; a coordinator makes a new one from
/// its [`Restored`] facts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    rules: Rules,
    /// The time of the event that is being handled.
    now: Millis,
    phase: Phase,
    /// Rounds committed, which is also the number of the open or next round.
    round: u64,
    attempt: u32,
    /// Deadlines of the open round that passed with too few updates.
    shortfalls: u32,
    /// Members when the last round was committed.
    population_before: usize,
    members: BTreeSet<String>,
    presence: BTreeMap<String, Presence>,
    cohort: BTreeMap<String, Member>,
    /// The last round in which a worker's update was counted and committed.
    committed: BTreeMap<String, u64>,
    strikes: BTreeMap<String, u32>,
    quarantined: BTreeSet<String>,
    opened_at: Millis,
    deadline_at: Millis,
    /// How the members of the open round get on.
    motions: BTreeMap<String, Motion>,
    /// When that is looked at next.
    motion_at: Millis,
    rejected: usize,
    /// Empty but while workers evaluate.
    #[serde(skip)]
    reports: evaluation::Reports,
    awaiting: BTreeSet<String>,
    paused: bool,
    /// Of the open round, in a run with noise.
    secret: Option<Secret>,
    /// For the next one.
    fresh: Option<Secret>,
    participations: BTreeMap<String, u64>,
    /// What was seen of workers, if the sampler asks for it.
    profiles: BTreeMap<String, Profile>,
    histograms: BTreeMap<String, Vec<f64>>,
    /// Members of the open round that were drawn more than once.
    repeated: BTreeMap<String, usize>,
    /// Why no further round may open.
    spent: Option<String>,
    /// In a run without rounds that anybody waits for.
    flow: Option<Flow>,
    /// The last published `Waiting`, so that it is said once.
    said_waiting: Option<(usize, usize)>,
}

impl Machine {
    /// A machine for a new run, or for one read from the store; [`Event::Start`] sets it going.
    pub fn new(rules: Rules, restored: Restored) -> Self {
        let flow = rules.flow.map(|flow| Flow::new(flow, restored.ongoing));
        let tasks = flow.as_ref().map(Flow::workers);
        let opened = restored.opening.as_ref().map(|opening| opening.cohort.clone());
        let cohort = tasks.or(opened).unwrap_or_default();
        Self {
            rules,
            now: 0,
            phase: Phase::Waiting,
            round: restored.round,
            attempt: 0,
            shortfalls: 0,
            population_before: restored.population_before,
            members: restored.members,
            presence: BTreeMap::new(),
            secret: restored.opening.as_ref().and_then(|opening| opening.secret.clone()),
            fresh: None,
            participations: restored.participations,
            spent: None,
            profiles: restored.profiles,
            histograms: BTreeMap::new(),
            repeated: restored
                .opening
                .as_ref()
                .map(|opening| sampling::repeated(opening.cohort.clone()))
                .unwrap_or_default(),
            cohort: cohort.into_iter().map(|worker| (worker, Member::Training)).collect(),
            flow,
            committed: restored.committed,
            strikes: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            opened_at: 0,
            deadline_at: 0,
            motions: BTreeMap::new(),
            motion_at: 0,
            rejected: 0,
            reports: evaluation::Reports::default(),
            awaiting: BTreeSet::new(),
            paused: restored.paused,
            said_waiting: None,
        }
    }

    /// Takes an event; gives what must be done, in this order.
    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Action> {
        self.now = now;
        let mut out = Vec::new();
        if matches!(self.phase, Phase::Ended(_)) {
            // Late updates are still answered, good ones and bad ones.
            if let Event::Update { worker, round, .. }
            | Event::Stored { worker, round, .. }
            | Event::Rejected { worker, round, .. } = event
            {
                out.push(Action::Verdict { worker: worker.clone(), decision: self.offer(&worker, round) });
            }
            return out;
        }
        match event {
            Event::Start => self.start(&mut out),
            Event::Joined { worker } => self.joined(&worker, &mut out),
            Event::Left { worker } => self.left(&worker, &mut out),
            Event::Update { worker, round, facts } => self.update(&worker, round, facts, &mut out),
            Event::Stored { worker, round, facts, kept } => {
                self.stored((&worker, round), (facts, kept), &mut out);
            }
            Event::Rejected { worker, round, reason, detail } => {
                self.reject(&worker, round, (reason, detail), &mut out);
            }
            Event::Declined { worker, round, reason, detail } => {
                self.decline(&worker, round, (reason, detail), &mut out);
            }
            Event::Progress { worker, round, mark } => self.progressed(&worker, round, mark),
            Event::Evaluated { worker, round, report } => self.evaluated(&worker, round, report, &mut out),
            Event::Timer(token) => self.timer(token, &mut out),
            Event::Committed { round, digest } => self.confirm(round, digest, &mut out),
            Event::Failed { reason } => self.end(End::Failed(reason), &mut out),
            Event::Spent { round, reason } => self.spend(round, reason, &mut out),
            Event::Command(command) => self.command(command, &mut out),
            Event::Quarantine { worker, on } => self.set_quarantine(&worker, on, &mut out),
        }
        out
    }

    /// For a run that ended before the coordinator was restarted.
    pub fn set_ended(&mut self, end: End) {
        self.phase = Phase::Ended(end);
    }

    /// What the run is played by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The phase, for people.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether an operator paused the run.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Rounds committed so far, which is also the number of the open or next round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The present round's members and their states.
    pub fn cohort(&self) -> &BTreeMap<String, Member> {
        &self.cohort
    }

    /// Whether a member of the cohort is connected.
    pub fn is_connected(&self, worker: &str) -> bool {
        self.presence.get(worker) == Some(&Presence::Connected)
    }

    /// Every worker that ever was in a cohort's draw.
    pub fn members(&self) -> &BTreeSet<String> {
        &self.members
    }

    /// The last committed round that counted each worker.
    pub fn committed(&self) -> &BTreeMap<String, u64> {
        &self.committed
    }

    /// What the machine would say to an update of that worker for that round, before its bytes move.
    pub fn offer(&self, worker: &str, round: u64) -> Decision {
        use proto::v1::RejectReason;
        if self.committed.get(worker) == Some(&round) {
            return Decision::Duplicate;
        }
        if self.quarantined.contains(worker) {
            return Decision::reject(
                RejectReason::Quarantined,
                "an operator has to release this worker first",
            );
        }
        if let Some(flow) = &self.flow {
            return self.offer_flow(flow, worker, round);
        }
        if round != self.round || self.phase != Phase::Training {
            let state = self.phase.label();
            let detail = format!("update for round {round}, the run is {state} in round {}", self.round);
            return Decision::reject(RejectReason::StaleRound, detail);
        }
        match self.cohort.get(worker) {
            Some(Member::Training | Member::Lost) => Decision::Accept,
            Some(Member::Counted(_)) => Decision::Duplicate,
            Some(Member::Rejected(reason)) => {
                Decision::reject(*reason, "an update for this round was already rejected")
            }
            Some(Member::Declined) => {
                Decision::reject(RejectReason::NotAssigned, "the worker declined this round")
            }
            None => Decision::reject(RejectReason::NotAssigned, "the worker is not in this round's cohort"),
        }
    }

    fn start(&mut self, out: &mut Vec<Action>) {
        for worker in self.members.iter().chain(self.cohort.keys()).cloned().collect::<BTreeSet<_>>() {
            self.presence.insert(worker.clone(), Presence::LostAt(self.now));
            out.push(Action::Arm {
                token: Token::Rejoin { worker, since: self.now },
                at: self.now + self.rules.rejoin_ms,
            });
        }
        if self.paused {
            self.phase = Phase::Paused;
            self.cohort.clear();
            self.abandon_flow(false);
        } else if self.round >= self.rules.rounds {
            self.end(End::Finished, out);
        } else if self.ongoing().is_some_and(|ongoing| *ongoing != Ongoing::default()) {
            self.resume_flow(out);
        } else if self.cohort.is_empty() {
            self.try_open(out);
        } else {
            out.push(Action::Publish(RunEvent::Resumed { round: self.round }));
            self.begin_training(out);
        }
    }

    fn command(&mut self, command: Command, out: &mut Vec<Action>) {
        match command {
            Command::Pause if !self.paused => {
                self.paused = true;
                out.push(Action::Publish(RunEvent::Paused {}));
                // A commit or an evaluation that is under way is finished first; `advance` sees the flag.
                if matches!(self.phase, Phase::Waiting | Phase::Training) {
                    self.abandon_round(AbandonReason::Paused, out);
                    self.phase = Phase::Paused;
                }
                self.persist(out);
            }
            Command::Resume if self.paused => {
                self.paused = false;
                out.push(Action::Publish(RunEvent::Resumed { round: self.round }));
                self.persist(out);
                if self.phase == Phase::Paused {
                    self.advance(out);
                }
            }
            Command::Cancel => {
                self.abandon_round(AbandonReason::Cancelled, out);
                self.end(End::Cancelled, out);
            }
            Command::Pause | Command::Resume => {}
        }
    }

    /// Not while a commit is under way: the disk may have it already, and what the driver holds is the
    /// record before it. `advance` makes up for it.
    fn persist(&self, out: &mut Vec<Action>) {
        if self.phase != Phase::Committing {
            out.push(Action::Persist);
        }
    }

    fn abandon_round(&mut self, reason: AbandonReason, out: &mut Vec<Action>) {
        for worker in std::mem::take(&mut self.cohort).into_keys() {
            if self.presence.get(&worker) == Some(&Presence::Connected) {
                let round = self.round_of(&worker);
                out.push(Action::Abandon { worker, round, reason });
            }
        }
        self.abandon_flow(reason != AbandonReason::Paused);
        self.awaiting.clear();
        out.push(Action::DropUploads);
    }

    fn end(&mut self, end: End, out: &mut Vec<Action>) {
        match end {
            End::Failed(_) => self.abandon_round(AbandonReason::Failed, out),
            End::Exhausted(_) => self.abandon_round(AbandonReason::Finished, out),
            End::Finished | End::Cancelled => {}
        }
        self.secret = None;
        self.abandon_flow(true);
        self.phase = Phase::Ended(end.clone());
        out.push(Action::End(end));
    }

    fn timer(&mut self, token: Token, out: &mut Vec<Action>) {
        match token {
            Token::Deadline { round, attempt } => {
                // A round that was given up and opened again has a later deadline under the same name.
                let due = self.now >= self.deadline_at;
                if due && round == self.round && attempt == self.attempt && self.phase == Phase::Training {
                    if self.flow.is_some() { self.ask_refused(out) } else { self.deadline(out) }
                }
            }
            Token::Task { worker, version } => self.task_deadline(&worker, version, out),
            Token::Motion { round } => {
                if round == self.round && self.now >= self.motion_at && self.phase == Phase::Training {
                    self.look(out);
                }
            }
            Token::Rejoin { worker, since } => {
                if self.presence.get(&worker) == Some(&Presence::LostAt(since)) {
                    self.given_up(&worker, out);
                }
            }
            Token::Evaluation { round } => {
                if self.phase == Phase::Evaluating && round + 1 == self.round {
                    self.awaiting.clear();
                    self.close_evaluation(out);
                }
            }
        }
    }
}
