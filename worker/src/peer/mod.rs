//! A peer of a decentralised run: the mixing machine of `gossip` with sockets, a clock, a disk and this
//! crate's trainer around it. No coordinator is needed.
//!
//! Reading order: `node` (what happens), `meeting` (how it begins), `rounds` and `work` (training), `watch`,
//! `sides`, `rumour`, `claim` and `revoke` (who is there), `post`, `serve` and `form` (messages out and in), `store` and `slots` (what survives), `book` (metrics).

mod book;
mod claim;
mod complaint;
mod config;
mod digests;
mod form;
mod listen;
mod meeting;
mod net;
mod node;
mod post;
mod private;
mod revoke;
mod rounds;
mod rumour;
mod seen;
mod serve;
mod shared;
mod sides;
mod slots;
mod status;
mod store;
mod turn;
mod watch;
mod work;

pub use config::Config;
pub use form::Form;
pub use net::{Lane, Net};
pub use node::Ended;
pub use seen::{SEEN, Seen};
pub use turn::{Turn, answer, difference_seed};

use crate::{
    WorkerError,
    trainer::{EngineTrainer, Opened, Train},
};
use gossip::machine::Member;
use identity::{Bundle, Dial, Listen, Revoked, Role, Tcp};
use meeting::{Meeting, Start};
use node::{Node, Parts};
use private::Private;
use proto::{
    limits, peers,
    spec::{Mixing, RunSpec},
    v1::{self, peers_server::PeersServer},
};
use revoke::Lists;
use rumour::Rumours;
use seen::Diary;
use serve::{Input, Service, Shared};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::Store;
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::Server;

/// Events that wait for the node.
const EVENTS: usize = 64;
/// A stopping peer waits so long for the step that is being computed.
const GRACE: Duration = Duration::from_secs(8);

