//! After a partition in which both sides have given each other up: the smaller side comes back to the larger one,
//! and takes its view. Merging the two views would evict everybody.

use super::node::Node;
use crate::WorkerError;
use gossip::machine::{Body, Envelope, Event, Member, Membership, Phase};
use std::{
    cmp::{Ordering, Reverse},
    time::Duration,
};
use tokio::time::Instant;

/// Nobody is answered more often: two who answer each other would never end.
const PAUSE: Duration = Duration::from_millis(500);

/// What a view of another is to this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// News.
    Merge,
    /// Of somebody who does not know what has become of its side.
    Answer,
    /// Of the larger side, which has given this peer up.
    Yield,
}

/// `me` and the sender, each with its view.
fn compare((me, mine): (Member, &Membership), (from, theirs): (Member, &Membership)) -> View {
    // Of one who came back without them they may still know the life before.
    let given_up = theirs.all().any(|(member, gone)| member.id == me.id && gone);
    let against = (theirs.is_gone(me) && !mine.is_live(from)) || (given_up && mine.is_gone(from));
    match (against, mine.is_gone(from)) {
        (true, _) if size(theirs).cmp(&size(mine)) == Ordering::Greater => View::Yield,
        (true, _) | (_, true) => View::Answer,
        _ => View::Merge,
    }
}

/// Live members; of equally many the side with the lowest id counts as the larger.
fn size(view: &Membership) -> (usize, Option<Reverse<u64>>) {
    let live = view.live();
    (live.len(), live.first().map(|member| Reverse(member.id)))
}

impl Node {
    /// Somebody tells who takes part.
    pub(super) async fn hear_membership(
        &mut self,
        from: Member,
        theirs: Membership,
    ) -> Result<(), WorkerError> {
        let me = self.machine.me();
        if self.machine.phase() == Phase::Leaving {
            return self.drive(Event::Membership(theirs)).await;
        }
        match compare((me, self.machine.membership()), (from, &theirs)) {
            View::Merge => return self.drive(Event::Membership(theirs)).await,
            View::Answer => {
                let told = self.answered.get(&from.id);
                if told.is_none_or(|at| at.elapsed() > PAUSE) {
                    self.answered.insert(from.id, Instant::now());
                    self.tell_view(from);
                }
            }
            View::Yield => {
                tracing::warn!(peer = self.name_of(from.id), "a larger side has gone on without this one");
                (self.larger, self.evicted) = (Some(theirs), true);
            }
        }
        Ok(())
    }

    /// This peer's view, to somebody who may be of another.
    pub(super) fn tell_view(&self, to: Member) {
        let body = Body::Membership(self.machine.membership().clone());
        self.post.send(Envelope { from: self.machine.me(), to, body });
    }

    /// One who is there but was given up: it may have gone on with others.
    pub(super) fn given_up(&self, turn: usize) -> Option<Member> {
        let there = |(member, gone): &(Member, bool)| *gone && self.reachable.contains(&member.id);
        let members: Vec<Member> =
            self.machine.membership().all().filter(there).map(|(member, _)| member).collect();
        members.get(turn % members.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member { id, incarnation: 7 }
    }

    /// Members 0 to 4 of which some were evicted.
    fn view(without: &[u64]) -> Membership {
        let mut view = Membership::new((0..5).map(member));
        for id in without {
            view.evict(member(*id));
        }
        view
    }

    #[test]
    fn the_smaller_side_yields_and_news_are_merged() {
        let (large, small) = (view(&[3, 4]), view(&[0, 1, 2]));
        assert_eq!(compare((member(3), &small), (member(0), &large)), View::Yield);
        assert_eq!(compare((member(0), &large), (member(3), &small)), View::Answer);
        // Of equal sides, that with the lowest id goes on.
        let (low, high) = (view(&[2, 3, 4]), view(&[0, 1, 4]));
        assert_eq!(compare((member(3), &high), (member(0), &low)), View::Yield);
        assert_eq!(compare((member(0), &low), (member(3), &high)), View::Answer);
        // So do those who came back to each other in between, of which the other side has not heard.
        let (mut again, of_2) = (high.clone(), |incarnation| Member { id: 2, incarnation });
        again.evict(of_2(7));
        again.admit(of_2(8));
        assert_eq!(compare((of_2(8), &again), (member(0), &low)), View::Yield);
        assert_eq!(compare((member(0), &low), (of_2(8), &again)), View::Answer);
        // Given up by its own side.
        assert_eq!(compare((member(3), &view(&[])), (member(0), &large)), View::Merge);
        // An evicted one that has slept through it is told, and believes it.
        assert_eq!(compare((member(0), &large), (member(3), &view(&[]))), View::Answer);
        // One that has come back already tells the view to which it came back.
        let mut back = large.clone();
        back.admit(Member { id: 4, incarnation: 8 });
        assert_eq!(compare((member(0), &large), (Member { id: 4, incarnation: 8 }, &back)), View::Merge);
        // A newcomer of the other side speaks for it.
        let mut joined = small.clone();
        joined.admit(member(9));
        assert_eq!(compare((member(0), &large), (member(9), &joined)), View::Answer);
    }
}
