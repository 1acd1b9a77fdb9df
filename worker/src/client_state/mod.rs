//! What a worker keeps between rounds, and when it may believe it.
//!
//! SCAFFOLD's `c_i` and FedDyn's `h_i` have a counterpart in the coordinator's state. If one side
//! counts a round and the other does not, the limit of the run is biased for ever, so the next state
//! is *pending* until the coordinator says that it has durably counted the round, and a round that is
//! tried again sends the bytes that it sent before. State that does not fit what the coordinator has
//! counted is never trained on.

mod file;
mod store;

pub use file::{FileError, Owner, read as read_file, write as write_file};
pub use store::{StateError, States, lock};

use algorithms::Vectors;
use proto::digest::Digest;
use serde::{Deserialize, Serialize};

/// Numbers that go with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Training examples: the worker's weight.
    pub examples: u64,
    /// Local steps taken.
    pub steps: u32,
    /// Learning rate used.
    pub lr: f32,
    /// Mean training loss over the steps.
    pub train_loss: f64,
    /// Seconds of training.
    pub seconds: f64,
}

/// An upload that was made and not confirmed, and the state that it leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// The round.
    pub round: u64,
    /// What the upload is a function of (`Assignment::basis`).
    pub basis: Digest,
    /// What goes with it.
    pub facts: Facts,
    /// BLAKE3 of the payload.
    pub digest: Digest,
    /// The payload.
    pub upload: Vectors,
    /// The whole client state if the round counts.
    pub next: Vectors,
}

/// The client state of one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durable {
    /// The state that the coordinator's state agrees with; empty: zero.
    pub state: Vectors,
    /// The last round that counted.
    pub round: Option<u64>,
    /// What waits for confirmation.
    pub pending: Option<Pending>,
}

/// How an assignment is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Train from `state`.
    Train,
    /// The upload of this round exists: offer the same bytes.
    Offer,
    /// The coordinator has counted this round already.
    Counted,
    /// Our state is not the one that the coordinator's state agrees with.
    Lost {
        /// The last round that our state contains.
        ours: Option<u64>,
    },
}

impl Durable {
    /// A round was committed. Returns whether anything changed.
    pub fn closed(&mut self, round: u64, included: bool) -> bool {
        match self.pending.take() {
            Some(pending) if pending.round == round => {
                if included {
                    self.promote(pending);
                }
                true
            }
            other => {
                self.pending = other;
                false
            }
        }
    }

    /// Round `round` is assigned, and `committed` is the last of our rounds that was counted.
    /// `stateful`: whether the algorithm keeps client state; if not, nothing can be lost.
    pub fn assigned(&mut self, round: u64, basis: Digest, committed: Option<u64>, stateful: bool) -> Verdict {
        match self.pending.take() {
            Some(pending) if Some(pending.round) == committed => self.promote(pending),
            // The same round of another basis: the coordinator was set back, these bytes mean nothing.
            Some(pending) if pending.round == round && pending.basis == basis => self.pending = Some(pending),
            _ => {}
        }
        if stateful && self.round != committed {
            return Verdict::Lost { ours: self.round };
        }
        match (&self.pending, committed) {
            (_, Some(counted)) if counted >= round => Verdict::Counted,
            (Some(_), _) => Verdict::Offer,
            (None, _) => Verdict::Train,
        }
    }

    fn promote(&mut self, pending: Pending) {
        self.state = pending.next;
        self.round = Some(pending.round);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    pub(crate) fn vectors(name: &str, value: f32) -> Vectors {
        Vectors::from([(name.to_owned(), Arc::new(vec![value, -value, 0.5]))])
    }

    pub(crate) fn pending(round: u64) -> Pending {
        let upload = vectors("delta", round as f32);
        Pending {
            round,
            basis: basis(round),
            facts: Facts { examples: 7, steps: 3, lr: 0.1, train_loss: 0.3, seconds: 1.5 },
            digest: Digest::of_vector(&upload["delta"]),
            upload,
            next: vectors("c", 10.0 + round as f32),
        }
    }

    fn basis(round: u64) -> Digest {
        Digest::of(&round.to_le_bytes())
    }

    /// Round 4 counted, round 6 pending.
    pub(crate) fn durable() -> Durable {
        Durable { state: vectors("c", 4.0), round: Some(4), pending: Some(pending(6)) }
    }

    #[test]
    fn a_confirmed_round_becomes_the_state() {
        let mut by_closure = durable();
        assert!(by_closure.closed(6, true));
        assert_eq!((by_closure.round, &by_closure.state), (Some(6), &vectors("c", 16.0)));
        let mut by_assignment = durable();
        assert_eq!(by_assignment.assigned(9, basis(9), Some(6), true), Verdict::Train);
        assert_eq!(by_assignment, by_closure);
    }

    #[test]
    fn a_round_that_did_not_count_leaves_the_state() {
        let old = Durable { pending: None, ..durable() };
        let mut by_closure = durable();
        assert!(by_closure.closed(6, false));
        assert_eq!(by_closure, old);
        let mut by_assignment = durable();
        assert_eq!(by_assignment.assigned(7, basis(7), Some(4), true), Verdict::Train);
        assert_eq!(by_assignment, old);
    }

    #[test]
    fn closure_of_another_round_changes_nothing() {
        let mut state = durable();
        assert!(!state.closed(5, true));
        assert!(!state.closed(7, false));
        assert_eq!(state, durable());
    }

    #[test]
    fn the_same_round_again_offers_the_same_bytes() {
        let mut state = durable();
        assert_eq!(state.assigned(6, basis(6), Some(4), true), Verdict::Offer);
        assert_eq!(state, durable());
        assert_eq!(state.assigned(6, basis(1), Some(4), true), Verdict::Train);
        assert_eq!(state.pending, None);
    }

    #[test]
    fn lost_state_is_found_on_either_side() {
        let lost = |mut state: Durable, committed| state.assigned(9, basis(9), committed, true);
        assert_eq!(lost(Durable::default(), Some(6)), Verdict::Lost { ours: None });
        assert_eq!(lost(durable(), Some(5)), Verdict::Lost { ours: Some(4) });
        assert_eq!(lost(durable(), None), Verdict::Lost { ours: Some(4) });
        assert_eq!(lost(Durable::default(), None), Verdict::Train);
        assert_eq!(Durable::default().assigned(9, basis(9), Some(6), false), Verdict::Train);
    }

    #[test]
    fn a_round_that_already_counted_is_not_trained_again() {
        let mut state = durable();
        assert_eq!(state.assigned(6, basis(6), Some(6), true), Verdict::Counted);
        assert_eq!(state.round, Some(6));
        assert_eq!(Durable::default().assigned(6, basis(6), Some(6), false), Verdict::Counted);
    }
}
