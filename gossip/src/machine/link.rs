//! The ledger of one link: at most one transfer under way, numbered, repeated until its verdict, and
//! settled exactly once at the other end.
//!
//! The verdict is part of what the receiver remembers. A refusal uses up the number as an acceptance
//! does: otherwise a copy that arrives after the sender has taken its share back could still be applied,
//! and the mass would be there twice.

use super::message::{Content, Payload, Transfer, Verdict};
use super::{Member, Vector};
use crate::{Mass, kernel::Scalar};
use serde::{Deserialize, Serialize};

/// Both directions between two members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Link<T> {
    pub(super) peer: Member,
    /// Number of the last transfer begun.
    seq: u64,
    pub(super) under_way: Option<UnderWay<T>>,
    /// Mass handed to the link, less what was taken back: what `peer` has or will have.
    pub(super) sent: Mass,
    /// Number of the last transfer settled here, and what became of it.
    last: u64,
    pub(super) verdict: Option<Verdict<T>>,
    /// Mass taken from the link.
    pub(super) received: Mass,
    /// A transfer that has to wait for this node's round.
    pub(super) waiting: Option<Transfer<T>>,
    /// The last round of which nothing of the peer's is to come.
    pub(super) heard: Option<u64>,
    /// Unreachable at the moment: nothing new is begun, and nobody waits for it.
    pub(super) suspected: bool,
    /// The peer is leaving.
    pub(super) closed: bool,
    /// The peer said so of this node, which is leaving.
    pub(super) closed_to_us: bool,
    /// What is known of the peer: `x̂_j − x̂_i` as of the last exchange, or its last relayed sum. Empty: nothing.
    pub(super) got: Vector<T>,
    /// What the next exchange is to give.
    pub(super) owed: Owed<T>,
}

/// What the next exchange of a link is to give.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Owed<T> {
    /// Nothing yet: the peer knows nothing of this node.
    Untold,
    /// Nothing more than the peer has, or is under way.
    Settled,
    This(Payload<T>),
}

impl<T> Owed<T> {
    pub(super) fn take(&mut self) -> Option<Payload<T>> {
        match std::mem::replace(self, Self::Settled) {
            Self::This(payload) => Some(payload),
            before => {
                *self = before;
                None
            }
        }
    }
}

/// A transfer without a verdict yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UnderWay<T> {
    pub(super) transfer: Transfer<T>,
    pub(super) retry_at: u64,
    pub(super) attempts: u32,
}

/// What a transfer is to the receiver.
#[derive(Debug, PartialEq)]
pub(super) enum Arrival<T> {
    /// The next one: to be settled.
    Next,
    /// Settled before, with this verdict.
    Repeated(Verdict<T>),
    /// Settled before the last one, or from the future: of no use.
    Void,
}

impl<T: Scalar> Link<T> {
    pub(super) fn new(peer: Member) -> Self {
        Self {
            peer,
            seq: 0,
            under_way: None,
            sent: Mass::ZERO,
            last: 0,
            verdict: None,
            received: Mass::ZERO,
            waiting: None,
            heard: None,
            suspected: false,
            closed: false,
            closed_to_us: false,
            got: Vector::default(),
            owed: Owed::Untold,
        }
    }

    /// Whether a transfer may be begun.
    pub(super) fn free(&self) -> bool {
        self.under_way.is_none() && !self.suspected && !self.closed
    }

    /// Begins a transfer. The mass leaves the node for the link.
    pub(super) fn begin(
        &mut self,
        (round, epoch): (u64, u64),
        content: Content,
        payload: Payload<T>,
    ) -> &mut UnderWay<T> {
        debug_assert!(self.under_way.is_none(), "one transfer at a time");
        self.seq += 1;
        self.sent += mass_of(content);
        let transfer = Transfer { seq: self.seq, round, epoch, content, payload };
        self.under_way.insert(UnderWay { transfer, retry_at: 0, attempts: 0 })
    }

    /// The transfer whose verdict this is, which is then over; `None` if that was known.
    pub(super) fn conclude(&mut self, seq: u64) -> Option<Transfer<T>> {
        let matches = self.under_way.as_ref().is_some_and(|under_way| under_way.transfer.seq == seq);
        matches.then(|| self.under_way.take().map(|under_way| under_way.transfer)).flatten()
    }

    /// Takes back what has no verdict: after a refusal, or when the peer is fenced.
    pub(super) fn refund(&mut self, transfer: &Transfer<T>) -> Mass {
        let mass = mass_of(transfer.content);
        self.sent -= mass;
        mass
    }

    pub(super) fn arrival(&self, seq: u64) -> Arrival<T> {
        match &self.verdict {
            Some(verdict) if seq == self.last => Arrival::Repeated(verdict.clone()),
            _ if seq == self.last + 1 => Arrival::Next,
            _ => Arrival::Void,
        }
    }

    /// Settles the next transfer, for ever.
    pub(super) fn settle(&mut self, transfer: &Transfer<T>, verdict: Verdict<T>) {
        debug_assert_eq!(transfer.seq, self.last + 1, "transfers are settled in order");
        self.last = transfer.seq;
        if verdict == Verdict::Applied {
            self.received += mass_of(transfer.content);
        }
        self.verdict = Some(verdict);
        self.note(transfer.round);
    }

    /// Nothing of this round or an earlier one is to come from the peer.
    pub(super) fn note(&mut self, round: u64) {
        self.heard = self.heard.max(Some(round));
    }

    /// Number of the last transfer that was settled here.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether the transfer of that number was settled here and not refused.
    pub(super) fn has_taken(&self, seq: u64) -> bool {
        let refused = matches!(self.verdict, Some(Verdict::Refused(_)));
        seq <= self.last && !(refused && seq == self.last)
    }
}

fn mass_of(content: Content) -> Mass {
    match content {
        Content::Share { mass } => mass,
        Content::Offer { .. } => Mass::ZERO,
    }
}
