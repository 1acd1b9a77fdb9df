//! What peers say to each other. A driver puts it on the wire and checks the frame (checksum, size);
//! a frame that fails there counts as lost.

use super::{Member, Membership, Vector};
use crate::Mass;
use serde::{Deserialize, Serialize};
use std::{ops::Deref, sync::Arc};

/// A vector that is shared between the ledger and the messages made of it, and the words that travel in its
/// place where it is compressed. Both ends compute with the vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload<T> {
    pub(super) values: Vector<T>,
    words: Option<Words>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
struct Words(Arc<[u32]>);

impl From<Vec<u32>> for Words {
    fn from(words: Vec<u32>) -> Self {
        Self(words.into())
    }
}

impl From<Words> for Vec<u32> {
    fn from(words: Words) -> Self {
        words.0.to_vec()
    }
}

impl<T> Payload<T> {
    /// A vector that travels as `words`, of which the other end's driver makes the same vector.
    pub fn packed(values: Vec<T>, words: Vec<u32>) -> Self {
        Self { values: values.into(), words: Some(words.into()) }
    }

    /// What travels, unless the vector does.
    pub fn words(&self) -> Option<&[u32]> {
        self.words.as_ref().map(|words| &*words.0)
    }

    /// The vector.
    pub fn vector(&self) -> &Vector<T> {
        &self.values
    }
}

impl<T> From<Vec<T>> for Payload<T> {
    fn from(values: Vec<T>) -> Self {
        Self { values: values.into(), words: None }
    }
}

impl<T> From<Vector<T>> for Payload<T> {
    fn from(values: Vector<T>) -> Self {
        Self { values, words: None }
    }
}

impl<T> Deref for Payload<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.values
    }
}

/// A message with its ends. Both incarnations count: a message to or from another life is void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The sender.
    pub from: Member,
    /// The receiver.
    pub to: Member,
    /// What it says.
    pub body: Body<T>,
}

/// The messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body<T> {
    /// Something that must take effect exactly once. Repeated with the same bytes until its verdict.
    Transfer(Transfer<T>),
    /// What became of the transfer with that number: final, and the same for each repetition.
    Verdict {
        /// The transfer's number.
        seq: u64,
        /// What became of it.
        verdict: Verdict<T>,
    },
    /// Asks whether anything of a round up to this one is still to come.
    Poll,
    /// Nothing of this round or an earlier one is to come.
    Progress {
        /// The sender's last settled round on this link.
        round: u64,
    },
    /// The sender is leaving: settle what is under way to it and start nothing new.
    Leave,
    /// Nothing is under way to the leaver, and nothing will be.
    Closed,
    /// What the sender knows of who takes part, because the receiver does not seem to.
    Membership(Membership),
}

/// The content of [`Body::Transfer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer<T> {
    /// 1, 2, … on this link, between these incarnations.
    pub seq: u64,
    /// The sender's round.
    pub round: u64,
    /// The sender's epoch: tracked gradients of another one are void.
    pub epoch: u64,
    /// What it means.
    pub content: Content,
    /// A share of the numerator, the whole model, or what else the method exchanges.
    pub payload: Payload<T>,
}

/// What the payload of a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// A share of the sender's numerator together with its mass (push mode).
    Share {
        /// Its mass, above 0.
        mass: Mass,
    },
    /// The sender's model, or what else the method exchanges; both ends move towards the other's by this
    /// weight (symmetric mode).
    Offer {
        /// The edge's weight in the sender's round.
        weight: f64,
    },
}

/// What became of a transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict<T> {
    /// A share was taken.
    Applied,
    /// An offer was taken; this is what the answerer had in its place.
    Answered(Payload<T>),
    /// Nothing was done and nothing will be: the sender takes a share back.
    Refused(Refusal),
}

/// Why a transfer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another number of parameters.
    #[error("the payload has another number of parameters")]
    Shape,
    /// Not a number, infinite, or a mass that is not positive.
    #[error("the payload is not finite or its mass is not positive")]
    NotFinite,
    /// Push mode talks to symmetric mode, or the ends do not agree on the edge's weight or, where it matters,
    /// on who takes part.
    #[error("the ends do not agree on mode, weight or members")]
    Disagreement,
    /// The receiver closed that round without it.
    #[error("the round is over")]
    Late,
}