/// Takes part in a run with the training engine, until `stop` or until it has left. `spec` is the content of
/// the run file.
///
/// # Errors
/// If configuration, run file, certificate or state cannot be used, or training fails.
pub async fn run_with_engine(
    config: Config,
    spec: RunSpec,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<Ended, WorkerError> {
    let trainer = Box::new(EngineTrainer::new(&config.for_training()));
    run(config, spec, (listener, trainer), stop).await
}

/// Where a peer lives: how it is reached, how it reaches others, and what time it is.
#[derive(Debug)]
pub struct Place<L> {
    /// Where others connect.
    pub listener: L,
    /// The address of that, as others know it.
    pub address: SocketAddr,
    /// How others are reached.
    pub dial: Arc<dyn Dial>,
    /// Milliseconds since 1970: asked once; from then on this process counts for itself.
    pub wall: u64,
    /// A local run takes at least so long: where computing takes no time, a peer that waits for nobody would otherwise
    /// never let time pass.
    pub pace: Duration,
}

/// Takes part in a run with any trainer.
///
/// # Errors
/// As for [`run_with_engine`].
pub async fn run(
    config: Config,
    spec: RunSpec,
    (listener, trainer): (TcpListener, Box<dyn Train>),
    stop: CancellationToken,
) -> Result<Ended, WorkerError> {
    let unusable = |error: io::Error| WorkerError::StateDir {
        path: config.state_dir.clone(),
        problem: error.to_string(),
    };
    let address = config.advertise.map_or_else(|| listener.local_addr(), Ok).map_err(unusable)?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let place = Place { listener, address, dial: Arc::new(Tcp), wall, pace: Duration::ZERO };
    Box::pin(run_in(config, spec, (place, trainer), stop)).await
}

/// Takes part in a run from any place, also a simulated one.
///
/// # Errors
/// As for [`run_with_engine`].
pub async fn run_in<L: Listen>(
    config: Config,
    spec: RunSpec,
    (place, trainer): (Place<L>, Box<dyn Train>),
    stop: CancellationToken,
) -> Result<Ended, WorkerError> {
    let Place { listener, address, dial, wall, pace } = place;
    let began = (wall, Instant::now());
    config.check()?;
    let mixing = spec.mixing().map_err(|error| WorkerError::Run(error.to_string()))?;
    let report = look_at(&mixing, spec.rounds)?;
    let bundle = bundle(&config)?;
    let unusable = |problem| WorkerError::StateDir { path: config.state_dir.clone(), problem };
    let store = Store::open(&config.state_dir).map_err(unusable)?;
    let run: [u8; 32] = *blake3::hash(spec.to_json().as_bytes()).as_bytes();
    let stored = store.load(run).map_err(unusable)?;
    let wrong = |detail| WorkerError::Identity { file: config.identity.clone(), detail };
    let revoked = Revoked::default();
    let net = Net::new(&bundle, dial).map_err(wrong)?.except(revoked.clone());
    let plan = rumour::Plan {
        name: config.name.to_string(),
        generation: wall,
        run,
        address,
        bootstrap: config.bootstrap.clone(),
    };
    let (rumours, ear) = Rumours::start(plan, net.clone()).await.map_err(WorkerError::Internal)?;
    let shared = Arc::new(Shared::new(run, bundle.authority().clone(), revoked));
    let lists = Lists::read(config.revoked.clone(), store.path("revoked"), &shared)?;
    shared.revoked.check(bundle.identity()).map_err(wrong)?;
    let (sender, mut inbox) = mpsc::channel(EVENTS);
    let service = Service { shared: Arc::clone(&shared), node: sender, ear, seen: serve::Seen::default() };
    let _serving = serve(service, listener, &bundle).map_err(wrong)?;
    let spec = Arc::new(spec);
    let (opened, trainer) = opened(trainer, &spec).await?;
    let Opened { tensors, initial, examples } = opened;
    let examples = if mixing.config.weighted { examples } else { 0 };
    let _ = shared.form.set(form(&mixing, &tensors)?);
    let private = promise(&config, &spec, (initial.len(), stored.is_none())).map_err(WorkerError::Run)?;
    let parts = Parts {
        diary: diary(&config, &spec, &mixing)?,
        name: config.name.to_string(),
        spec,
        mixing,
        tensors: tensors.into_iter().map(|(name, shape)| v1::Tensor { name, shape }).collect(),
        shared,
        net,
        rumours,
        store: Arc::new(store),
        report,
        private,
        examples,
        began,
        pace,
        identity: bundle.identity().clone(),
        lists,
    };
    let start = if stored.is_some() {
        tracing::info!("going on from the stored state");
        None
    } else {
        let begun = begin(&parts, initial.len(), &mut inbox, &stop).await;
        if begun.is_none() {
            return Ok(Ended::Stopped);
        }
        begun
    };
    let node = Node::new(parts, (stored, start), (trainer, initial))?;
    live(node, inbox, stop).await
}

/// Meets the others; `None` if told to stop meanwhile.
async fn begin(
    parts: &Parts,
    length: usize,
    inbox: &mut mpsc::Receiver<Input>,
    stop: &CancellationToken,
) -> Option<Start> {
    let me = Member { id: peers::id_of(&parts.name), incarnation: parts.began.0 };
    let (run, examples) = (parts.shared.run, parts.examples);
    let meeting = Meeting { net: &parts.net, run, name: &parts.name, length, examples };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        start = meeting.begin((me, parts.mixing.nodes), &parts.rumours, inbox) => Some(start),
    }
}

async fn live(
    node: Node,
    inbox: mpsc::Receiver<Input>,
    stop: CancellationToken,
) -> Result<Ended, WorkerError> {
    let stopping = stop.clone();
    tokio::select! {
        biased;
        ended = node.run(inbox, stop) => ended,
        () = async { stopping.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("a training step did not end within {} s", GRACE.as_secs());
            Ok(Ended::Stopped)
        }
    }
}

