//! Methods whose payload belongs to a link: compressed differences of public copies, and sums along a tree.
//!
//! **Compressed**: an exchange adds `q_j − q_i` to what this end knows of `x̂_j − x̂_i`, and the opposite at the
//! other end, exactly once. A difference that was not exchanged is not lost: the next payload of that link is
//! the sum of all since its last exchange. The weights come in when the round is closed, so that
//! `Σ_i Σ_j W_ij (x̂_j − x̂_i) = 0` whatever has arrived, and a change of the membership spoils nothing.
//!
//! **Relay**: the message to a neighbour is the own model and what the others sent last, with their number;
//! a message that does not arrive is replaced by the next.

use super::link::{Link, Owed};
use super::message::{Content, Payload, Transfer};
use super::{Machine, Method, Vector};
use crate::kernel::{Scalar, add, axpy};
use std::collections::BTreeSet;

/// A relayed sum of more models than this is none.
const MOST: f64 = 65_536.0;

impl<T: Scalar> Link<T> {
    /// One more difference for the peer, which has (or is owed) the whole copy: `all` where it is not zero.
    fn owe(&mut self, difference: &Payload<T>, all: Option<&Vector<T>>) {
        self.owed = Owed::This(match &self.owed {
            Owed::This(before) => sum(before, difference),
            Owed::Settled => difference.clone(),
            Owed::Untold => all.map_or_else(|| difference.clone(), |all| all.clone().into()),
        });
    }

    /// What both ends gave each other in an exchange.
    pub(super) fn exchanged(&mut self, method: Method, mine: &Payload<T>, theirs: &Payload<T>) {
        if method == Method::Relay {
            self.got = theirs.values.clone();
            return;
        }
        if self.got.is_empty() {
            self.got = vec![T::default(); theirs.len()].into();
        }
        let got = self.got.edit();
        add(got, theirs);
        axpy(got, T::of(-1.0), mine);
    }

    /// An offer that the other end will never take: a difference is owed still.
    pub(super) fn owe_again(&mut self, method: Method, transfer: &Transfer<T>) {
        if let (Method::Compressed { .. }, Content::Offer { .. }) = (method, transfer.content) {
            let later = self.owed.take();
            let both = later.map_or_else(|| transfer.payload.clone(), |later| sum(&transfer.payload, &later));
            self.owed = Owed::This(both);
        }
    }
}

fn sum<T: Scalar>(a: &[T], b: &[T]) -> Payload<T> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect::<Vec<T>>().into()
}

impl<T: Scalar> Machine<T> {
    /// Notes the difference for every neighbour, and for everybody who was told before. `all`: the whole copy.
    pub(super) fn owe(&mut self, difference: &Payload<T>, all: Option<&Vector<T>>) {
        let neighbours: BTreeSet<u64> = self.column().into_iter().map(|(peer, _)| peer.id).collect();
        for link in self.state.links.values_mut() {
            if !matches!(link.owed, Owed::Untold) || neighbours.contains(&link.peer.id) {
                link.owe(difference, all);
            }
        }
    }

    /// Notes the message of this round for every neighbour.
    pub(super) fn relay(&mut self) {
        let neighbours: Vec<u64> = self.column().into_iter().map(|(peer, _)| peer.id).collect();
        let got = |id: &u64| self.state.links.get(id).map(|link| &link.got).filter(|got| !got.is_empty());
        let mut messages = Vec::new();
        for to in &neighbours {
            let mut message = self.state.x.to_vec();
            message.push(T::of(1.0));
            neighbours
                .iter()
                .filter(|other| *other != to)
                .filter_map(got)
                .for_each(|got| add(&mut message, got));
            messages.push((*to, Payload::from(message)));
        }
        for (to, message) in messages {
            self.link_mut(to, |link| link.owed = Owed::This(message));
        }
    }

    /// An exchange of a round that this node closed without knowing of it, by its deadline: the other end has
    /// stepped by it since, and the sum of the models is kept only if this end does as well.
    pub(super) fn make_up(&mut self, (round, weight): (u64, f64), (mine, theirs): (&[T], &[T])) {
        let missed = self.state.round.saturating_sub(round);
        let Method::Compressed { gamma } = self.config.method else { return };
        if self.in_step() && missed > 0 {
            let step = T::of(gamma * weight * missed as f64);
            axpy(self.state.x.edit(), step, theirs);
            axpy(self.state.x.edit(), T::of(-1.0) * step, mine);
        }
    }

    /// Whether a relayed sum says of how many models it is.
    pub(super) fn counted(&self, payload: &[T]) -> bool {
        let count = payload.last().map_or(0.0, |count| count.wide());
        self.config.method != Method::Relay || ((1.0..=MOST).contains(&count) && count.trunc() == count)
    }

    /// Closes a round: the step towards the neighbours' copies, or the average of what was relayed.
    pub(super) fn gather(&mut self) {
        let column = self.column();
        let near =
            column.iter().filter_map(|(peer, weight)| Some((self.state.links.get(&peer.id)?, *weight)));
        let near = near.filter(|(link, _)| !link.got.is_empty());
        match self.config.method {
            Method::Compressed { gamma } => {
                let mut step = vec![T::default(); self.state.x.len()];
                near.for_each(|(link, weight)| axpy(&mut step, T::of(weight), &link.got));
                axpy(self.state.x.edit(), T::of(gamma), &step);
            }
            Method::Relay => {
                let d = self.state.x.len();
                let (mut sum, mut count) = (vec![T::default(); d], 0.0);
                for (link, _) in near {
                    add(&mut sum, &link.got[..d]);
                    count += link.got[d].wide();
                }
                // More than there are: a sum along another tree, for as many rounds as it has hops.
                let own = (self.live.len() as f64 - count).max(1.0);
                for (x, sum) in self.state.x.edit().iter_mut().zip(&sum) {
                    *x = T::of((own * x.wide() + sum.wide()) / (own + count));
                }
            }
            Method::Average | Method::Momentum { .. } | Method::Tracking => {}
        }
    }
}
