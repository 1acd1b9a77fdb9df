//! Who takes part: a value that peers merge in any order and all end up with, without a vote.
//!
//! A member is an id and an incarnation. An eviction is for ever for that incarnation; a higher
//! incarnation of the same id is another member. Mass is fenced link by link, so peers
//! may learn of a change at different times, and in different order, and still lose nothing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One life of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Stays the same over restarts.
    pub id: u64,
    /// Grows by at least 1 each time the peer comes back after it was evicted.
    pub incarnation: u64,
}

/// Ordered so that the later fact wins: a higher incarnation over a lower one, gone over live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Standing {
    incarnation: u64,
    gone: bool,
}

/// The latest known standing of each peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership(BTreeMap<u64, Standing>);

impl Membership {
    /// All of them live.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let mut membership = Self::default();
        members.into_iter().for_each(|member| membership.admit(member));
        membership
    }

    /// A number that grows with every change: the epoch. Two peers of equal epoch may know different
    /// changes; after merging they know both, and the epoch is higher.
    pub fn epoch(&self) -> u64 {
        self.0.values().map(|standing| 1 + 2 * standing.incarnation + u64::from(standing.gone)).sum()
    }

    /// Adds a member, unless it was evicted or a later incarnation is known.
    pub fn admit(&mut self, member: Member) {
        self.note(member, false);
    }

    /// Records that a member left, crashed or was cut off: for ever.
    pub fn evict(&mut self, member: Member) {
        self.note(member, true);
    }

    /// Takes over all that `other` knows later; says whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.epoch();
        for (id, standing) in &other.0 {
            self.note(Member { id: *id, incarnation: standing.incarnation }, standing.gone);
        }
        self.epoch() != before
    }

    fn note(&mut self, member: Member, gone: bool) {
        let standing = Standing { incarnation: member.incarnation, gone };
        let known = self.0.entry(member.id).or_insert(standing);
        *known = standing.max(*known);
    }

    /// Everybody of whom something is known, by ascending id, and whether that incarnation is over.
    pub fn all(&self) -> impl Iterator<Item = (Member, bool)> {
        self.0
            .iter()
            .map(|(id, standing)| (Member { id: *id, incarnation: standing.incarnation }, standing.gone))
    }

    /// Live members, by ascending id: their order gives the positions in the topology.
    pub fn live(&self) -> Vec<Member> {
        let live = self.0.iter().filter(|(_, standing)| !standing.gone);
        live.map(|(id, standing)| Member { id: *id, incarnation: standing.incarnation }).collect()
    }

    /// Whether that incarnation takes part.
    pub fn is_live(&self, member: Member) -> bool {
        self.0.get(&member.id) == Some(&Standing { incarnation: member.incarnation, gone: false })
    }

    /// Whether that incarnation is known to be over.
    pub fn is_gone(&self, member: Member) -> bool {
        let gone = Standing { incarnation: member.incarnation, gone: true };
        self.0.get(&member.id).is_some_and(|known| *known >= gone)
    }

    /// The member as which `id` may come back: its next incarnation.
    pub fn next(&self, id: u64) -> Member {
        let incarnation = self.0.get(&id).map_or(0, |standing| standing.incarnation + 1);
        Member { id, incarnation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, incarnation: u64) -> Member {
        Member { id, incarnation }
    }

    #[test]
    fn merging_does_not_depend_on_the_order() {
        let mut left = Membership::new([member(1, 0), member(2, 0)]);
        let mut right = left.clone();
        left.evict(member(2, 0));
        right.evict(member(1, 0));
        right.admit(member(1, 1));
        assert_eq!(right.next(1), member(1, 2));
        let (mut a, mut b) = (left.clone(), right.clone());
        assert!(a.merge(&right) && b.merge(&left));
        assert_eq!(a, b);
        assert_eq!(a.live(), [member(1, 1)]);
        assert!(!a.merge(&left) && a.epoch() > left.epoch() && a.epoch() > right.epoch());
    }

    #[test]
    fn an_eviction_is_for_ever() {
        let mut membership = Membership::new([member(1, 3)]);
        membership.evict(member(1, 3));
        membership.admit(member(1, 3));
        membership.admit(member(1, 2));
        assert!(membership.live().is_empty() && membership.is_gone(member(1, 2)));
        membership.admit(member(1, 4));
        assert!(membership.is_live(member(1, 4)) && !membership.is_gone(member(1, 4)));
    }
}
