//! Messages between peers: the domain's values from and to the wire's, once, so that what is inside is
//! right or was refused with a reason.

use crate::v1::{self, peer_message::Body as Wire, peer_transfer::Content as WireContent};
use gossip::{
    Mass,
    machine::{Body, Content, Envelope, Member, Membership, Payload, Refusal, Transfer, Verdict},
};

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message between peers: {0}")]
pub struct PeerError(pub &'static str);

/// The id of the peer of that name: the first 8 bytes of its BLAKE3.
pub fn id_of(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    hash.as_bytes()[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// A member for the wire.
pub fn member(member: Member) -> v1::PeerMember {
    v1::PeerMember { id: member.id, incarnation: member.incarnation }
}

/// A member from the wire.
pub fn read_member(member: Option<v1::PeerMember>) -> Result<Member, PeerError> {
    let v1::PeerMember { id, incarnation } = member.ok_or(PeerError("a member is missing"))?;
    Ok(Member { id, incarnation })
}

/// A membership for the wire.
pub fn membership(membership: &Membership) -> v1::PeerMembership {
    let standing = |(of, gone)| {
        let examples = if gone { 0 } else { membership.examples(of) };
        v1::PeerStanding { member: Some(member(of)), gone, examples }
    };
    v1::PeerMembership { standings: membership.all().map(standing).collect() }
}

/// A membership from the wire.
pub fn read_membership(wire: v1::PeerMembership) -> Result<Membership, PeerError> {
    let mut membership = Membership::default();
    for v1::PeerStanding { member, gone, examples } in wire.standings {
        let member = read_member(member)?;
        if gone {
            membership.evict(member);
        } else {
            membership.admit(member);
            membership.weigh(member, examples);
        }
    }
    Ok(membership)
}

/// Mass in units of 2⁻⁴⁸; what a node holds fits, see [`Mass`].
pub fn units(mass: Mass) -> u64 {
    u64::try_from(mass.units()).unwrap_or(u64::MAX)
}

/// A message without its vector, and the vector.
pub fn write(envelope: &Envelope<f32>) -> (v1::PeerMessage, Option<Payload<f32>>) {
    let mut payload = None;
    let body = match &envelope.body {
        Body::Transfer(transfer) => {
            payload = Some(transfer.payload.clone());
            let content = match transfer.content {
                Content::Share { mass } => WireContent::Mass(units(mass)),
                Content::Offer { weight } => WireContent::Weight(weight),
            };
            let Transfer { seq, round, epoch, .. } = *transfer;
            let packed = transfer.payload.words().is_some();
            Wire::Transfer(v1::PeerTransfer { seq, round, epoch, packed, content: Some(content) })
        }
        Body::Verdict { seq, verdict } => {
            use v1::peer_verdict::Verdict as To;
            let verdict = match verdict {
                Verdict::Applied => To::Applied(v1::PeerApplied {}),
                Verdict::Answered(model) => {
                    payload = Some(model.clone());
                    To::Answered(v1::PeerAnswered { packed: model.words().is_some() })
                }
                Verdict::Refused(why) => To::Refused(refusal(*why).into()),
            };
            Wire::Verdict(v1::PeerVerdict { seq: *seq, verdict: Some(verdict) })
        }
        Body::Poll => Wire::Poll(v1::PeerPoll {}),
        Body::Progress { round } => Wire::Progress(v1::PeerProgress { round: *round }),
        Body::Leave => Wire::Leave(v1::PeerLeave {}),
        Body::Closed => Wire::Closed(v1::PeerClosed {}),
        Body::Membership(of) => Wire::Membership(membership(of)),
    };
    let message = v1::PeerMessage {
        from: Some(member(envelope.from)),
        to: Some(member(envelope.to)),
        body: Some(body),
    };
    (message, payload)
}

/// Whether the words of a message have to be unpacked before they are a vector.
pub fn packed(message: &v1::PeerMessage) -> bool {
    use v1::peer_verdict::Verdict::Answered;
    match &message.body {
        Some(Wire::Transfer(transfer)) => transfer.packed,
        Some(Wire::Verdict(verdict)) => matches!(verdict.verdict, Some(Answered(answer)) if answer.packed),
        _ => false,
    }
}

/// A message with its vector, which is empty where there is none.
pub fn read(message: v1::PeerMessage, vector: Payload<f32>) -> Result<Envelope<f32>, PeerError> {
    let (from, to) = (read_member(message.from)?, read_member(message.to)?);
    let body = match message.body.ok_or(PeerError("it says nothing"))? {
        Wire::Transfer(v1::PeerTransfer { seq, round, epoch, content, packed: _ }) => {
            let content = match content.ok_or(PeerError("a transfer without content"))? {
                WireContent::Mass(units) => Content::Share { mass: Mass::from_units(units.into()) },
                WireContent::Weight(weight) => Content::Offer { weight },
            };
            Body::Transfer(Transfer { seq, round, epoch, content, payload: vector })
        }
        Wire::Verdict(v1::PeerVerdict { seq, verdict }) => {
            use v1::peer_verdict::Verdict as From;
            let verdict = match verdict.ok_or(PeerError("a verdict that says nothing"))? {
                From::Applied(_) => Verdict::Applied,
                From::Answered(_) => Verdict::Answered(vector),
                From::Refused(why) => Verdict::Refused(read_refusal(why)?),
            };
            Body::Verdict { seq, verdict }
        }
        Wire::Poll(_) => Body::Poll,
        Wire::Progress(v1::PeerProgress { round }) => Body::Progress { round },
        Wire::Leave(_) => Body::Leave,
        Wire::Closed(_) => Body::Closed,
        Wire::Membership(of) => Body::Membership(read_membership(of)?),
    };
    Ok(Envelope { from, to, body })
}

fn refusal(why: Refusal) -> v1::PeerRefusal {
    match why {
        Refusal::Shape => v1::PeerRefusal::Shape,
        Refusal::NotFinite => v1::PeerRefusal::NotFinite,
        Refusal::Disagreement => v1::PeerRefusal::Disagreement,
        Refusal::Late => v1::PeerRefusal::Late,
    }
}

fn read_refusal(why: i32) -> Result<Refusal, PeerError> {
    match v1::PeerRefusal::try_from(why) {
        Ok(v1::PeerRefusal::Shape) => Ok(Refusal::Shape),
        Ok(v1::PeerRefusal::NotFinite) => Ok(Refusal::NotFinite),
        Ok(v1::PeerRefusal::Disagreement) => Ok(Refusal::Disagreement),
        Ok(v1::PeerRefusal::Late) => Ok(Refusal::Late),
        Ok(v1::PeerRefusal::Unspecified) | Err(_) => Err(PeerError("a refusal without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let (a, b) = (Member { id: 1, incarnation: 7 }, Member { id: u64::MAX, incarnation: 0 });
        let mut membership = Membership::new([a, b]);
        membership.weigh(a, 17);
        membership.evict(b);
        let some = || Payload::from(vec![1.0, -2.5]);
        let transfer =
            |content| Body::Transfer(Transfer { seq: 3, round: 9, epoch: 1 << 60, content, payload: some() });
        let verdict = |verdict| Body::Verdict { seq: 5, verdict };
        for body in [
            transfer(Content::Share { mass: Mass::ONE.portion(0.25) }),
            transfer(Content::Offer { weight: 1.0 / 3.0 }),
            verdict(Verdict::Applied),
            verdict(Verdict::Answered(vec![0.5].into())),
            verdict(Verdict::Answered(Payload::packed(vec![0.5], vec![7]))),
            verdict(Verdict::Refused(Refusal::Late)),
            verdict(Verdict::Refused(Refusal::Shape)),
            Body::Poll,
            Body::Progress { round: 4 },
            Body::Leave,
            Body::Closed,
            Body::Membership(membership),
        ] {
            let envelope = Envelope { from: a, to: b, body };
            let (message, payload) = write(&envelope);
            let vector = payload.unwrap_or_else(|| Vec::new().into());
            assert_eq!(packed(&message), vector.words().is_some());
            assert_eq!(read(message, vector), Ok(envelope));
        }
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        let (message, _) = write(&Envelope {
            from: Member { id: 1, incarnation: 0 },
            to: Member { id: 2, incarnation: 0 },
            body: Body::Poll,
        });
        for broken in [
            v1::PeerMessage { from: None, ..message.clone() },
            v1::PeerMessage { body: None, ..message.clone() },
            v1::PeerMessage { body: Some(Wire::Verdict(v1::PeerVerdict::default())), ..message.clone() },
            v1::PeerMessage { body: Some(Wire::Transfer(v1::PeerTransfer::default())), ..message },
        ] {
            assert!(read(broken, Vec::new().into()).is_err());
        }
        assert_ne!(id_of("peer-1"), id_of("peer-2"));
    }
}
