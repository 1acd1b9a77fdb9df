//! Rounds: after training, shares go out; when the barrier opens, what has arrived is mixed in and the
//! next training begins.

use super::message::Body;
use super::{Action, Barrier, Done, Machine, Member, Method, Mode, Phase};
use crate::kernel::Scalar;
use std::collections::BTreeMap;

impl<T: Scalar> Machine<T> {
    /// Whether rounds are closed in step, so that what arrives waits for its round.
    pub(super) fn in_step(&self) -> bool {
        self.config.barrier == Barrier::Synchronous
    }

    /// Round and epoch of what is begun now.
    pub(super) fn moment(&self) -> (u64, u64) {
        (self.state.round, self.state.membership.epoch())
    }

    pub(super) fn trained(&mut self, round: u64, done: Done<T>) {
        if self.state.phase != Phase::Training || round != self.state.round {
            let (phase, now) = (self.state.phase, self.state.round);
            self.actions.push(Action::Ignored(format!("trained round {round} in round {now}, {phase:?}")));
            return;
        }
        if let Err(what) = self.sound(&done) {
            self.actions.push(Action::Ignored(what));
            return;
        }
        self.absorb(done);
        if self.config.method == Method::Relay {
            self.relay();
        }
        self.state.phase = Phase::Waiting { since: self.now };
        self.state.poll_at = self.now + self.config.retry_ms.max(1);
        self.expect();
        match self.config.mode {
            Mode::Push => self.push(),
            Mode::Symmetric => self.offer(),
        }
    }

    /// Notes from whom something of this round is to come, if the round waits for it.
    fn expect(&mut self) {
        if self.config.barrier == Barrier::Asynchronous {
            return;
        }
        let round = self.state.round;
        for (peer, _) in self.row() {
            let heard = |link: &super::Link<T>| link.closed || link.heard.is_some_and(|heard| heard >= round);
            if !self.state.links.get(&peer.id).is_some_and(heard) {
                self.state.expected.insert((round, peer.id));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let Phase::Waiting { since } = self.state.phase else { return None };
        self.config.deadline_ms.map(|deadline| since + deadline)
    }

    /// Closes the round if the barrier is open.
    pub(super) fn advance(&mut self) {
        if !matches!(self.state.phase, Phase::Waiting { .. }) {
            return;
        }
        let round = self.state.round;
        let late = self.deadline().is_some_and(|deadline| self.now >= deadline);
        if late {
            self.state.expected.retain(|(r, _)| *r > round);
        }
        let open = match self.config.barrier {
            _ if late => true,
            Barrier::Synchronous => !self.missing(0) && !self.unsettled(),
            Barrier::Bounded { rounds } => !self.missing(rounds),
            Barrier::Asynchronous => true,
        };
        if !open {
            return;
        }
        self.mix_held(round);
        self.gather();
        self.remember();
        self.state.base = None;
        self.state.round += 1;
        self.state.phase = Phase::Training;
        self.actions.push(Action::Train { round: self.state.round });
    }

    /// Mixes what has arrived for rounds up to this one, in order.
    pub(super) fn mix_held(&mut self, round: u64) {
        let later = self.state.held.split_off(&round.saturating_add(1));
        let due = std::mem::replace(&mut self.state.held, later);
        let due: Vec<_> = due.into_values().flat_map(BTreeMap::into_values).collect();
        if due.is_empty() {
            return;
        }
        let payloads: Vec<&[T]> = due.iter().map(|held| &*held.payload).collect();
        T::add_all(self.state.x.edit(), &payloads);
        for held in due {
            self.state.w += held.mass;
            self.recycle(held.payload);
        }
    }

    fn missing(&self, lag: u64) -> bool {
        let reachable = |id: &u64| self.state.links.get(id).is_some_and(|link| !link.suspected);
        self.state.expected.iter().any(|(r, id)| r.saturating_add(lag) <= self.state.round && reachable(id))
    }

    fn unsettled(&self) -> bool {
        self.state.links.values().any(|link| link.under_way.is_some() && !link.suspected)
    }

    pub(super) fn polled(&mut self, from: Member) {
        let Some(link) = self.state.links.get(&from.id) else { return };
        let begun = match self.state.phase {
            Phase::Waiting { .. } => Some(self.state.round),
            Phase::Training => self.state.round.checked_sub(1),
            Phase::Leaving | Phase::Over => Some(u64::MAX),
        };
        let settled = match &link.under_way {
            Some(under_way) => under_way.transfer.round.checked_sub(1),
            None => begun,
        };
        if let Some(round) = settled {
            self.send(from, Body::Progress { round });
        }
    }

    pub(super) fn heard(&mut self, from: Member, round: u64) {
        self.link_mut(from.id, |link| link.note(round));
        self.state.expected.retain(|(r, id)| *id != from.id || *r > round);
    }

    pub(super) fn suspect(&mut self, id: u64, suspected: bool) {
        let now = self.now;
        self.link_mut(id, |link| {
            link.suspected = suspected;
            if let Some(under_way) = link.under_way.as_mut().filter(|_| !suspected) {
                (under_way.retry_at, under_way.attempts) = (now, 0);
            }
        });
    }
}
