//! Tokens, enrolment, renewal, revocation: what is decided, and made durable together with its line in
//! the audit log.

use super::{Access, Closed, audit::Action, lock, noted, who};
use crate::{
    Clock,
    store::{AccessTables, Holder, HolderRecord, TokenRecord},
    transport::Peer,
};
use identity::{Identity, Role, Token, Validity};
use proto::{
    limits,
    names::WorkerName,
    v1::{self, ErrorCode},
};
use std::sync::PoisonError;
use tonic::Status;

/// How many enrolments are let through: so many a minute, and as many at once.
#[derive(Debug)]
pub(super) struct Bucket {
    per_minute: u32,
    /// In sixtieths of one.
    tokens: u64,
    at: u64,
}

impl Bucket {
    pub(super) fn full(per_minute: u32) -> Self {
        Self { per_minute, tokens: u64::from(per_minute) * 60, at: 0 }
    }

    /// Takes one, if there is one at `now` (seconds).
    fn take(&mut self, now: u64) -> bool {
        let most = u64::from(self.per_minute) * 60;
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(self.per_minute));
        self.tokens = self.tokens.saturating_add(gained).min(most);
        self.at = now;
        if self.tokens < 60 {
            return false;
        }
        self.tokens -= 60;
        true
    }
}

/// The wire's role of ours.
pub(crate) fn role_of(role: Role) -> v1::Role {
    match role {
        Role::Worker => v1::Role::Worker,
        Role::Operator => v1::Role::Operator,
        Role::Observer => v1::Role::Observer,
        Role::Coordinator | Role::Peer => v1::Role::Unspecified,
    }
}

fn role_from(role: v1::Role) -> Result<Role, Status> {
    match role {
        v1::Role::Worker => Ok(Role::Worker),
        v1::Role::Operator => Ok(Role::Operator),
        v1::Role::Observer => Ok(Role::Observer),
        v1::Role::Unspecified => {
            Err(ErrorCode::Malformed.status("role: expected worker, operator or observer"))
        }
    }
}

fn name_from(name: &str) -> Result<String, Status> {
    let name: WorkerName = name
        .parse()
        .map_err(|error: proto::names::NameError| ErrorCode::Malformed.status(error.to_string()))?;
    Ok(name.into())
}

fn refused(why: impl Into<String>) -> Status {
    ErrorCode::Unauthenticated.status(why)
}

impl Access {
    /// A new token.
    pub(crate) fn create_token(
        &self,
        peer: &Peer,
        request: &v1::CreateTokenRequest,
    ) -> Result<v1::JoinToken, Status> {
        let closed = self.closed()?;
        let role = role_from(request.role())?;
        let name = if request.name.is_empty() { None } else { Some(name_from(&request.name)?) };
        if !(1..=limits::TOKEN_MAX_S).contains(&request.valid_s) {
            let text =
                format!("valid_s is {}, expected 1 to {} seconds", request.valid_s, limits::TOKEN_MAX_S);
            return Err(ErrorCode::Malformed.status(text));
        }
        let token = Token::create(closed.authority.fingerprint());
        let now = Clock::wall_s();
        let record = TokenRecord {
            digest: Token::digest(token.secret()),
            role,
            name,
            expires: now + request.valid_s,
            creator: who(peer),
            used: None,
        };
        let subject = format!("{} for {role} {}", token.id(), record.name.as_deref().unwrap_or("(any name)"));
        let note = noted(peer, Action::TokenCreated, subject);
        self.store.change_access::<_, Status>(|tables| {
            tables.drop_tokens(now)?;
            tables.put_token(&token.id(), &record)?;
            Ok(tables.note(note, self.clock.unix_ms())?)
        })?;
        Ok(v1::JoinToken { token: token.text(), id: token.id(), expires: record.expires })
    }

