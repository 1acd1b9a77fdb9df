//! Leaving in good order: settle every link, hand everything to one neighbour, go.

use super::link::Link;
use super::message::{Body, Content, Payload};
use super::{Action, Machine, Mass, Member, Mode, Phase};
use crate::kernel::Scalar;

impl<T: Scalar> Machine<T> {
    pub(super) fn leave(&mut self) {
        if matches!(self.state.phase, Phase::Training | Phase::Waiting { .. }) {
            self.state.phase = Phase::Leaving;
            self.state.expected.clear();
            self.state.base = None;
            self.state.poll_at = self.now;
        }
    }

    pub(super) fn peer_leaves(&mut self, from: Member) {
        self.link_mut(from.id, |link| link.closed = true);
        self.state.expected.retain(|(_, id)| *id != from.id);
        let settled = |link: &Link<T>| link.under_way.is_none();
        if self.state.links.get(&from.id).is_some_and(settled) {
            self.send(from, Body::Closed);
        }
    }

    /// Takes the next step of leaving: nothing until all links are settled, then the hand-over, then out.
    pub(super) fn depart(&mut self) {
        let open = |link: &Link<T>| link.under_way.is_some() || !link.closed_to_us;
        if self.state.phase != Phase::Leaving || self.state.links.values().any(open) {
            return;
        }
        self.mix_held(u64::MAX);
        let empty = self.config.mode == Mode::Symmetric || self.state.w == Mass::ZERO;
        if empty || self.state.links.is_empty() {
            self.state.phase = Phase::Over;
            self.actions.push(Action::Left);
            return;
        }
        let (at, now, mass) = (self.moment(), self.now, self.state.w);
        let Some(link) = self.state.links.values_mut().find(|link| link.free()) else { return };
        let nothing = vec![T::default(); self.state.x.len()].into();
        let payload = Payload::from(std::mem::replace(&mut self.state.x, nothing));
        self.state.w = Mass::ZERO;
        link.begin(at, Content::Share { mass }, payload).retry_at = now;
        self.repeat();
    }
}
