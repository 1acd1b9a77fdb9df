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
    /// How many examples it trains on; 0: not told.
    examples: u64,
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
        self.note(member.id, Standing { incarnation: member.incarnation, gone: false, examples: 0 });
    }

    /// Records that a member left, crashed or was cut off: for ever.
    pub fn evict(&mut self, member: Member) {
        self.note(member.id, Standing { incarnation: member.incarnation, gone: true, examples: 0 });
    }

    /// Takes over all that `other` knows later; says whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (id, standing) in &other.0 {
            changed |= self.note(*id, *standing);
        }
        changed
    }

    fn note(&mut self, id: u64, standing: Standing) -> bool {
        let before = self.0.insert(id, standing);
        let known = before.map_or(standing, |before| before.max(standing));
        self.0.insert(id, known);
        before != Some(known)
    }

    /// Notes on how many examples a live member trains: what counts where every example counts alike.
    pub fn weigh(&mut self, member: Member, examples: u64) {
        if self.is_live(member) {
            self.note(member.id, Standing { incarnation: member.incarnation, gone: false, examples });
        }
    }

    /// On how many examples a member trains; 0 if nobody said so.
    pub fn examples(&self, member: Member) -> u64 {
        let known = self.0.get(&member.id).filter(|known| known.incarnation == member.incarnation);
        known.map_or(0, |known| known.examples)
    }

    /// By how much the changes of a live member are multiplied so that in the sum over all every example counts
    /// alike: `n · examples / Σ examples`, exactly 1 where all have as many.
    pub fn weight(&self, member: Member) -> f64 {
        let live = self.0.values().filter(|standing| !standing.gone);
        let (n, all) =
            live.fold((0, 0_u128), |(n, all), standing| (n + 1, all + u128::from(standing.examples)));
        let own = n * u128::from(self.examples(member));
        if own == all { 1.0 } else { own as f64 / all as f64 }
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
        let same = |known: &Standing| known.incarnation == member.incarnation && !known.gone;
        self.0.get(&member.id).is_some_and(same)
    }

    /// Whether that incarnation is known to be over.
    pub fn is_gone(&self, member: Member) -> bool {
        let later = |known: &Standing| (known.incarnation, known.gone) >= (member.incarnation, true);
        self.0.get(&member.id).is_some_and(later)
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
    fn examples_are_merged_and_weigh() {
        let (a, b) = (member(1, 0), member(2, 0));
        let mut left = Membership::new([a, b]);
        assert_eq!((left.weight(a), left.weight(b)), (1.0, 1.0), "nobody said anything");
        left.weigh(a, 30);
        let mut right = Membership::new([a, b]);
        right.weigh(b, 10);
        assert!(left.merge(&right) && right.merge(&left) && !left.merge(&right));
        assert_eq!((left.weight(a), left.weight(b), left.epoch()), (1.5, 0.5, right.epoch()));
        right.weigh(b, 30);
        assert_eq!((right.weight(a), right.weight(b)), (1.0, 1.0));
        right.evict(b);
        right.weigh(b, 7);
        assert_eq!((right.weight(a), right.examples(b)), (1.0, 0));
        // What was told before is not forgotten when somebody admits it again.
        left.admit(a);
        assert_eq!(left.examples(a), 30);
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
