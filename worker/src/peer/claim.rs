//! What a rumour says of whoever sent it. Rumours tell of third peers too, as gossip must; but who speaks is
//! told by the certificate, so the sender has to be among those that it tells of, at the address at which it
//! says that it is answered, and this first-hand address outranks what others say.

use chitchat::{ChitchatId, ChitchatMessage, Deserializable};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Magic number, version and kind of a datagram; a digest follows where there is one.
const HEAD: usize = 4;

/// By name: the address that each peer last gave as its own. As many as there are certificates.
#[derive(Clone, Default)]
pub(super) struct FirstHand(Arc<Mutex<BTreeMap<String, SocketAddr>>>);

impl FirstHand {
    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<String, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the holder of the certificate of peer `name` says of itself.
    ///
    /// # Errors
    /// If it speaks as somebody else, or the datagram is none.
    pub(super) fn check(&self, name: &str, address: SocketAddr, datagram: &[u8]) -> Result<(), Refused> {
        let damaged = |error: anyhow::Error| Refused::Damaged(error.to_string());
        let message = ChitchatMessage::deserialize(&mut { datagram }).map_err(damaged)?;
        if !matches!(message, ChitchatMessage::Syn { .. } | ChitchatMessage::SynAck { .. }) {
            return Ok(());
        }
        let ids = digest(datagram.get(HEAD..).unwrap_or_default()).map_err(damaged)?;
        // A later start of the same peer is the one that speaks.
        let own = ids.iter().filter(|id| *id.node_id == *name).max_by_key(|id| id.generation_id);
        match own.map(|id| id.gossip_advertise_addr) {
            Some(told) if told == address => {
                self.known().insert(name.to_owned(), address);
                Ok(())
            }
            Some(told) => Err(Refused::Elsewhere { name: name.to_owned(), told, address }),
            None => {
                let mut names: Vec<String> = ids.iter().map(|id| format!("`{}`", id.node_id)).collect();
                names.truncate(3);
                Err(Refused::Impostor { name: name.to_owned(), of: names.join(", ") })
            }
        }
    }
}

/// Why a rumour is not heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a damaged rumour: {0}")]
    Damaged(String),
    #[error("the certificate is that of peer `{name}`, but the rumour speaks as another: it tells of {of}")]
    Impostor { name: String, of: String },
    #[error("the rumour says that peer `{name}` is at {told}, but wants its answer at {address}")]
    Elsewhere { name: String, told: SocketAddr, address: SocketAddr },
}

/// Whom a digest tells of: a number of them, then for each its id, heartbeat and two versions.
fn digest(mut bytes: &[u8]) -> anyhow::Result<Vec<ChitchatId>> {
    let ids = 0..u16::deserialize(&mut bytes)?;
    ids.map(|_| {
        let id = ChitchatId::deserialize(&mut bytes)?;
        for _ in 0..3 {
            u64::deserialize(&mut bytes)?;
        }
        Ok(id)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitchat::Serializable;

    const HERE: &str = "127.0.0.1:7001";

    /// A first message as chitchat writes it, that tells of peers by name, generation and address.
    fn syn(of: &[(&str, u64, &str)]) -> Vec<u8> {
        let mut bytes = 45_139_u16.to_le_bytes().to_vec();
        bytes.extend([0, 0]);
        (of.len() as u16).serialize(&mut bytes);
        for (name, generation, address) in of {
            ChitchatId::new(*name, *generation, address.parse().unwrap()).serialize(&mut bytes);
            for number in [5_u64, 0, 0] {
                number.serialize(&mut bytes);
            }
        }
        "run".serialize(&mut bytes);
        bytes
    }

    fn check(datagram: &[u8]) -> Result<(), Refused> {
        FirstHand::default().check("a", HERE.parse().unwrap(), datagram)
    }

    #[test]
    fn a_sender_speaks_as_itself_and_may_tell_of_others() {
        let other = "127.0.0.1:7002";
        assert_eq!(check(&syn(&[("a", 2, HERE)])), Ok(()));
        assert_eq!(check(&syn(&[("a", 1, other), ("a", 2, HERE), ("b", 7, other)])), Ok(()));
        let first_hand = FirstHand::default();
        first_hand.check("a", HERE.parse().unwrap(), &syn(&[("a", 2, HERE), ("b", 7, other)])).unwrap();
        let known = first_hand.known().clone();
        assert_eq!(known, BTreeMap::from([("a".to_owned(), HERE.parse().unwrap())]), "`b` has not spoken");
        // The last message of an exchange, and a refusal: neither says who is there.
        assert_eq!(check(&[0x53, 0xb0, 0, 3]), Ok(()));
    }

    #[test]
    fn who_speaks_as_another_is_refused() {
        let refused = check(&syn(&[("b", 2, HERE)])).unwrap_err();
        assert_eq!(refused, Refused::Impostor { name: "a".into(), of: "`b`".into() });
        let refused = check(&syn(&[("a", 9, "127.0.0.1:7002"), ("a", 2, HERE)])).unwrap_err();
        assert!(matches!(refused, Refused::Elsewhere { .. }), "{refused}");
        assert!(matches!(check(&syn(&[])), Err(Refused::Impostor { .. })));
        let whole = syn(&[("a", 2, HERE)]);
        for cut in 0..whole.len() {
            assert!(matches!(check(&whole[..cut]), Err(Refused::Damaged(_))), "{cut}");
        }
    }
}