/// What a run begins with, and the trainer again.
async fn opened(
    mut trainer: Box<dyn Train>,
    spec: &Arc<RunSpec>,
) -> Result<(Opened, Box<dyn Train>), WorkerError> {
    let spec = Arc::clone(spec);
    let opened = tokio::task::spawn_blocking(move || (trainer.open(&spec), trainer)).await;
    let (opened, trainer) = opened.map_err(|error| WorkerError::Internal(error.to_string()))?;
    Ok((opened.map_err(|error| WorkerError::Training(error.to_string()))?, trainer))
}

/// Where a private run notes what reaches this peer.
fn diary(config: &Config, spec: &RunSpec, mixing: &Mixing) -> Result<Option<Diary>, WorkerError> {
    if spec.privacy.is_none() {
        return Ok(None);
    }
    let ledgers = config.ledger_dir.as_ref().unwrap_or(&config.state_dir);
    let started = Seen::Started {
        peer: config.name.to_string(),
        run: spec.name.clone(),
        ledgers: std::path::absolute(ledgers).unwrap_or_else(|_| ledgers.clone()),
    };
    Diary::open(config.state_dir.join(SEEN), &started, mixing.config.barrier).map(Some)
}

/// What vectors of the run look like on the wire.
fn form(mixing: &Mixing, tensors: &[(String, Vec<u64>)]) -> Result<Form, WorkerError> {
    let shape = |(_, shape): &(String, Vec<u64>)| shape.iter().map(|side| *side as usize).collect();
    let shapes: Vec<Vec<usize>> = tensors.iter().map(shape).collect();
    Form::new(mixing, &shapes).map_err(|error| WorkerError::Run(error.to_string()))
}

/// What the topology promises, as it is told to who asks.
fn look_at(mixing: &Mixing, rounds: u64) -> Result<String, WorkerError> {
    let report = mixing.report(rounds);
    tracing::info!("topology of the run\n{}", report.to_string().trim_end());
    if !report.accepted() {
        return Err(WorkerError::Run("the topology cannot bring the peers together, see the report".into()));
    }
    Ok(serde_json::to_string(&report).unwrap_or_default())
}

/// What a private run promises; one that begins must fit what is left of the budget.
fn promise(
    config: &Config,
    spec: &RunSpec,
    (length, begins): (usize, bool),
) -> Result<Option<Arc<Mutex<Private>>>, String> {
    let own = config.ledger_dir.as_deref();
    let folder = (own.unwrap_or(&config.state_dir), own.is_some());
    let told = |why: String| format!("privacy: {why}");
    let Some(private) = Private::open(spec, folder, length).map_err(told)? else { return Ok(None) };
    if begins {
        private.admit(spec.rounds).map_err(told)?;
    }
    Ok(Some(Arc::new(Mutex::new(private))))
}

fn bundle(config: &Config) -> Result<Bundle, WorkerError> {
    let wrong = |detail: String| WorkerError::Identity { file: config.identity.clone(), detail };
    let bundle = Bundle::load(&config.identity).map_err(|error| wrong(error.to_string()))?;
    let make = "there is no certificate; let the holder of the authority run `starling ca peer`";
    let bundle = bundle.ok_or_else(|| wrong(make.into()))?;
    let holder = bundle.identity();
    if holder.role != Role::Peer || holder.name != config.name.as_str() {
        return Err(wrong(format!("it is for {holder}, this is peer `{}`", config.name)));
    }
    Ok(bundle)
}

fn serve(service: Service, listener: impl Listen, bundle: &Bundle) -> Result<AbortOnDropHandle<()>, String> {
    let (incoming, accepting) = listen::incoming(listener, listen::tls(bundle)?, &service.shared.revoked);
    let peers = PeersServer::new(service)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    let serving = Server::builder()
        .initial_stream_window_size(limits::WINDOW_BYTES)
        .initial_connection_window_size(limits::WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(limits::SILENCE))
        .http2_keepalive_timeout(Some(limits::SILENCE))
        .add_service(peers)
        .serve_with_incoming(incoming);
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let _accepting = accepting;
        if let Err(error) = serving.await {
            tracing::error!(%error, "this peer serves no more");
        }
    })))
}
