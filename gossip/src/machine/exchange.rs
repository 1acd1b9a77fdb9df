//! Symmetric mode: of two neighbours the one with the lower id offers its model, the other answers with
//! its own, and both move towards the other by the edge's weight. The answer is the decision for both:
//! an offer that is refused or never arrives changes neither end, so the sum of the models is kept.
//! Methods with a payload of their own for each link exchange that instead.

use super::link::Link;
use super::message::{Content, Payload, Refusal, Transfer, Verdict};
use super::{Held, Machine, Phase};
use crate::kernel::Scalar;

impl<T: Scalar> Machine<T> {
    /// Sends this round's offers.
    pub(super) fn offer(&mut self) {
        let by_link = self.config.method.by_link();
        let model = (!by_link).then(|| Payload::from(self.state.x.clone()));
        self.state.base = model.clone().filter(|_| self.in_step());
        self.in_use = 1;
        let (at, now, me) = (self.moment(), self.now, self.state.me);
        for (peer, weight) in self.column().into_iter().filter(|(peer, _)| peer.id > me.id) {
            let Some(link) = self.state.links.get_mut(&peer.id).filter(|link| link.free()) else { continue };
            if let Some(payload) = model.clone().or_else(|| link.owed.take()) {
                link.begin(at, Content::Offer { weight }, payload).retry_at = now;
            }
        }
        self.hear_waiting();
    }

    /// Looks again at what had to wait.
    pub(super) fn hear_waiting(&mut self) {
        let links = self.state.links.values_mut();
        let waiting: Vec<_> = links.filter_map(|link| Some((link.peer, link.waiting.take()?))).collect();
        for (peer, transfer) in waiting {
            self.transfer(peer, transfer);
        }
    }

    /// Answers an offer with the model as it is, or, in step, as it was when the round was trained.
    pub(super) fn answer(&mut self, peer: u64, offer: &Transfer<T>, weight: f64) -> Option<Verdict<T>> {
        let late = Some(Verdict::Refused(Refusal::Late));
        if self.in_step() {
            let waiting = matches!(self.state.phase, Phase::Waiting { .. });
            match offer.round.cmp(&self.state.round) {
                std::cmp::Ordering::Less => return late,
                std::cmp::Ordering::Equal if waiting => {}
                _ if self.state.phase == Phase::Leaving => return late,
                _ => return None,
            }
        }
        if !self.agrees(peer, offer.round, weight) {
            return Some(Verdict::Refused(Refusal::Disagreement));
        }
        if self.config.method.by_link() {
            let method = self.config.method;
            // Nothing to give, which happens when the membership has just changed: nothing is taken either.
            let Some(link) = self.state.links.get_mut(&peer) else { return late };
            let Some(mine) = link.owed.take() else { return late };
            link.exchanged(method, &mine, &offer.payload);
            return Some(Verdict::Answered(mine));
        }
        let mine = self.state.base.clone().unwrap_or_else(|| Payload::from(self.state.x.clone()));
        self.move_towards(peer, (offer, weight), (&mine, &offer.payload));
        Some(Verdict::Answered(mine))
    }

    /// Whether the edge to `peer` has that weight in that round as this node sees it.
    fn agrees(&self, peer: u64, round: u64, weight: f64) -> bool {
        let at = |id| self.live.binary_search_by_key(&id, |member| member.id).ok();
        let (Some(peer), Some(me)) = (at(peer), at(self.state.me.id)) else { return false };
        let mixing = self.schedule.mixing(round);
        mixing.column(peer).iter().any(|share| share.to == me && share.weight == weight)
    }

    /// The offering end of an exchange that the other end has decided.
    pub(super) fn answered(&mut self, link: &mut Link<T>, offer: &Transfer<T>, theirs: &Payload<T>) {
        let (peer, method) = (link.peer.id, self.config.method);
        let sound = theirs.len() == offer.payload.len() && T::all_finite(theirs) && self.counted(theirs);
        match offer.content {
            Content::Offer { weight } if sound && method.by_link() => {
                link.exchanged(method, &offer.payload, theirs);
                self.make_up((offer.round, weight), (&offer.payload, theirs));
            }
            Content::Offer { weight } if sound => {
                self.move_towards(peer, (offer, weight), (&offer.payload, theirs));
            }
            _ => {
                let what =
                    format!("peer {peer} answered with a payload that is not finite or of another shape");
                self.actions.push(super::Action::Ignored(what));
            }
        }
    }

    /// `x += weight · (theirs − mine)`: the exact opposite of what happens at the other end.
    fn move_towards(
        &mut self,
        peer: u64,
        (offer, weight): (&Transfer<T>, f64),
        (mine, theirs): (&[T], &[T]),
    ) {
        let mut payload = self.fresh();
        T::towards(T::of(weight), (mine, theirs), &mut payload);
        let payload = self.without_tracked(offer.epoch, payload.into());
        self.take((offer.round, peer), Held { mass: crate::Mass::ZERO, payload });
    }
}
