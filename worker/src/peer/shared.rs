//! What the server of a peer and its node share: what vectors look like, what has arrived of them, whose
//! certificates count.

use super::{complaint::Complaints, digests::Digests, form::Form};
use gossip::machine::Member;
use identity::{Identity, Revocations, Revoked, Role};
use proto::{chunk::Assembler, digest::Digest};
use rustls::pki_types::CertificateDer;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// By sender and whether it is an answer: whose it is, its number, and what has arrived.
pub(super) type Partial = BTreeMap<(u64, bool), (Member, u64, Assembler)>;

/// What server and node share.
pub(super) struct Shared {
    pub(super) run: [u8; 32],
    /// What vectors look like, once known.
    pub(super) form: OnceLock<Form>,
    /// The last transfer that was settled here, by its sender.
    pub(super) settled: Mutex<BTreeMap<Member, u64>>,
    /// Vectors of which a part has arrived, by sender and whether they are answers.
    pub(super) partial: Mutex<Partial>,
    pub(super) complaints: Complaints,
    pub(super) digests: Digests,
    /// Memory of vectors, for those that arrive.
    memory: Mutex<Vec<Vec<f32>>>,
    pub(super) revoked: Revoked,
    /// By whom lists of revoked certificates are signed.
    authority: CertificateDer<'static>,
    /// By name: when the newest certificate that a peer showed was issued.
    pub(super) issued: Mutex<BTreeMap<String, u64>>,
}

/// Vectors for whose arrival memory is kept.
const KEPT: usize = 2;

impl Shared {
    pub(super) fn new(run: [u8; 32], authority: CertificateDer<'static>, revoked: Revoked) -> Self {
        Self {
            revoked,
            authority,
            issued: Mutex::default(),
            run,
            form: OnceLock::new(),
            settled: Mutex::default(),
            partial: Mutex::default(),
            complaints: Complaints::default(),
            digests: Digests::default(),
            memory: Mutex::default(),
        }
    }

    /// Whether there is too little memory for what arrives.
    pub(super) fn wants_memory(&self) -> bool {
        self.memory().len() < KEPT
    }

    /// Keeps memory for what arrives.
    pub(super) fn keep_memory(&self, memory: Vec<f32>) {
        self.memory().push(memory);
    }

    fn memory(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What puts a vector together, in memory that was used before if there is some.
    pub(super) fn assembler(&self, length: usize, digest: Digest) -> Assembler {
        let mut memory = self.memory().pop().unwrap_or_default();
        if memory.len() != length {
            memory = vec![0.0; length];
        }
        Assembler::filling(memory, digest)
    }

    /// Takes a list of revoked certificates; false if it is not newer.
    pub(super) fn heed(&self, text: &str) -> Result<bool, String> {
        Ok(self.revoked.take(Revocations::read(text, &self.authority)?))
    }

    pub(super) fn showed(&self, who: &Identity) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        match issued.get_mut(&who.name) {
            Some(at) => *at = who.issued.max(*at),
            None => drop(issued.insert(who.name.clone(), who.issued)),
        }
    }

    /// Whether the certificate of the peer of that name was revoked, and none of a later issue was seen.
    pub(super) fn is_revoked(&self, name: &str) -> bool {
        let Some(until) = self.revoked.list().until(Role::Peer, name) else { return false };
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.get(name).is_none_or(|at| *at <= until)
    }
}
