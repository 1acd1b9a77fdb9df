//! Push mode: shares of numerator and mass go out, the rest stays.

use super::message::Content;
use super::{Machine, Member};
use crate::{Mass, Share, kernel::Scalar};

/// Below this part of its shares a node that is low on mass does not send them at all.
const WORTH_SENDING: f64 = 0.125;

impl<T: Scalar> Machine<T> {
    /// Sends the shares of this round. Those of links that are busy, suspected or closed stay here.
    pub(super) fn push(&mut self) {
        let (w, column) = (self.state.w, self.column());
        let own = 1.0 - column.iter().map(|(_, weight)| weight).sum::<f64>();
        let free = |peer: &Member| self.state.links.get(&peer.id).is_some_and(super::link::Link::free);
        let free: Vec<_> = column.into_iter().filter(|(peer, _)| free(peer)).collect();
        let part = self.guarded(own, free.iter().map(|(_, weight)| weight).sum());
        let mass = |(peer, weight): (Member, f64)| (peer, w.portion(weight * part));
        let masses = free.into_iter().map(mass).filter(|(_, mass)| *mass > Mass::ZERO);
        let masses: Vec<(Member, Mass)> = masses.collect();
        self.in_use = masses.len();
        if masses.is_empty() {
            return;
        }
        let share = |(_, mass): &(Member, Mass)| (T::of(mass.value() / w.value()), self.fresh());
        let mut shares: Vec<(T, Vec<T>)> = masses.iter().map(share).collect();
        T::split(self.state.x.edit(), &mut shares);
        let (now, at) = (self.now, self.moment());
        for ((peer, mass), (_, payload)) in masses.into_iter().zip(shares) {
            self.state.w -= mass;
            let content = Content::Share { mass };
            self.link_mut(peer.id, |link| link.begin(at, content, payload.into()).retry_at = now);
        }
    }

    /// The starvation guard: the part of the free shares that may go out so that the node keeps `w_min`,
    /// or, where the graph leaves it less than that of a mass of 1, as much as that.
    fn guarded(&self, own: f64, sent: f64) -> f64 {
        let floor = if own > 0.0 { self.config.w_min.min(own) } else { self.config.w_min };
        let w = self.state.w.value();
        match (w - floor) / (w * sent) {
            part if part >= 1.0 => 1.0,
            part if part >= WORTH_SENDING => part,
            _ => 0.0,
        }
    }

    /// Receivers of this round with their weights.
    pub(super) fn column(&self) -> Vec<(Member, f64)> {
        let Some(position) = self.position() else { return Vec::new() };
        self.others(self.schedule.mixing(self.state.round).column(position))
    }

    /// Senders of this round with their weights.
    pub(super) fn row(&self) -> Vec<(Member, f64)> {
        let Some(position) = self.position() else { return Vec::new() };
        self.others(&self.schedule.mixing(self.state.round).row(position))
    }

    fn others(&self, shares: &[Share]) -> Vec<(Member, f64)> {
        let with_member = shares.iter().map(|share| (self.live[share.to], share.weight));
        with_member.filter(|(peer, _)| *peer != self.state.me).collect()
    }

    fn position(&self) -> Option<usize> {
        self.live.binary_search(&self.state.me).ok()
    }
}
