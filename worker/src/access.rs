//! How this worker's connections are made, and how it comes by its certificate: enrolled once with a
//! join token, renewed before it ends, its key made here and never sent.

use crate::{Config, ConfigError, WorkerError, session::backoff};
use algorithms::seed;
use identity::{Bundle, Connector, Current, Dial, Fingerprint, SigningRequest, Token};
use proto::{
    limits,
    v1::{self, access_client::AccessClient},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Connecting may take so long.
const CONNECT: Duration = Duration::from_secs(5);
/// A due renewal is looked for so often.
const RENEWAL_CHECK: Duration = Duration::from_secs(30);
const RENEWAL_CHECK_MIN: Duration = Duration::from_millis(200);

/// A coordinator's address and how connections to it are made.
#[derive(Debug, Clone)]
pub struct Route {
    url: String,
    connector: Connector,
}

impl Route {
    /// Without encryption.
    pub fn plain(url: &str, dial: Arc<dyn Dial>) -> Self {
        Self { url: url.to_owned(), connector: Connector::new(dial, None) }
    }

    /// As somebody with a certificate, which may be replaced while the route is used.
    ///
    /// # Errors
    /// If key and certificate do not belong together.
    pub fn known(url: &str, dial: Arc<dyn Dial>, bundle: &Bundle) -> Result<(Self, Arc<Current>), String> {
        let current = Current::new(bundle)?;
        let tls = identity::client(Arc::clone(&current), bundle.authority())?;
        Ok((Self { url: url.to_owned(), connector: Connector::new(dial, Some(tls)) }, current))
    }

    /// As somebody who only knows the authority's fingerprint.
    ///
    /// # Errors
    /// If the library refuses the settings.
    pub fn newcomer(url: &str, dial: Arc<dyn Dial>, authority: Fingerprint) -> Result<Self, String> {
        let tls = identity::enrolling(authority)?;
        Ok(Self { url: url.to_owned(), connector: Connector::new(dial, Some(tls)) })
    }

    /// How connections are made.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// The settings that all connections share.
    ///
    /// # Errors
    /// If the address is none.
    pub fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let endpoint = Endpoint::from_shared(self.url.clone()).map_err(|error| ConfigError {
            key: "coordinator",
            value: format!("`{}` ({error})", self.url),
            expected: "https://HOST:PORT".into(),
        })?;
        Ok(endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(limits::SILENCE)
            .keep_alive_timeout(limits::SILENCE))
    }

    async fn access(&self) -> Result<AccessClient<Channel>, Status> {
        let endpoint = self.endpoint().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel = endpoint.connect_with_connector(self.connector()).await;
        channel.map(AccessClient::new).map_err(|error| Status::unavailable(chain(&error)))
    }
}

/// Asks for a certificate with a token and puts it into `file`. The same key asks again if an answer
/// was lost.
///
/// # Errors
/// As the coordinator says; `Unavailable` if it cannot be reached, `Internal` if the file failed.
pub async fn enrol(
    url: &str,
    dial: Arc<dyn Dial>,
    (token, name): (&Token, &str),
    file: &Path,
) -> Result<Bundle, Status> {
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let route = Route::newcomer(url, dial, token.authority()).map_err(|error| failed(&error))?;
    let request = SigningRequest::open(file).map_err(|error| failed(&error))?;
    let asked = v1::EnrolRequest {
        token_id: token.id(),
        secret: token.secret().to_vec(),
        request: request.der().map_err(|error| failed(&error))?,
        name: name.to_owned(),
    };
    let mut asked = tonic::Request::new(asked);
    asked.set_timeout(limits::CALL);
    let answer = route.access().await?.enrol(asked).await?.into_inner();
    request.complete(answer.certificate, answer.authority, token.authority()).map_err(|error| failed(&error))
}

/// Asks for another certificate for the same holder and puts it into `file`.
///
/// # Errors
/// As for [`enrol`].
pub async fn renew(route: &Route, bundle: &Bundle, file: &Path) -> Result<Bundle, Status> {
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let request = SigningRequest::open(file).map_err(|error| failed(&error))?;
    let asked = v1::RenewRequest { request: request.der().map_err(|error| failed(&error))? };
    let mut asked = tonic::Request::new(asked);
    asked.set_timeout(limits::CALL);
    let answer = route.access().await?.renew(asked).await?.into_inner();
    let trusted = Fingerprint::of(bundle.authority());
    request.complete(answer.certificate, answer.authority, trusted).map_err(|error| failed(&error))
}

