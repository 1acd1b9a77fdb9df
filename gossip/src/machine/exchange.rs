//! Symmetric mode: of two neighbours the one with the lower id offers its model, the other answers with
//! its own, and both move towards the other by the edge's weight. The answer is the decision for both:
//! an offer that is refused or never arrives changes neither end, so the sum of the models is kept.

use super::message::{Content, Payload, Refusal, Transfer, Verdict, all_finite};
use super::{Held, Machine, Phase};
use crate::kernel::Scalar;

impl<T: Scalar> Machine<T> {
    /// Sends this round's offers.
    pub(super) fn offer(&mut self) {
        let model = Payload::from(self.state.x.clone());
        self.state.base = self.in_step().then(|| model.clone());
        let (round, now, me) = (self.state.round, self.now, self.state.me);
        for (peer, weight) in self.column().into_iter().filter(|(peer, _)| peer.id > me.id) {
            if self.state.links.get(&peer.id).is_some_and(super::link::Link::free) {
                let content = Content::Offer { weight };
                self.link_mut(peer.id, |link| link.begin(round, content, model.clone()).retry_at = now);
            }
        }
        let waiting: Vec<_> = self
            .state
            .links
            .values_mut()
            .filter_map(|link| Some((link.peer, link.waiting.take()?)))
            .collect();
        for (peer, transfer) in waiting {
            self.transfer(peer, transfer);
        }
    }

    /// Answers an offer with the model as it is, or, in step, as it was when the round was trained.
    pub(super) fn answer(&mut self, peer: u64, offer: &Transfer<T>, weight: f64) -> Option<Verdict<T>> {
        let mine = if self.in_step() {
            let waiting = matches!(self.state.phase, Phase::Waiting { .. });
            match &self.state.base {
                _ if offer.round < self.state.round => return Some(Verdict::Refused(Refusal::Late)),
                Some(base) if offer.round == self.state.round && waiting => base.clone(),
                _ if self.state.phase == Phase::Leaving => return Some(Verdict::Refused(Refusal::Late)),
                _ => return None,
            }
        } else {
            Payload::from(self.state.x.clone())
        };
        if !self.agrees(peer, offer.round, weight) {
            return Some(Verdict::Refused(Refusal::Disagreement));
        }
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
    pub(super) fn answered(&mut self, peer: u64, offer: &Transfer<T>, theirs: &[T]) {
        match offer.content {
            Content::Offer { weight } if theirs.len() == self.state.x.len() && all_finite(theirs) => {
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
        let step = |(mine, theirs): (&T, &T)| T::of(weight) * (*theirs - *mine);
        let payload = mine.iter().zip(theirs).map(step).collect();
        self.take((offer.round, peer), Held { mass: crate::Mass::ZERO, payload });
    }
}
