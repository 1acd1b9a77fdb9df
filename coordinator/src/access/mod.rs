//! Who may speak to the coordinator, and what about: its certificate authority, the check of every
//! call, and what is decided about tokens, certificates and revocations.
//!
//! Without an authority (plaintext) nobody can be told from anybody, and every call is let through.

pub mod audit;
mod connections;
mod enrol;
mod layer;
mod rpc;

pub(crate) use connections::{Connections, Place};
pub(crate) use layer::GuardLayer;

use crate::{
    Clock,
    config::{Config, Tls},
    health::Health,
    store::{Holder, Store, StoreError},
    transport::Peer,
};
use audit::{Action, Note};
use identity::{Authority, Bundle, Current, Identity, Role, Validity};
use proto::v1::ErrorCode;
use rpc::Allowed;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The same denial is written into the audit log once in so many seconds.
const DENIAL_S: u64 = 60;
/// Different denials that are remembered for that.
const DENIALS: usize = 1_024;
/// Complaints about strangers are logged so often at most.
const COMPLAINT_MS: u64 = 1_000;
/// Certificates are checked so often for whether they must be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(10);
/// A short-lived one more often.
const RENEWAL_CHECK_MIN: Duration = Duration::from_millis(500);

/// What an authority makes possible.
#[derive(Debug)]
pub(crate) struct Closed {
    authority: Authority,
    current: Arc<Current>,
    acceptor: Arc<rustls::ServerConfig>,
    settings: Tls,
    revoked: RwLock<BTreeMap<Holder, u64>>,
    enrolments: Mutex<enrol::Bucket>,
}

/// Access to one coordinator.
#[derive(Debug)]
pub(crate) struct Access {
    closed: Option<Closed>,
    store: Arc<Store>,
    clock: Clock,
    connections: Connections,
    denials: Mutex<BTreeMap<String, u64>>,
    complaints: Mutex<(u64, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// As configured; with an authority, a certificate for the coordinator itself is issued at once.
    pub(crate) fn open(config: &Config, store: Arc<Store>, clock: Clock) -> Result<Self, String> {
        let closed = match &config.tls {
            None => None,
            Some(tls) => Some(Closed::open(tls.clone(), &store, Clock::wall_s())?),
        };
        Ok(Self {
            closed,
            store,
            clock,
            connections: Connections::new(config.connections_max),
            denials: Mutex::default(),
            complaints: Mutex::default(),
        })
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Whether everybody may do everything.
    pub(crate) fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.closed.as_ref().map(|closed| Arc::clone(&closed.acceptor))
    }

    fn closed(&self) -> Result<&Closed, Status> {
        self.closed.as_ref().ok_or_else(|| {
            let why =
                "this coordinator serves plaintext and has no certificate authority; see `starling ca init`";
            ErrorCode::State.status(why)
        })
    }

    /// Lets a call through, or says why not.
    pub(crate) fn admit(&self, peer: &Peer, path: &str) -> Result<(), Status> {
        let Some(closed) = &self.closed else { return Ok(()) };
        let allowed = rpc::allowed(path);
        if allowed == Some(Allowed::All) {
            return Ok(());
        }
        let Some(identity) = &peer.identity else {
            let why = "this call needs a certificate; ask an operator for a join token";
            return Err(self.denied(peer, path, ErrorCode::Unauthenticated, why));
        };
        if let Err(why) = closed.valid(identity, Clock::wall_s()) {
            return Err(self.denied(peer, path, ErrorCode::Unauthenticated, &why));
        }
        let forbidden = |why: &str| Err(self.denied(peer, path, ErrorCode::Forbidden, why));
        match allowed {
            Some(Allowed::All | Allowed::Known) => Ok(()),
            Some(Allowed::Roles(roles)) if roles.contains(&identity.role) => Ok(()),
            Some(Allowed::Roles(roles)) => {
                let roles: Vec<&str> = roles.iter().map(|role| role.label()).collect();
                forbidden(&format!("{identity} may not do this; it is for: {}", roles.join(", ")))
            }
            None => forbidden(&format!("nothing is served at `{path}`")),
        }
    }

    /// Whether somebody may look, and change nothing.
    pub(crate) fn may_read(&self, who: Option<&Identity>) -> Result<(), String> {
        let Some(closed) = &self.closed else { return Ok(()) };
        let who = who.ok_or("a certificate of an operator or an observer is needed")?;
        closed.valid(who, Clock::wall_s())?;
        if matches!(who.role, Role::Operator | Role::Observer) {
            return Ok(());
        }
        Err(format!("{who} may not read this; it is for operators and observers"))
    }

    fn denied(&self, peer: &Peer, path: &str, code: ErrorCode, why: &str) -> Status {
        let who = who(peer);
        tracing::warn!(who, address = %peer.address, path, why, "a call was refused");
        let now = Clock::wall_s();
        let key = format!("{who} {path} {why}");
        let due = {
            let mut denials = lock(&self.denials);
            denials.retain(|_, at| *at + DENIAL_S > now);
            denials.len() < DENIALS && denials.insert(key, now).is_none()
        };
        if due {
            self.note(noted(peer, Action::Denied, path).with_outcome(why));
        }
        code.status(why)
    }

    /// Writes into the audit log, beside whatever goes on.
    pub(crate) fn note(&self, note: Note) {
        let (store, time_ms) = (Arc::clone(&self.store), self.clock.unix_ms());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.note(note, time_ms) {
                tracing::error!(%error, "the audit log could not be written");
            }
        });
    }

    /// Logs something about strangers, but not each of a flood.
    pub(crate) fn complain(&self, what: &str) {
        let now = self.clock.now();
        let mut complaints = lock(&self.complaints);
        if complaints.0 > 0 && now < complaints.0 + COMPLAINT_MS {
            complaints.1 += 1;
            return;
        }
        let more = std::mem::take(&mut complaints.1);
        complaints.0 = now.max(1);
        tracing::warn!(more, "{what}");
    }

    /// Renews the coordinator's own certificate in time, until told to stop.
    pub(crate) async fn keep_current(self: Arc<Self>, health: Health, stop: CancellationToken) {
        let Some(closed) = &self.closed else { return };
        let life = Duration::from_secs(closed.settings.certificate_s);
        let pause = (life / 20).clamp(RENEWAL_CHECK_MIN, RENEWAL_CHECK);
        let mut due = closed.renewal_due(Clock::wall_s());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let now = Clock::wall_s();
            if now >= closed.authority.until() {
                health.failed(
                    crate::health::Part::Certificate,
                    "the certificate authority has expired; make a new one with `starling ca init`",
                );
                continue;
            }
            if now < due {
                continue;
            }
            match closed.renew_own(now) {
                Ok(()) => {
                    tracing::info!("the coordinator's certificate was renewed");
                    health.works(crate::health::Part::Certificate);
                    due = closed.renewal_due(now);
                }
                Err(error) => health.failed(crate::health::Part::Certificate, &error),
            }
        }
    }
}

