//! Whole jobs against a coordinator on a real socket, with a toy objective.

use super::*;
use crate::{
    testing::{Book, Conversation, Coordinator},
    trainer::{EvaluateJob, LocalResult, Progress, Report, Scores, TrainError, TrainJob},
};
use algorithms::{LocalRun, Vector};
use proto::{
    chunk::bytes_of,
    digest::Digest,
    limits::CHUNK_BYTES,
    spec::{ModelSpec, RunSpec},
    v1::{self, DeclineReason, ErrorCode, coordinator_message::Body as Order, worker_message::Body},
};
use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Streaming, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

/// Of a model: five chunks.
const LENGTH: usize = 300_000;
/// Rounds at and above train until they are cancelled.
const ENDLESS: u64 = 100;
/// This round takes a second, cancelled or not, once it has begun.
const STUBBORN: u64 = 50;
/// This round trips over a bug.
const BUG: u64 = 66;

/// Halves the weights: the upload is a function of the model alone.
struct Halving {
    trained: Arc<AtomicU32>,
}

impl Train for Halving {
    fn prepare(&mut self, spec: &RunSpec) -> Result<usize, TrainError> {
        match spec.model {
            ModelSpec::Flat { parameters } => Ok(parameters),
            _ => Err(TrainError::Model("flat only".into())),
        }
    }

    fn train(&mut self, job: &TrainJob, report: Report<'_>) -> Result<LocalResult, TrainError> {
        self.trained.fetch_add(1, Ordering::SeqCst);
        assert_ne!(job.round, BUG, "the bug");
        if job.round == STUBBORN {
            thread::sleep(Duration::from_secs(1));
        }
        if job.round >= ENDLESS {
            while report(Progress { done: 0, due: 1 }).is_continue() {
                thread::sleep(Duration::from_millis(1));
            }
            return Err(TrainError::Cancelled);
        }
        let shift = job.plan.shift.as_ref().map_or(0.0, |shift| shift[0]);
        let end = job.model.iter().map(|w| w * 0.5 - job.lr * shift).collect();
        let run = LocalRun::new(Arc::clone(&job.model), end, 2, job.lr);
        Ok(LocalResult { run, examples: 7, loss: 0.25 })
    }

    fn evaluate(&mut self, job: &EvaluateJob, _: Report<'_>) -> Result<Scores, TrainError> {
        Ok(Scores { predictions: job.model.len() as u64, correct: 1, loss_sum: f64::from(job.model[1]) })
    }
}

struct Worker {
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), WorkerError>>,
    trained: Arc<AtomicU32>,
}

impl Worker {
    fn start(coordinator: &Coordinator, dir: &Path) -> Self {
        Self::configured(config(coordinator, dir))
    }

    fn configured(config: Config) -> Self {
        let trained = Arc::new(AtomicU32::new(0));
        let trainer = Box::new(Halving { trained: Arc::clone(&trained) });
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        Self { stop, running: tokio::spawn(run(config, trainer, shutdown)), trained }
    }

