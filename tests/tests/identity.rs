//! Strangers, impostors and those who were let go: each meets the coordinator over TLS, is refused for
//! the reason that is true, and the run goes on without noticing.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use coordinator::access::audit::{Entry, digest};
use identity::{Authority, Bundle, Role, SigningRequest, Tcp, Token, Validity};
use proto::{
    limits,
    v1::{
        self, ErrorCode, access_client::AccessClient, coordinator_message::Body,
        operator_client::OperatorClient,
    },
};
use starling_tests::{
    host::Host,
    peer::{Peer, hello},
    toy::Toy,
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use worker::access::{Route, enrol};

const DAY: u64 = 24 * 3600;
/// What must come comes within this time.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A coordinator with an authority; stops when dropped.
struct Site {
    address: SocketAddr,
    authority: Authority,
    dir: TempDir,
    stop: CancellationToken,
    task: JoinHandle<Result<(), coordinator::ServeError>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl Site {
    async fn start(authority_s: u64, change: impl FnOnce(&mut coordinator::Tls)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", Validity::lasting(now(), authority_s)).unwrap();
        let file = dir.path().join("authority.pem");
        authority.save(&file).unwrap();
        let mut tls = coordinator::Tls::new(file);
        change(&mut tls);
        let data_dir = dir.path().join("data");
        let config = coordinator::Config { data_dir, tls: Some(tls), ..coordinator::Config::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = coordinator::serve(config, Arc::new(Host), listener, stop.clone().cancelled_owned());
        Self { address, authority, dir, stop, task: tokio::spawn(serving) }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, role: Role, name: &str) -> Bundle {
        Bundle::issue(&self.authority, role, name, (&[], Validity::lasting(now(), DAY))).unwrap()
    }

    async fn channel(&self, bundle: &Bundle) -> Channel {
        let (route, _) = Route::known(&self.url(), Arc::new(Tcp), bundle).unwrap();
        route.endpoint().unwrap().connect_with_connector(route.connector()).await.unwrap()
    }

    /// Without a certificate.
    async fn anonymous(&self) -> Channel {
        let route = Route::newcomer(&self.url(), Arc::new(Tcp), self.authority.fingerprint()).unwrap();
        route.endpoint().unwrap().connect_with_connector(route.connector()).await.unwrap()
    }

    async fn admin(&self) -> Client {
        Client::new(self.channel(&self.issue(Role::Operator, "admin")).await)
    }
}

/// Every unary client on one connection.
struct Client {
    operator: OperatorClient<Channel>,
    access: AccessClient<Channel>,
}

impl Client {
    fn new(channel: Channel) -> Self {
        Self { operator: OperatorClient::new(channel.clone()), access: AccessClient::new(channel) }
    }

    async fn runs(&mut self) -> Result<Vec<v1::RunSummary>, Status> {
        self.operator.list_runs(v1::ListRunsRequest {}).await.map(|reply| reply.into_inner().runs)
    }

    async fn submit(&mut self, rounds: u32) -> Result<v1::RunSummary, Status> {
        let spec = format!(
            "name='a'\nrounds={rounds}\n[model]\nkind='flat'\nparameters=10\n[data]\nname='digits'\n\
             [evaluation]\nevery=0\n"
        );
        self.operator.submit_run(v1::SubmitRunRequest { spec }).await.map(tonic::Response::into_inner)
    }

    async fn token(&mut self, role: v1::Role, name: &str, valid_s: u64) -> Token {
        let request = v1::CreateTokenRequest { role: role.into(), name: name.into(), valid_s };
        self.access.create_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    async fn revoke(&mut self, name: &str) -> v1::IdentitySummary {
        let request = v1::RevokeIdentityRequest { role: v1::Role::Worker.into(), name: name.into() };
        self.access.revoke_identity(request).await.unwrap().into_inner()
    }

    async fn audit(&mut self) -> Vec<Entry> {
        let mut entries =
            self.access.read_audit(v1::ReadAuditRequest { from: 0 }).await.unwrap().into_inner();
        let mut all: Vec<Entry> = Vec::new();
        let mut before = String::new();
        while let Some(line) = entries.message().await.unwrap() {
            let entry: Entry = serde_json::from_str(&line.body).unwrap();
            assert_eq!((entry.previous.as_str(), digest(&line.body)), (before.as_str(), line.digest.clone()));
            before = line.digest;
            all.push(entry);
        }
        all
    }
}

fn refused<T>(result: Result<T, Status>, code: Code, want: &str) {
    let status = result.err().expect("it is refused");
    assert!(status.code() == code && status.message().contains(want), "{status:?}, expected {code:?} {want}");
}

#[tokio::test]
async fn nobody_is_answered_without_a_certificate_but_about_health() {
    let site = Site::start(DAY, |_| {}).await;
    let channel = site.anonymous().await;
    let mut client = Client::new(channel.clone());
    let want = "needs a certificate";
    refused(client.runs().await, Code::Unauthenticated, want);
    refused(client.submit(1).await, Code::Unauthenticated, want);
    let token = v1::CreateTokenRequest { role: 1, name: String::new(), valid_s: 9 };
    refused(client.access.create_token(token).await, Code::Unauthenticated, want);
    let renewal = v1::RenewRequest { request: Vec::new() };
    refused(client.access.renew(renewal).await, Code::Unauthenticated, want);
    refused(Peer::over(channel.clone(), "w", hello("w")).await, Code::Unauthenticated, want);
    let mut health = HealthClient::new(channel);
    for service in ["", "starling.v1.Fleet", "starling.v1.Operator", "starling.v1.Access"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service}");
    }
}

#[tokio::test]
async fn a_role_is_what_its_holder_may_do() {
    let site = Site::start(DAY, |_| {}).await;
    let worker = site.channel(&site.issue(Role::Worker, "w")).await;
    let mut client = Client::new(worker.clone());
    refused(client.runs().await, Code::PermissionDenied, "worker `w` may not do this");
    refused(client.submit(1).await, Code::PermissionDenied, "it is for: operator");
    let mut observer = Client::new(site.channel(&site.issue(Role::Observer, "o")).await);
    assert_eq!(observer.runs().await.unwrap().len(), 0);
    refused(observer.submit(1).await, Code::PermissionDenied, "observer `o`");
    let operator = site.channel(&site.issue(Role::Operator, "p")).await;
    refused(Peer::over(operator.clone(), "w", hello("w")).await, Code::PermissionDenied, "it is for: worker");
    let mut admin = Client::new(operator);
    admin.submit(1).await.unwrap();

    // A worker is one worker: neither its greeting nor its uploads may name another.
    let mut posing = Peer::over(worker.clone(), "other", hello("other")).await.unwrap();
    match posing.next().await {
        Ok(Body::Refusal(refusal)) => {
            assert_eq!(refusal.code(), ErrorCode::Forbidden);
            assert!(
                refusal.detail.contains("worker `w`") && refusal.detail.contains("`other`"),
                "{refusal:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut honest = Peer::over(worker, "w", hello("w")).await.unwrap();
    assert!(matches!(honest.next().await, Ok(Body::Welcome(_))));
    let header =
        v1::UploadHeader { run: "a-1".into(), worker: "other".into(), ..v1::UploadHeader::default() };
    let first = v1::UploadRequest { body: Some(v1::upload_request::Body::Header(header)) };
    let mut replies = honest.fleet.upload(tokio_stream::iter([first])).await.unwrap().into_inner();
    refused(replies.message().await, Code::PermissionDenied, "`other`");

    let denied: Vec<Entry> =
        admin.audit().await.into_iter().filter(|entry| entry.outcome.contains("may not")).collect();
    assert!(denied.iter().any(|entry| entry.who == "worker w" && entry.subject.ends_with("SubmitRun")));
}

#[tokio::test]
async fn a_token_lets_one_machine_join_once() {
    let site = Site::start(DAY, |_| {}).await;
    let mut admin = site.admin().await;
    let join = |token: &Token, name: &str, file: &str| {
        let (token, name, file, url) = (token.clone(), name.to_owned(), site.file(file), site.url());
        async move { enrol(&url, Arc::new(Tcp), (&token, &name), &file).await }
    };
    let token = admin.token(v1::Role::Worker, "w1", 60).await;
    refused(join(&token, "another", "a.pem").await, Code::PermissionDenied, "the token is for worker `w1`");
    let joined = join(&token, "w1", "w1.pem").await.unwrap();
    assert_eq!(joined.identity().to_string(), "worker `w1`");
    refused(join(&token, "w1", "b.pem").await, Code::Unauthenticated, "used already");
    let mut forged = Token::create(site.authority.fingerprint());
    refused(join(&forged, "w2", "c.pem").await, Code::Unauthenticated, "not known");
    let text = token.text();
    let (head, tail) = text.rsplit_once('.').unwrap();
    let last = if head.ends_with('0') { '1' } else { '0' };
    forged = format!("{}{last}.{tail}", &head[..head.len() - 1]).parse().unwrap();
    refused(join(&forged, "w1", "d.pem").await, Code::Unauthenticated, "not known");
    let short = admin.token(v1::Role::Worker, "w3", 1).await;
    sleep(Duration::from_millis(2_100)).await;
    refused(join(&short, "w3", "e.pem").await, Code::Unauthenticated, "has expired");
    let free = admin.token(v1::Role::Worker, "", 60).await;
    refused(join(&free, "w1", "f.pem").await, Code::AlreadyExists, "has a certificate already");
    refused(join(&free, "../w", "f.pem").await, Code::InvalidArgument, "not a valid");
    join(&free, "w4", "f.pem").await.unwrap();

    // The answer got lost: the same key asks again, and is answered.
    let lost = admin.token(v1::Role::Observer, "o", 60).await;
    let file = site.file("o.pem");
    let request = SigningRequest::open(&file).unwrap().der().unwrap();
    let asked = v1::EnrolRequest {
        token_id: lost.id(),
        secret: lost.secret().to_vec(),
        request,
        name: String::new(),
    };
    AccessClient::new(site.anonymous().await).enrol(asked).await.unwrap();
    let bundle = join(&lost, "", "o.pem").await.unwrap();
    assert_eq!(Client::new(site.channel(&bundle).await).runs().await.unwrap().len(), 0);

    let listed = admin.access.list_identities(v1::ListIdentitiesRequest {}).await.unwrap().into_inner();
    let names: Vec<&str> = listed.identities.iter().map(|holder| holder.name.as_str()).collect();
    assert_eq!(names, ["w1", "w4", "o"]);
    assert_eq!(listed.tokens.len(), 0, "used and expired ones are not shown");
    let outcomes: Vec<String> = admin.audit().await.into_iter().map(|entry| entry.outcome).collect();
    assert!(outcomes.iter().any(|outcome| outcome.contains("used already")), "{outcomes:?}");
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let site = Site::start(DAY, |tls| tls.enrolments_per_minute = 3).await;
    let mut client = AccessClient::new(site.anonymous().await);
    let file = site.file("x.pem");
    let request = SigningRequest::open(&file).unwrap().der().unwrap();
    let guess = v1::EnrolRequest { token_id: "0".repeat(16), secret: vec![0; 16], request, name: "w".into() };
    for _ in 0..3 {
        refused(client.enrol(guess.clone()).await, Code::Unauthenticated, "not known");
    }
    refused(client.enrol(guess.clone()).await, Code::ResourceExhausted, "enrolments_per_minute");
    let huge = v1::EnrolRequest { request: vec![0; 100_000], ..guess };
    refused(client.enrol(huge).await, Code::ResourceExhausted, "enrolments_per_minute");
}

#[tokio::test]
async fn a_revocation_ends_live_streams_and_the_next_attempts() {
    let site = Site::start(DAY, |_| {}).await;
    let mut admin = site.admin().await;
    let bundle = site.issue(Role::Worker, "w");
    let mut peer = Peer::over(site.channel(&bundle).await, "w", hello("w")).await.unwrap();
    assert!(matches!(peer.next().await, Ok(Body::Welcome(_))));
    let began = Instant::now();
    assert_eq!(admin.revoke("w").await.connections, 1);
    peer.next().await.expect_err("the stream is ended");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let again = Peer::over(site.channel(&bundle).await, "w", hello("w")).await;
    refused(again, Code::Unauthenticated, "was revoked");
    let mut access = AccessClient::new(site.channel(&bundle).await);
    let request = SigningRequest::open(&site.file("w.pem")).unwrap().der().unwrap();
    refused(access.renew(v1::RenewRequest { request }).await, Code::Unauthenticated, "was revoked");
    // With a new token the machine may come back, under its name.
    let token = admin.token(v1::Role::Worker, "w", 60).await;
    let back = enrol(&site.url(), Arc::new(Tcp), (&token, "w"), &site.file("back.pem")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut peer = Peer::over(site.channel(&back).await, "w", hello("w")).await.unwrap();
    assert!(matches!(peer.next().await, Ok(Body::Welcome(_))));
}

#[tokio::test]
async fn ended_and_foreign_certificates_are_refused_by_name() {
    let site = Site::start(DAY, |_| {}).await;
    let other = Authority::create("other", Validity::lasting(now(), DAY)).unwrap();
    let past = Validity { from: now() - 100, until: now() - 10 };
    let expired = Bundle::issue(&site.authority, Role::Operator, "late", (&[], past)).unwrap();
    let trusting = Bundle::issue(&other, Role::Operator, "mallory", (&[], Validity::lasting(now(), DAY)));
    // It knows the right authority, and shows a certificate of another.
    let tls =
        identity::client(identity::Current::new(&trusting.unwrap()).unwrap(), site.authority.certificate());
    let foreign = identity::Connector::new(Arc::new(Tcp), Some(tls.unwrap()));
    let (late, _) = Route::known(&site.url(), Arc::new(Tcp), &expired).unwrap();
    for (connector, want) in
        [(late.connector(), &["CertificateExpired"][..]), (foreign, &["UnknownCA", "DecryptError"])]
    {
        let endpoint = late.endpoint().unwrap();
        let error = match endpoint.connect_with_connector(connector).await {
            Err(error) => chain(&error),
            Ok(channel) => chain(&Client::new(channel).runs().await.unwrap_err()),
        };
        assert!(want.iter().any(|want| error.contains(want)), "{error}, expected {want:?}");
    }
    assert_eq!(site.admin().await.runs().await.unwrap().len(), 0, "it serves on");
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(format!("{error:?}"), |text, cause| format!("{text}: {cause:?}"))
}

/// Also: workers enrol by themselves, train over TLS, and live longer than their certificates.
#[tokio::test]
async fn certificates_are_renewed_before_they_end() {
    let site = Site::start(DAY, |tls| tls.certificate_s = 3).await;
    let mut admin = site.admin().await;
    let mut config = worker::Config::new("w".parse().unwrap());
    config.coordinator = site.url();
    config.state_dir = site.file("w");
    config.datasets.insert("digits".into(), starling_tests::host::digits());
    config.token = Some(admin.token(v1::Role::Worker, "w", 60).await);
    let pause = Duration::from_millis(400);
    let toy = Toy { pause, ..Toy::default() };
    let task = tokio::spawn(worker::run(config.clone(), Box::new(toy), std::future::pending()));
    let run = admin.submit(20).await.unwrap().id;
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    loop {
        let run = admin.operator.show_run(v1::RunRequest { run: run.clone() }).await.unwrap().into_inner();
        let summary = run.summary.unwrap();
        if summary.state() == v1::RunState::Finished {
            break;
        }
        assert!(!task.is_finished() && Instant::now() < deadline, "{summary:?}");
        sleep(Duration::from_millis(50)).await;
    }
    let renewals = admin.audit().await.iter().filter(|entry| entry.subject == "worker `w`").count();
    assert!(renewals >= 2, "20 rounds of 0.4 s took more than two certificates of 3 s, {renewals} renewals");
    let held = Bundle::load(&config.identity_file()).unwrap().unwrap();
    assert!(held.identity().not_after > now());
    task.abort();
    // The coordinator's own first certificate has ended long ago, too.
    assert_eq!(
        Client::new(site.channel(&site.issue(Role::Observer, "o")).await).runs().await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn health_tells_when_the_authority_has_ended() {
    let site = Site::start(3, |tls| tls.certificate_s = 2).await;
    let mut health = HealthClient::new(site.anonymous().await);
    let request = HealthCheckRequest { service: "starling.v1.Fleet".into() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().status, 1, "serving");
    let next = tokio::time::timeout(PATIENCE, states.message()).await.expect("it changes in time");
    assert_eq!(next.unwrap().unwrap().status, 2, "not serving");
}

#[tokio::test]
async fn health_tells_of_a_drain_before_the_connection_ends() {
    let mut site = Site::start(DAY, |_| {}).await;
    let mut health = HealthClient::new(site.anonymous().await);
    let request = HealthCheckRequest { service: String::new() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().status, 1, "serving");
    site.stop.cancel();
    let next = tokio::time::timeout(PATIENCE, states.message()).await.expect("it changes in time");
    assert_eq!(next.unwrap().unwrap().status, 2, "not serving");
    drop((states, health));
    let stopped = tokio::time::timeout(PATIENCE, &mut site.task).await.expect("it stops in time");
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn noise_is_answered_with_an_alert_and_hung_up_on() {
    let site = Site::start(DAY, |_| {}).await;
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 600], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("it hangs up").unwrap();
        // A TLS record of type alert (RFC 8446, 6), fatal, with its reason.
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?}");
    }
    assert_eq!(site.admin().await.runs().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_flood_of_connections_keeps_nobody_out() {
    let site = Site::start(DAY, |_| {}).await;
    let mut admin = site.admin().await;
    // None of them says a word; more than may shake hands at the same time.
    let mut flood = Vec::new();
    for _ in 0..limits::HANDSHAKES + 100 {
        flood.push(TcpStream::connect(site.address).await.unwrap());
    }
    assert_eq!(admin.runs().await.unwrap().len(), 0, "who is there is served");
    let began = Instant::now();
    let bundle = site.issue(Role::Worker, "w");
    let channel = loop {
        let (route, _) = Route::known(&site.url(), Arc::new(Tcp), &bundle).unwrap();
        match route.endpoint().unwrap().connect_with_connector(route.connector()).await {
            Ok(channel) => break channel,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    };
    let mut peer = Peer::over(channel, "w", hello("w")).await.unwrap();
    assert!(matches!(peer.next().await, Ok(Body::Welcome(_))));
    assert!(began.elapsed() < limits::HANDSHAKE * 3, "{:?}", began.elapsed());
    // Those that showed no certificate and ask for nothing hold few places.
    let mut quiet = Vec::new();
    for _ in 0..limits::CONNECTIONS_ANONYMOUS * 2 {
        let route = Route::newcomer(&site.url(), Arc::new(Tcp), site.authority.fingerprint()).unwrap();
        quiet.push(route.endpoint().unwrap().connect_with_connector(route.connector()).await);
    }
    assert_eq!(admin.runs().await.unwrap().len(), 0);
    assert_eq!(site.admin().await.runs().await.unwrap().len(), 0);
    drop((flood, quiet));
}