    /// A certificate for a token.
    pub(crate) fn enrol(&self, peer: &Peer, request: &v1::EnrolRequest) -> Result<v1::Certificate, Status> {
        let closed = self.closed()?;
        if !lock(&closed.enrolments).take(Clock::wall_s()) {
            let most = closed.settings.enrolments_per_minute;
            let text = format!("more than {most} enrolments a minute, `enrolments_per_minute`; try later");
            return Err(ErrorCode::Limit.status(text));
        }
        let id: String = request.token_id.chars().take(32).collect();
        let done = self.store.change_access(|tables| self.enrol_in(tables, closed, peer, request));
        if let Err(status) = &done {
            let note = noted(peer, Action::Enrolled, format!("with token {id}"));
            self.note(note.with_outcome(status.message()));
        }
        done
    }

    fn enrol_in(
        &self,
        tables: &mut AccessTables<'_>,
        closed: &Closed,
        peer: &Peer,
        request: &v1::EnrolRequest,
    ) -> Result<v1::Certificate, Status> {
        let now = Clock::wall_s();
        let key = key_of(&request.request)?;
        let unknown = || refused("the token is not known here, or has expired; ask an operator for another");
        let token = tables.token(&request.token_id)?.ok_or_else(unknown)?;
        // Digests are compared, so that the time it takes tells nothing about the secret.
        if token.digest != Token::digest(&request.secret) || token.expires < now {
            return Err(unknown());
        }
        if token.used.as_ref().is_some_and(|used| *used != key) {
            return Err(refused("the token was used already; each lets one machine join, once"));
        }
        let name = match &token.name {
            Some(name) if request.name.is_empty() || request.name == *name => name.clone(),
            Some(name) => {
                let text =
                    format!("the token is for {} `{name}`, the caller is `{}`", token.role, request.name);
                return Err(ErrorCode::Forbidden.status(text));
            }
            None => name_from(&request.name)?,
        };
        let holder: Holder = (token.role, name);
        if let Some(known) = tables.holder(&holder)?
            && known.key != key
            && known.not_after > now
            && !closed.is_revoked(&holder, &known)
        {
            let text = format!(
                "{} `{}` has a certificate already; choose another name, or let an operator revoke that one",
                holder.0, holder.1
            );
            return Err(ErrorCode::Name.status(text));
        }
        let certificate = closed.certify(tables, &holder, &request.request)?;
        tables.put_token(&request.token_id, &TokenRecord { used: Some(key), ..token })?;
        let subject = format!("{} {} with token {}", holder.0, holder.1, request.token_id);
        tables.note(noted(peer, Action::Enrolled, subject), self.clock.unix_ms())?;
        Ok(certificate)
    }

    /// Another certificate for its holder, who was let through the guard.
    pub(crate) fn renew(&self, peer: &Peer, request: &v1::RenewRequest) -> Result<v1::Certificate, Status> {
        let closed = self.closed()?;
        let identity = peer.identity.as_ref().ok_or_else(|| refused("only a holder can renew"))?;
        let holder = (identity.role, identity.name.clone());
        if holder.0 == Role::Coordinator {
            return Err(ErrorCode::Forbidden.status("a coordinator renews its own certificate"));
        }
        self.store.change_access(|tables| {
            let certificate = closed.certify(tables, &holder, &request.request)?;
            tables.note(noted(peer, Action::Renewed, identity.to_string()), self.clock.unix_ms())?;
            Ok(certificate)
        })
    }

    /// Ends all certificates of a holder and its connections.
    pub(crate) fn revoke(
        &self,
        peer: &Peer,
        request: &v1::RevokeIdentityRequest,
    ) -> Result<v1::IdentitySummary, Status> {
        let closed = self.closed()?;
        let holder: Holder = (role_from(request.role())?, name_from(&request.name)?);
        let until = Clock::wall_s();
        self.store.change_access::<_, Status>(|tables| {
            tables.revoke(&holder, until)?;
            let note = noted(peer, Action::Revoked, format!("{} {}", holder.0, holder.1));
            Ok(tables.note(note, self.clock.unix_ms())?)
        })?;
        closed.revoked.write().unwrap_or_else(PoisonError::into_inner).insert(holder.clone(), until);
        let cut = self.connections.cut(&holder);
        tracing::warn!(role = holder.0.label(), name = holder.1, cut, by = who(peer), "revoked");
        let record = self.store.holders()?.remove(&holder);
        Ok(summary(&holder, record.as_ref(), until, cut))
    }