impl Closed {
    fn open(settings: Tls, store: &Store, now: u64) -> Result<Self, String> {
        let authority = Authority::load(&settings.authority).map_err(|error| error.to_string())?;
        let own = own(&authority, &settings, now)?;
        let current = Current::new(&own)?;
        let acceptor = identity::server(Arc::clone(&current), authority.certificate())?;
        let revoked = RwLock::new(store.revoked().map_err(|error| error.to_string())?);
        let enrolments = Mutex::new(enrol::Bucket::full(settings.enrolments_per_minute));
        Ok(Self { authority, current, acceptor, settings, revoked, enrolments })
    }

    /// Two thirds of the coordinator's certificate after its issue.
    fn renewal_due(&self, issued: u64) -> u64 {
        issued + self.settings.certificate_s * 2 / 3
    }

    fn renew_own(&self, now: u64) -> Result<(), String> {
        self.current.replace(&own(&self.authority, &self.settings, now)?)
    }

    fn revoked_until(&self, holder: &Holder) -> Option<u64> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).get(holder).copied()
    }

    /// Whether a certificate, whose signature was checked in the handshake, still counts.
    fn valid(&self, identity: &Identity, now: u64) -> Result<(), String> {
        if identity.not_after <= now {
            return Err(format!("the certificate of {identity} has expired"));
        }
        let revoked = self.revoked_until(&(identity.role, identity.name.clone()));
        if revoked.is_some_and(|until| identity.issued <= until) {
            return Err(format!("the certificate of {identity} was revoked"));
        }
        Ok(())
    }
}

fn own(authority: &Authority, settings: &Tls, now: u64) -> Result<Bundle, String> {
    let validity = Validity::lasting(now, settings.certificate_s);
    Bundle::issue(authority, Role::Coordinator, "coordinator", (&settings.hosts, validity))
        .map_err(|error| error.to_string())
}

/// Whether a peer may speak as this worker.
pub(crate) fn speaks_for(peer: &Peer, worker: &str) -> Result<(), String> {
    match &peer.identity {
        None => Ok(()),
        Some(identity) if identity.role == Role::Worker && identity.name == worker => Ok(()),
        Some(identity) => {
            Err(format!("the certificate is for {identity}, the message for worker `{worker}`"))
        }
    }
}

/// A caller, as the audit log names it.
pub(crate) fn who(peer: &Peer) -> String {
    peer.identity
        .as_ref()
        .map_or_else(|| "?".to_owned(), |identity| format!("{} {}", identity.role, identity.name))
}

/// What a caller did.
pub(crate) fn noted(peer: &Peer, action: Action, subject: impl Into<String>) -> Note {
    Note {
        who: who(peer),
        address: peer.address.to_string(),
        action,
        subject: subject.into(),
        outcome: "ok".into(),
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        ErrorCode::Store.status(error.to_string())
    }
}