    fn trained(&self) -> u32 {
        self.trained.load(Ordering::SeqCst)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

fn config(coordinator: &Coordinator, dir: &Path) -> Config {
    let mut config = Config::new("w1".parse().unwrap());
    config.coordinator.clone_from(&coordinator.address);
    config.state_dir = dir.to_owned();
    config
}

async fn bed() -> (Coordinator, TempDir, Worker, Conversation) {
    let mut coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&coordinator, dir.path());
    let session = coordinator.session().await;
    (coordinator, dir, worker, session)
}

fn spec(algorithm: &str) -> RunSpec {
    let text = format!(
        "name='r'\nrounds=9\n[model]\nkind='flat'\nparameters={LENGTH}\n[data]\nname='d'\n[algorithm]\nkind='{algorithm}'"
    );
    RunSpec::from_toml(&text).unwrap()
}

fn model(scale: f32) -> Vector {
    Arc::new((0..LENGTH).map(|i| scale * (1.0 + i as f32)).collect())
}

/// Round `round` of FedAvg from the model that is held as `w`.
fn assignment(round: u64, w: &v1::VectorRef) -> v1::Assignment {
    v1::Assignment {
        run: "r-1".into(),
        round,
        spec: spec("fedavg").to_json(),
        lr: 0.5,
        committed: None,
        vectors: vec![w.clone()],
        remaining_ms: 60_000,
        clip_norm: None,
    }
}

/// Round `round` of SCAFFOLD, control variate included.
fn scaffold(coordinator: &Coordinator, round: u64, committed: Option<u64>) -> v1::Assignment {
    let w = coordinator.hold(&model(1.0));
    let c = coordinator.hold(&Arc::new(vec![0.25; LENGTH]));
    let c = v1::VectorRef { name: "c".into(), ..c };
    let spec = spec("scaffold").to_json();
    v1::Assignment { spec, committed, vectors: vec![w.clone(), c], ..assignment(round, &w) }
}

/// Waits until the worker has done what it was told: jobs are done in order, and this is one.
async fn idle(session: &mut Conversation, w: &v1::VectorRef) {
    let request = v1::EvaluationRequest {
        run: "r-1".into(),
        round: 0,
        spec: spec("fedavg").to_json(),
        model: Some(w.clone()),
        packed: None,
    };
    session.order(Order::Evaluate(request)).await;
    let Body::Evaluation(report) = session.hear().await else { panic!("no report") };
    assert_eq!((report.predictions, report.correct, report.loss_sum), (LENGTH as u64, 1, 2.0));
}

/// `delta` of halving `w`, as bytes and their digest.
fn halved(w: &Vector) -> (Vec<u8>, Vec<u8>) {
    let delta: Vector = Arc::new(w.iter().map(|w| w * 0.5 - w).collect());
    (bytes_of(&delta).to_vec(), Digest::of_vector(&delta).0.to_vec())
}

#[tokio::test]
async fn an_assignment_becomes_an_upload_and_a_held_model_is_not_fetched_again() {
    let (coordinator, _dir, worker, session) = bed().await;
    let w = model(1.0);
    let held = coordinator.hold(&w);
    session.order(Order::Assignment(assignment(0, &held))).await;
    coordinator.until("the first upload", |book| book.judged.len() == 1).await;
    session.order(Order::Closed(v1::RoundClosed { run: "r-1".into(), round: 0, included: true })).await;
    session.order(Order::Assignment(assignment(1, &held))).await;
    coordinator.until("the second upload", |book| book.judged.len() == 2).await;
    let (bytes, digest) = halved(&w);
    {
        let book = coordinator.book();
        assert!(book.payloads[&digest] == bytes, "other bytes");
        assert_eq!(book.fetches.len(), 1, "the second round's model was held");
        let header = &book.offers[0];
        let facts = (header.examples, header.steps, header.lr, header.train_loss);
        assert_eq!(facts, (7, 2, 0.5, 0.25));
        assert_eq!((header.run.as_str(), header.round, header.worker.as_str()), ("r-1", 0, "w1"));
    }
    assert_eq!(worker.trained(), 2);
    worker.stop().await;
}

#[tokio::test]
async fn the_same_assignment_again_offers_the_same_bytes_without_training() {
    let (coordinator, _dir, worker, mut session) = bed().await;
    let held = coordinator.hold(&model(1.0));
    for _ in 0..3 {
        session.order(Order::Assignment(assignment(0, &held))).await;
        idle(&mut session, &held).await;
    }
    assert_eq!(worker.trained(), 1);
    {
        let book = coordinator.book();
        assert_eq!(book.judged.len(), 3);
        assert!(book.judged.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(book.asked, [0], "sent once");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_lost_connection_costs_neither_the_training_nor_the_bytes_sent() {
    let (mut coordinator, _dir, worker, session) = bed().await;
    let w = model(1.0);
    let held = coordinator.hold(&w);
    coordinator.book().cut_upload.extend([2, 0, 0]);
    session.order(Order::Assignment(assignment(0, &held))).await;
    let (bytes, digest) = halved(&w);
    let half =
        |book: &Book| book.payloads.get(&digest).is_some_and(|payload| payload.len() >= 2 * CHUNK_BYTES);
    coordinator.until("half an upload", half).await;
    session.cut().await;
    let session = coordinator.session().await;
    session.order(Order::Assignment(assignment(0, &held))).await;
    coordinator.until("the rest", |book| book.payloads[&digest] == bytes).await;
    assert_eq!(worker.trained(), 1);
    let asked = coordinator.book().asked.clone();
    assert!(
        asked.len() > 1 && asked[1..].iter().all(|offset| *offset >= 2 * CHUNK_BYTES as u64),
        "{asked:?}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn client_state_survives_a_restart_and_its_loss_is_declined() {
    let mut coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    // Round 0 counts, round 1 does not, so that round 2 starts from the state of round 0.
    for (round, committed) in [(0, None), (1, Some(0)), (2, Some(0))] {
        let worker = Worker::start(&coordinator, dir.path());
        let session = coordinator.session().await;
        session.order(Order::Assignment(scaffold(&coordinator, round, committed))).await;
        coordinator.until("an offer", |book| book.offers.iter().any(|offer| offer.round == round)).await;
        digests.push(coordinator.book().offers.last().unwrap().digest.clone());
        worker.stop().await;
    }
    assert_ne!(digests[0], digests[1], "round 1 trains with the state of round 0");
    assert_eq!(digests[1], digests[2]);
    let other = tempfile::tempdir().unwrap();
    let worker = Worker::start(&coordinator, other.path());
    let mut session = coordinator.session().await;
    session.order(Order::Assignment(scaffold(&coordinator, 3, Some(2)))).await;
    let Body::Decline(decline) = session.hear().await else { panic!("not declined") };
    assert_eq!(decline.reason(), DeclineReason::State);
    assert!(decline.detail.contains("round 2"), "{}", decline.detail);
    assert_eq!(worker.trained(), 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_pending_upload_survives_a_crash_to_the_byte() {
    let mut coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut trained = 0;
    for offers in 1..=2 {
        let worker = Worker::start(&coordinator, dir.path());
        let session = coordinator.session().await;
        session.order(Order::Assignment(scaffold(&coordinator, 0, None))).await;
        coordinator.until("an offer", |book| book.judged.len() == offers).await;
        trained += worker.trained();
        worker.stop().await;
    }
    assert_eq!(trained, 1);
    let book = coordinator.book();
    assert_eq!(book.judged[0], book.judged[1]);
}

#[tokio::test]
async fn a_faulty_update_is_not_sent_again() {
    let (coordinator, _dir, worker, mut session) = bed().await;
    let held = coordinator.hold(&model(1.0));
    let verdict = v1::UploadVerdict {
        outcome: v1::Outcome::Rejected.into(),
        reason: v1::RejectReason::Norm.into(),
        detail: "norm 9, at most 1".into(),
    };
    coordinator.book().verdicts.push_back(verdict);
    session.order(Order::Assignment(assignment(0, &held))).await;
    idle(&mut session, &held).await;
    session.order(Order::Assignment(assignment(0, &held))).await;
    idle(&mut session, &held).await;
    assert_eq!((coordinator.book().offers.len(), worker.trained()), (1, 1));
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_trained_is_declined_and_the_worker_goes_on() {
    let (coordinator, _dir, worker, mut session) = bed().await;
    let held = coordinator.hold(&model(1.0));
    let short = v1::VectorRef { length: 5, ..held.clone() };
    let mut lenet = spec("fedavg");
    lenet.model = ModelSpec::Lenet {};
    let lenet = v1::Assignment { spec: lenet.to_json(), ..assignment(1, &held) };
    let wrong = [
        (assignment(0, &short), DeclineReason::Spec, "5 elements"),
        (lenet, DeclineReason::Model, "flat only"),
        (v1::Assignment { spec: "{}".into(), ..assignment(2, &held) }, DeclineReason::Spec, "missing field"),
        (v1::Assignment { vectors: vec![], ..assignment(3, &held) }, DeclineReason::Spec, "lacks vector `w`"),
        (assignment(BUG, &held), DeclineReason::Training, "the bug"),
    ];
    for (assignment, reason, detail) in wrong {
        session.order(Order::Assignment(assignment)).await;
        let Body::Decline(decline) = session.hear().await else { panic!("not declined") };
        assert_eq!(decline.reason(), reason);
        assert!(decline.detail.contains(detail), "{}", decline.detail);
    }
    session.order(Order::Assignment(assignment(BUG + 1, &held))).await;
    coordinator.until("an offer", |book| book.offers.len() == 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn abandoned_training_stops_and_shutdown_does_not_wait_for_it() {
    let (coordinator, dir, worker, session) = bed().await;
    let held = coordinator.hold(&model(1.0));
    session.order(Order::Assignment(assignment(ENDLESS, &held))).await;
    coordinator.until("the fetch", |book| !book.fetches.is_empty()).await;
    let reason = v1::AbandonReason::Paused.into();
    session.order(Order::Abandon(v1::Abandon { run: "r-1".into(), round: ENDLESS, reason })).await;
    session.order(Order::Assignment(assignment(5, &held))).await;
    coordinator.until("an offer", |book| book.offers.len() == 1).await;
    session.order(Order::Assignment(assignment(ENDLESS + 1, &held))).await;
    let began = Instant::now();
    worker.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    // The lock is gone with the worker.
    States::open(dir.path(), &"w1".parse().unwrap()).unwrap();
}

#[tokio::test]
async fn refusals_are_survived_or_end_the_worker() {
    let mut coordinator = Coordinator::start().await;
    coordinator.book().refusals.extend([ErrorCode::Name, ErrorCode::Draining]);
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&coordinator, dir.path());
    let session = coordinator.session().await;
    coordinator.book().refusals.push_back(ErrorCode::Incompatible);
    session.cut().await;
    let error = worker.running.await.unwrap().unwrap_err();
    assert!(matches!(&error, WorkerError::Refused { detail, .. } if detail.contains("not you")), "{error}");
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The next change of a service's status.
async fn told(changes: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    timeout(Duration::from_secs(20), changes.message()).await.expect("no change").unwrap().unwrap().status()
}

#[tokio::test]
async fn health_follows_the_session_and_the_drain() {
    let mut coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    coordinator.book().refusals.push_back(ErrorCode::Draining);
    let config = Config { health: Some(address), ..config(&coordinator, dir.path()) };
    let worker = Worker::configured(config);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = loop {
        match endpoint.connect().await {
            Ok(channel) => break HealthClient::new(channel),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut changes = client.watch(request("starling.v1.Worker")).await.unwrap().into_inner();
    let mut status = told(&mut changes).await;
    if status == ServingStatus::NotServing {
        status = told(&mut changes).await;
    }
    assert_eq!(status, ServingStatus::Serving);
    for service in ["", "starling.v1.Worker"] {
        let now = client.check(request(service)).await.unwrap().into_inner().status();
        assert_eq!(now, ServingStatus::Serving, "{service}");
    }
    assert_eq!(client.check(request("other")).await.unwrap_err().code(), tonic::Code::NotFound);
    coordinator.session().await.cut().await;
    assert_eq!(told(&mut changes).await, ServingStatus::NotServing);
    assert_eq!(told(&mut changes).await, ServingStatus::Serving, "it came back");
    let held = coordinator.hold(&model(1.0));
    let session = coordinator.session().await;
    session.order(Order::Assignment(assignment(STUBBORN, &held))).await;
    while worker.trained.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    worker.stop.send(()).unwrap();
    assert_eq!(told(&mut changes).await, ServingStatus::NotServing);
    assert!(!worker.running.is_finished(), "a step is being computed");
    let now = client.check(request("")).await.unwrap().into_inner().status();
    assert_eq!(now, ServingStatus::NotServing);
    worker.running.await.unwrap().unwrap();
    let closed = async { while endpoint.connect().await.is_ok() {} };
    timeout(Duration::from_secs(20), closed).await.expect("the port is open still");
}

#[tokio::test]
async fn a_health_address_in_use_ends_the_start() {
    let coordinator = Coordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let worker = Worker::configured(Config { health: Some(address), ..config(&coordinator, dir.path()) });
    let error = worker.running.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("`health`") && error.contains(&address.to_string()), "{error}");
    assert!(error.contains("free port"), "{error}");
}
