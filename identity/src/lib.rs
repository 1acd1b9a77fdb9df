//! Who may speak, and how both ends of a connection prove it: a certificate authority of the
//! federation's own, one-time join tokens, certificates that carry a role and a name, and TLS 1.3 on
//! either side.
//!
//! The private key of a worker or an operator is made where it is used and never leaves it: the
//! authority sees a signing request. A join token carries the authority's fingerprint, so that the
//! first contact is already checked.

mod authority;
mod bundle;
mod dial;
mod listen;
mod name;
mod revocation;
mod tls;
mod token;

pub use authority::{Authority, AuthorityError, PEER_HOST, Validity, request_key};
pub use bundle::{Bundle, BundleError, SigningRequest};
pub use dial::{Connector, Dial, Socket, Tcp};
pub use listen::{Handshakes, Listen, accept, secure};
pub use name::{Identity, Role, Serial};
pub use revocation::{Guarded, Revocations, Revoked};
pub use tls::{Current, client, enrolling, server};
pub use token::{Fingerprint, Token, TokenError};

/// Random bytes from the operating system.
///
/// # Panics
/// If the operating system has none, which no caller could repair.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has entropy");
    bytes
}
