//! Slow is not stuck: who of those that are waited for moves on, and who only keeps its connection.
//!
//! A worker reports how far it is; a report that says something new is progress. One that is connected
//! and said nothing new for [`super::Rules::stuck_ms`] is named in the log, once, and again at the
//! deadline. One that is not connected is lost, which is said elsewhere.

use super::{Action, Machine, Member, Millis, Token};
use proto::event::RunEvent;
use serde::{Deserialize, Serialize};

/// How a member gets on in the open round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Motion {
    /// When it was asked, or last said something new.
    at: Millis,
    /// What it said last: phase and steps or bytes done.
    mark: Option<(i32, u64)>,
    /// The log has named it.
    named: bool,
}

impl Machine {
    /// Whether the log has named a member as stuck, and it has not moved since.
    pub fn is_stuck(&self, worker: &str) -> bool {
        self.motions.get(worker).is_some_and(|motion| motion.named) && self.stands_still(worker)
    }

    fn stands_still(&self, worker: &str) -> bool {
        let still = |motion: &Motion| self.now.saturating_sub(motion.at) >= self.rules.stuck_ms;
        self.cohort.get(worker) == Some(&Member::Training)
            && self.is_connected(worker)
            && self.motions.get(worker).is_some_and(still)
    }

    /// Those of `workers` that are connected and stand still.
    pub(super) fn stuck_among(&self, workers: &[String]) -> Vec<String> {
        workers.iter().filter(|worker| self.stands_still(worker)).cloned().collect()
    }

    /// A worker is asked: it has all its time before it.
    pub(super) fn moves(&mut self, worker: &str) {
        self.motions.insert(worker.to_owned(), Motion { at: self.now, mark: None, named: false });
    }

    pub(super) fn progressed(&mut self, worker: &str, round: u64, mark: (i32, u64)) {
        let open = self.awaits(worker, round);
        if let Some(motion) = self.motions.get_mut(worker).filter(|_| open)
            && motion.mark != Some(mark)
        {
            *motion = Motion { at: self.now, mark: Some(mark), named: false };
        }
    }

    pub(super) fn arm_motion(&mut self, at: Millis, out: &mut Vec<Action>) {
        self.motion_at = at;
        out.push(Action::Arm { token: Token::Motion { round: self.round }, at });
    }

    /// Names whoever has come to a standstill, and looks again when the next one may have.
    pub(super) fn look(&mut self, out: &mut Vec<Action>) {
        let members: Vec<String> = self.cohort.keys().cloned().collect();
        for worker in self.stuck_among(&members) {
            let Some(motion) = self.motions.get_mut(&worker).filter(|motion| !motion.named) else { continue };
            motion.named = true;
            let seconds = (self.now - motion.at) / 1_000;
            let round = self.round_of(&worker);
            out.push(Action::Publish(RunEvent::WorkerStuck { round, worker, seconds }));
        }
        let due = self.motions.values().map(|motion| motion.at + self.rules.stuck_ms);
        let next = due.filter(|due| *due > self.now).min();
        self.arm_motion(next.unwrap_or(self.now + self.rules.stuck_ms), out);
    }
}