/// A worker's route, and what keeps its certificate fresh while it lives.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) route: Route,
    renewal: Option<Renewal>,
}

#[derive(Debug)]
struct Renewal {
    file: PathBuf,
    bundle: Bundle,
    current: Arc<Current>,
}

/// The route that the configuration asks for; enrols first if that is due, trying until the
/// coordinator answers.
pub(crate) async fn join(config: &Config, dial: Arc<dyn Dial>) -> Result<Membership, WorkerError> {
    let url = &config.coordinator;
    if !config.is_encrypted() {
        return Ok(Membership { route: Route::plain(url, dial), renewal: None });
    }
    let file = config.identity_file();
    let wrong = |detail: String| WorkerError::Identity { file: file.clone(), detail };
    let held = Bundle::load(&file).map_err(|error| wrong(error.to_string()))?;
    let bundle = match (held, &config.token) {
        (Some(held), None) => held,
        (Some(held), Some(_)) if held.identity().not_after > now_s() => held,
        (_, Some(token)) => enrolled(config, &dial, token, &file).await?,
        (None, None) => {
            let text = "there is no certificate and no token; let an operator run `starling token create \
                 --role worker`, and start once with STARLING__TOKEN set to what it prints";
            return Err(wrong(text.into()));
        }
    };
    let holder = bundle.identity();
    if holder.role != identity::Role::Worker || holder.name != config.name.as_str() {
        return Err(wrong(format!("it is for {holder}, this is worker `{}`", config.name)));
    }
    let (route, current) = Route::known(url, dial, &bundle).map_err(wrong)?;
    Ok(Membership { route, renewal: Some(Renewal { file, bundle, current }) })
}

async fn enrolled(
    config: &Config,
    dial: &Arc<dyn Dial>,
    token: &Token,
    file: &Path,
) -> Result<Bundle, WorkerError> {
    let (url, name) = (&config.coordinator, config.name.as_str());
    let key = seed::word(name);
    for attempt in 0_u32.. {
        match enrol(url, Arc::clone(dial), (token, name), file).await {
            Ok(bundle) => {
                tracing::info!(name, token = token.id(), "enrolled");
                return Ok(bundle);
            }
            Err(status) if is_passing(&status) => {
                tracing::warn!(coordinator = url, why = status.message(), "cannot enrol yet, trying again");
                tokio::time::sleep(backoff::delay(key, attempt.into(), attempt)).await;
            }
            Err(status) => {
                let detail = format!("enrolment: {}", status.message());
                return Err(WorkerError::Refused { coordinator: url.clone(), detail });
            }
        }
    }
    unreachable!("there are 2^32 attempts, ten seconds apart")
}

fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Cancelled
            | Code::Unknown
    )
}

impl Membership {
    /// Renews the certificate after two thirds of its life, as long as it is polled.
    pub(crate) async fn keep(self) {
        let Some(Renewal { file, mut bundle, current }) = self.renewal else {
            return std::future::pending().await;
        };
        let mut attempt = 0_u32;
        loop {
            let holder = bundle.identity();
            let life = holder.not_after.saturating_sub(holder.issued);
            let pause = (Duration::from_secs(life) / 20).clamp(RENEWAL_CHECK_MIN, RENEWAL_CHECK);
            tokio::time::sleep(pause).await;
            if now_s() < holder.issued + life * 2 / 3 {
                continue;
            }
            let renewed = renew(&self.route, &bundle, &file).await;
            match renewed.and_then(|new| current.replace(&new).map(|()| new).map_err(Status::internal)) {
                Ok(new) => {
                    tracing::info!(until = new.identity().not_after, "the certificate was renewed");
                    (bundle, attempt) = (new, 0);
                }
                Err(status) => {
                    let left = holder.not_after.saturating_sub(now_s());
                    tracing::warn!(why = status.message(), left_s = left, "the certificate was not renewed");
                    let key = seed::word(&holder.name);
                    tokio::time::sleep(backoff::delay(key, attempt.into(), attempt)).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An error with its causes: the first alone says "transport error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
