//! The life of the coordinator: open the store, take up every unfinished run, serve, drain.

use crate::{
    Clock, Config, ModelHost,
    access::{
        Access, GuardLayer,
        audit::{Action, Note},
    },
    fleet::Fleet,
    health::{Health, SERVICES},
    run::Parts,
    service::{FleetRoutes, Service},
    store::{Store, StoreError},
    transport::incoming,
    web,
};
use identity::Listen;
use proto::{
    DESCRIPTORS, limits,
    v1::{access_server::AccessServer, operator_server::OperatorServer},
};
use std::{future::Future, path::Path, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::Router};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::layer::util::{Identity as LayerIdentity, Stack};

/// How long sessions and runs may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Between looks at a data directory that another process has open.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the coordinator could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority.
    #[error("identity: {0}")]
    Identity(String),
    /// A stored run cannot be taken up.
    #[error("run `{run}` cannot be taken up: {detail}")]
    Run {
        /// Which.
        run: String,
        /// Why.
        detail: String,
    },
    /// The server.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The page.
    #[error("{0}")]
    Page(String),
    /// Reflection.
    #[error("the descriptors for reflection are damaged: {0}")]
    Reflection(String),
}

/// As [`serve_with_page`], where nobody needs to know the page's address beforehand.
pub async fn serve(
    config: Config,
    host: Arc<dyn ModelHost>,
    listener: impl Listen,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let page = web::bind_page(&config).await?;
    serve_with_page(config, host, (listener, page), shutdown).await
}

/// Serves until `shutdown`, then drains: new work is refused, sessions end, what is durable stays.
///
/// `listener` is already bound, so that the caller knows the address, and so is the page's
/// ([`bind_page`](crate::bind_page)).
pub async fn serve_with_page(
    config: Config,
    host: Arc<dyn ModelHost>,
    (listener, page): (impl Listen, Option<TcpListener>),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    tokio::pin!(shutdown);
    let store = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        store = open(&config.data_dir) => Arc::new(store?),
    };
    let clock = Clock::new();
    let stop = CancellationToken::new();
    // A caller that drops this future instead of shutting it down must not leave a commit that tries for ever.
    let _stopped_if_dropped = stop.clone().drop_guard();
    let fleet = Arc::new(Fleet::new(Arc::clone(&store), clock, store.quarantined()?));
    let health = Health::new();
    let access = Access::open(&config, Arc::clone(&store), clock).map_err(ServeError::Identity)?;
    let access = Arc::new(access);
    store.note(Note::own(Action::Started, env!("CARGO_PKG_VERSION")), clock.unix_ms())?;
    let parts = Parts {
        store: Arc::clone(&store),
        fleet,
        host,
        health: health.clone(),
        access: Arc::clone(&access),
        clock,
        stop: stop.clone(),
        config: Arc::new(config),
    };
    let service = Service { parts, tasks: TaskTracker::new(), submission: Arc::default() };
    for record in store.runs()? {
        let run = record.id.clone();
        service
            .restart_run(record)
            .map_err(|status| ServeError::Run { run, detail: status.message().to_owned() })?;
    }
    let (reporter, health_service) = tonic_health::server::health_reporter();
    report(&reporter, true).await;
    service.tasks.spawn(Arc::clone(&access).keep_current(health.clone(), stop.clone()));
    if let Some(page) = page {
        service.tasks.spawn(web::serve(service.clone(), page, stop.clone()));
    }
    service.tasks.spawn(follow_health(health, reporter.clone(), stop.clone()));
    let incoming = incoming(listener, Arc::clone(&access), stop.clone());
    let closing = stop.clone();
    let serving = router(&service, GuardLayer(access))?
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, async move { closing.cancelled().await });
    tokio::pin!(serving);
    tokio::select! {
        biased;
        result = &mut serving => return result.map_err(Into::into),
        () = &mut shutdown => tracing::info!("draining"),
    }
    report(&reporter, false).await;
    stop.cancel();
    service.tasks.close();
    let drained = tokio::time::timeout(GRACE, async { tokio::join!(serving, service.tasks.wait()) }).await;
    if let Err(error) = store.note(Note::own(Action::Stopped, env!("CARGO_PKG_VERSION")), clock.unix_ms()) {
        tracing::error!(%error, "the audit log could not be written");
    }
    if let Ok((result, ())) = drained {
        return result.map_err(Into::into);
    }
    tracing::warn!("some connections did not end within {GRACE:?}");
    Ok(())
}

/// Opens the store. A coordinator that was asked to stop may still be draining: it is waited for.
async fn open(dir: &Path) -> Result<Store, ServeError> {
    let until = tokio::time::Instant::now() + GRACE + PAUSE;
    loop {
        match Store::open(dir) {
            Err(error @ StoreError::InUse { .. }) if tokio::time::Instant::now() < until => {
                tracing::warn!(%error, "waiting for it to stop");
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened.map_err(Into::into),
        }
    }
}

/// Every service of ours behind the guard.
fn router(
    service: &Service,
    guard: GuardLayer,
) -> Result<Router<Stack<GuardLayer, LayerIdentity>>, ServeError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .map_err(|error| ServeError::Reflection(error.to_string()))?;
    let access = AccessServer::new(service.clone())
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    let operator = OperatorServer::new(service.clone())
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    Ok(Server::builder()
        .initial_stream_window_size(limits::WINDOW_BYTES)
        .initial_connection_window_size(limits::WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(limits::SILENCE))
        .http2_keepalive_timeout(Some(limits::SILENCE))
        .layer(guard)
        .add_service(reflection)
        .add_service(access)
        .add_service(FleetRoutes(service.clone()))
        .add_service(operator))
}

async fn follow_health(health: Health, reporter: HealthReporter, stop: CancellationToken) {
    let mut changes = health.watch();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let serving = *changes.borrow_and_update();
        report(&reporter, serving).await;
    }
}

async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
