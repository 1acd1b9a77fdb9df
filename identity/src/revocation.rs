//! Whose certificates are refused before they end: a list that the authority signs, so that anybody may pass
//! it on. Peers, who have no coordinator to ask, tell it each other.

use crate::name::{Identity, Role, hex};
use rustls::{crypto::ring, pki_types::CertificateDer};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};
use x509_parser::prelude::{FromDer, X509Certificate};

const HEAD: &str = "starling revocations ";
const SIGNATURE: &str = "signature ";

/// A list of revoked certificates: of each holder, all that were issued up to a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    number: u64,
    until: BTreeMap<(Role, String), u64>,
    text: String,
}

impl Revocations {
    /// Reads a list, and believes it only if the authority signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str, authority: &CertificateDer<'_>) -> Result<Self, String> {
        let signed = "the list of revocations is not signed by this federation's authority";
        let (body, signature) = text.rsplit_once(SIGNATURE).ok_or(signed)?;
        let signature = unhex(signature.trim_end()).ok_or(signed)?;
        if !signed_by(authority, body.as_bytes(), &signature)? {
            return Err(signed.into());
        }
        let mut lines = body.lines();
        let wrong = |line: &str| format!("the list of revocations has a line that is none: `{line}`");
        let head = lines.next().unwrap_or_default();
        let number = head.strip_prefix(HEAD).and_then(|number| number.parse().ok());
        let mut list = Self { number: number.ok_or_else(|| wrong(head))?, ..Self::default() };
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [role, name, until] = words[..] else { return Err(wrong(line)) };
            let until = until.parse().map_err(|_| wrong(line))?;
            list.until.insert((role.parse()?, name.to_owned()), until);
        }
        text.clone_into(&mut list.text);
        Ok(list)
    }

    /// This list and one holder more, whose certificates issued up to `until` (seconds since 1970) are refused.
    pub(crate) fn with(&self, (role, name): (Role, &str), until: u64) -> Self {
        let mut next = Self { number: self.number + 1, until: self.until.clone(), text: String::new() };
        let known = next.until.entry((role, name.to_owned())).or_insert(until);
        *known = until.max(*known);
        next
    }

    /// What is signed.
    pub(crate) fn body(&self) -> String {
        let mut body = format!("{HEAD}{}\n", self.number);
        for ((role, name), until) in &self.until {
            let _ = writeln!(body, "{role} {name} {until}");
        }
        body
    }

    /// The list with its signature.
    pub(crate) fn signed(mut self, signature: &[u8]) -> Self {
        self.text = format!("{}{SIGNATURE}{}\n", self.body(), hex(signature));
        self
    }

    /// As it is passed on; empty if nothing was ever revoked.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Grows with each revocation: of two lists the one with the higher number counts.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether this certificate is refused.
    pub fn refuses(&self, who: &Identity) -> bool {
        self.until(who.role, &who.name).is_some_and(|until| who.issued <= until)
    }

    /// Until when certificates of a holder are refused.
    pub fn until(&self, role: Role, name: &str) -> Option<u64> {
        self.until.get(&(role, name.to_owned())).copied()
    }

    /// All holders of a role of whom something is revoked.
    pub fn names(&self, role: Role) -> impl Iterator<Item = &str> {
        self.until.keys().filter(move |(of, _)| *of == role).map(|(_, name)| name.as_str())
    }
}

fn signed_by(authority: &CertificateDer<'_>, body: &[u8], signature: &[u8]) -> Result<bool, String> {
    let (_, parsed) = X509Certificate::from_der(authority).map_err(|error| error.to_string())?;
    let key = &parsed.public_key().subject_public_key.data;
    let known = ring::default_provider().signature_verification_algorithms.all;
    Ok(known.iter().any(|algorithm| algorithm.verify_signature(key, body, signature).is_ok()))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.0.iter().map(byte).collect::<Option<_>>().filter(|_| digits.1.is_empty())
}

/// The newest list that this process knows, shared by all connections.
#[derive(Debug, Clone)]
pub struct Revoked(watch::Sender<Arc<Revocations>>);

impl Default for Revoked {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl Revoked {
    /// The list.
    pub fn list(&self) -> Arc<Revocations> {
        Arc::clone(&self.0.borrow())
    }

    /// Takes a list; false if one at least as new is known.
    pub fn take(&self, list: Revocations) -> bool {
        self.0.send_if_modified(|known| {
            let newer = list.number > known.number;
            if newer {
                *known = Arc::new(list);
            }
            newer
        })
    }

    /// Whether a certificate is refused.
    ///
    /// # Errors
    /// If so, in words.
    pub fn check(&self, who: &Identity) -> Result<(), String> {
        if self.0.borrow().refuses(who) {
            Err(format!("the certificate of {who} was revoked"))
        } else {
            Ok(())
        }
    }

    /// A connection that ends when the certificate at its other end is revoked.
    pub fn guard<S>(&self, io: S, who: Identity) -> Guarded<S> {
        let mut changes = self.0.subscribe();
        let cut = async move {
            if changes.wait_for(|list| list.refuses(&who)).await.is_err() {
                // Nobody will tell of a revocation any more.
                std::future::pending::<()>().await;
            }
        };
        Guarded { io, cut: Some(Box::pin(cut)) }
    }
}

/// See [`Revoked::guard`].
pub struct Guarded<S> {
    io: S,
    /// `None` once it was cut.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().is_none_or(|cut| cut.as_mut().poll(cx).is_ready()) {
            self.cut = None;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "revoked")));
        }
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
