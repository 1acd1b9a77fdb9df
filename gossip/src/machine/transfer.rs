//! The receiving and the concluding end of a transfer, for both modes, and its repetition.

use super::link::{Arrival, Link};
use super::message::{Body, Content, Refusal, Transfer, Verdict};
use super::{Held, Machine, Member, Method, Mode, Phase};
use crate::{
    Mass,
    kernel::{Scalar, add},
};
use std::{cmp::Ordering, collections::btree_map::Entry};

impl<T: Scalar> Machine<T> {
    pub(super) fn transfer(&mut self, from: Member, transfer: Transfer<T>) {
        let Some(link) = self.state.links.get(&from.id) else { return };
        let seq = transfer.seq;
        let verdict = match link.arrival(seq) {
            Arrival::Void => return,
            Arrival::Repeated(verdict) => verdict,
            Arrival::Next => {
                let Some(verdict) = self.judge(from.id, &transfer) else {
                    self.link_mut(from.id, |link| link.waiting = Some(transfer));
                    return;
                };
                let round = transfer.round;
                self.link_mut(from.id, |link| link.settle(&transfer, verdict.clone()));
                self.state.expected.retain(|(r, id)| *id != from.id || *r > round);
                verdict
            }
        };
        self.send(from, Body::Verdict { seq, verdict });
    }

    /// Takes or refuses the next transfer of a link; `None` when it has to wait.
    fn judge(&mut self, peer: u64, transfer: &Transfer<T>) -> Option<Verdict<T>> {
        let refused = |refusal| Some(Verdict::Refused(refusal));
        if transfer.payload.len() != self.config.method.scalars(self.parameters()) {
            return refused(Refusal::Shape);
        }
        if !T::all_finite(&transfer.payload) || !self.counted(&transfer.payload) {
            return refused(Refusal::NotFinite);
        }
        if self.config.method == Method::Tracking {
            match transfer.epoch.cmp(&self.state.membership.epoch()) {
                Ordering::Less => return refused(Refusal::Disagreement),
                // Who takes part will soon be known here, too.
                Ordering::Greater => return None,
                Ordering::Equal => {}
            }
        }
        match (transfer.content, self.config.mode) {
            (Content::Share { mass }, Mode::Push) if mass > Mass::ZERO => {
                self.take((transfer.round, peer), Held { mass, payload: transfer.payload.values.clone() });
                Some(Verdict::Applied)
            }
            (Content::Share { .. }, Mode::Push) => refused(Refusal::NotFinite),
            (Content::Offer { weight }, Mode::Symmetric) => self.answer(peer, transfer, weight),
            (_, _) => refused(Refusal::Disagreement),
        }
    }

    /// Adds it now, or at the end of its round where rounds are closed in order.
    pub(super) fn take(&mut self, (round, peer): (u64, u64), held: Held<T>) {
        if !self.in_step() {
            self.apply(held);
            return;
        }
        // Two lives of a peer may both have been in that round.
        match self.state.held.entry(round).or_default().entry(peer) {
            Entry::Occupied(mut before) => {
                before.get_mut().mass += held.mass;
                add(before.get_mut().payload.edit(), &held.payload);
            }
            Entry::Vacant(place) => {
                place.insert(held);
            }
        }
    }

    pub(super) fn apply(&mut self, held: Held<T>) {
        self.state.w += held.mass;
        add(self.state.x.edit(), &held.payload);
        self.recycle(held.payload);
    }

    pub(super) fn verdict(&mut self, from: Member, seq: u64, verdict: Verdict<T>) {
        let Some(mut link) = self.state.links.remove(&from.id) else { return };
        if let Some(transfer) = link.conclude(seq) {
            let (content, round) = (transfer.content, transfer.round);
            match verdict {
                Verdict::Applied => self.recycle(transfer.payload.values),
                Verdict::Refused(_) => self.take_back(&mut link, &transfer),
                Verdict::Answered(theirs) => self.answered(&mut link, &transfer, &theirs),
            }
            if let Content::Offer { .. } = content {
                link.note(round);
                self.state.expected.retain(|(r, id)| *id != from.id || *r > round);
            }
        }
        self.state.links.insert(from.id, link);
    }

    /// What the other end will never take.
    pub(super) fn take_back(&mut self, link: &mut Link<T>, transfer: &Transfer<T>) {
        if let Content::Share { .. } = transfer.content {
            self.state.w += link.refund(transfer);
            let payload = self.without_tracked(transfer.epoch, transfer.payload.values.clone());
            add(self.state.x.edit(), &payload);
        }
        link.owe_again(self.config.method, transfer);
    }

    /// Repeats what has had no verdict for too long, and asks those whose part of the round is missing.
    pub(super) fn repeat(&mut self) {
        let (now, retry) = (self.now, self.config.retry_ms.max(1));
        let mut due = Vec::new();
        for link in self.state.links.values_mut() {
            let Some(under_way) = link.under_way.as_mut().filter(|under_way| under_way.retry_at <= now)
            else {
                continue;
            };
            under_way.retry_at = now + (retry << under_way.attempts.min(3));
            under_way.attempts += 1;
            due.push((link.peer, under_way.transfer.clone()));
        }
        for (peer, transfer) in due {
            self.send(peer, Body::Transfer(transfer));
        }
        if self.state.poll_at > now {
            return;
        }
        let ask: Vec<Member> = self.asked().collect();
        let body = if self.state.phase == Phase::Leaving { Body::Leave } else { Body::Poll };
        self.state.poll_at = now + retry;
        for peer in ask {
            self.send(peer, body.clone());
        }
    }

    /// From whom an answer is needed.
    fn asked(&self) -> impl Iterator<Item = Member> {
        let needed = |link: &&Link<T>| match self.state.phase {
            Phase::Waiting { .. } => self.state.expected.iter().any(|(_, id)| *id == link.peer.id),
            Phase::Leaving => !link.closed_to_us,
            Phase::Training | Phase::Over => false,
        };
        self.state.links.values().filter(needed).map(|link| link.peer)
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let retries = self.state.links.values().filter_map(|link| Some(link.under_way.as_ref()?.retry_at));
        let poll = self.asked().next().map(|_| self.state.poll_at);
        retries.chain(poll).chain(self.deadline()).min()
    }
}