    /// Everybody who has a certificate, and unused tokens.
    pub(crate) fn identities(&self) -> Result<v1::IdentityList, Status> {
        let closed = self.closed()?;
        let mut holders = self.store.holders()?;
        let revoked = closed.revoked.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut identities = Vec::new();
        for (holder, until) in &revoked {
            let record = holders.remove(holder);
            identities.push(summary(holder, record.as_ref(), *until, self.connections.of(holder)));
        }
        for (holder, record) in &holders {
            identities.push(summary(holder, Some(record), 0, self.connections.of(holder)));
        }
        let now = Clock::wall_s();
        let tokens = self.store.tokens()?.into_iter().filter(|(_, token)| token.used.is_none());
        let tokens = tokens.filter(|(_, token)| token.expires >= now).map(|(id, token)| v1::TokenSummary {
            id,
            role: role_of(token.role).into(),
            name: token.name.unwrap_or_default(),
            expires: token.expires,
            creator: token.creator,
        });
        Ok(v1::IdentityList { identities, tokens: tokens.collect() })
    }
}

impl Closed {
    fn certify(
        &self,
        tables: &mut AccessTables<'_>,
        holder: &Holder,
        request: &[u8],
    ) -> Result<v1::Certificate, Status> {
        let key = key_of(request)?;
        // Never as old as what was revoked.
        let from = Clock::wall_s().max(self.revoked_until(holder).map_or(0, |until| until + 1));
        let validity = Validity::lasting(from, self.settings.certificate_s);
        let certificate = self
            .authority
            .sign(request, holder.0, &holder.1, validity)
            .map_err(|error| ErrorCode::State.status(error.to_string()))?;
        let Identity { serial, not_after, .. } =
            Identity::of(&certificate).map_err(|error| ErrorCode::State.status(error))?;
        tables.put_holder(holder, &HolderRecord { key, serial, issued: from, not_after })?;
        let authority = self.authority.certificate().to_vec();
        Ok(v1::Certificate { certificate: certificate.to_vec(), authority })
    }

    fn is_revoked(&self, holder: &Holder, record: &HolderRecord) -> bool {
        self.revoked_until(holder).is_some_and(|until| record.issued <= until)
    }
}

fn summary(holder: &Holder, record: Option<&HolderRecord>, revoked: u64, open: usize) -> v1::IdentitySummary {
    v1::IdentitySummary {
        role: role_of(holder.0).into(),
        name: holder.1.clone(),
        serial: record.map(|record| record.serial.to_string()).unwrap_or_default(),
        not_after: record.map_or(0, |record| record.not_after),
        revoked,
        connections: u32::try_from(open).unwrap_or(u32::MAX),
    }
}

/// The digest by which a key is known.
fn key_of(request: &[u8]) -> Result<String, Status> {
    if request.len() > limits::REQUEST_BYTES {
        let text = format!("a signing request of {} bytes, at most {}", request.len(), limits::REQUEST_BYTES);
        return Err(ErrorCode::Malformed.status(text));
    }
    let key =
        identity::request_key(request).map_err(|error| ErrorCode::Malformed.status(error.to_string()))?;
    Ok(blake3::hash(&key).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills() {
        let mut bucket = Bucket::full(2);
        assert_eq!([0, 0, 0, 0].map(|now| bucket.take(now)), [true, true, false, false]);
        assert_eq!([29, 30, 30].map(|now| bucket.take(now)), [false, true, false]);
        assert_eq!([10_000, 10_000, 10_000].map(|now| bucket.take(now)), [true, true, false]);
    }
}
