//! The coordinator's page against a real coordinator with real runs: what it tells is what the ledger and the
//! log say, nothing of a stranger's text is taken for markup, and nobody who asks can hold up a round.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use coordinator::store::{Store, StoredEvent};
use identity::{Authority, Bundle, Current, Role, Validity};
use privacy::{Journal, accountants::report};
use proto::{
    event::{Metrics, RunEvent},
    v1,
};
use starling_tests::{
    federation::{Federation, Trainer},
    host::Host,
    http::{Reply, ask, get, over},
    peer::{Judged, Peer, hello},
    toy::Toy,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_mins(1);

const PRIVATE: &str = "name='shown'\nrounds=6\n[model]\nkind='flat'\nparameters=1000\n[data]\nname='digits'\n\
    [cohort]\npopulation=4\nmin_workers=3\ndeadline_s=20\n[privacy]\nunit='client'\nadjacency='zero_out'\n\
    mechanism='central_gaussian'\nclip_norm=0.5\nepsilon=4.0\ndelta=1e-5\nsampling={kind='poisson',rate=0.5}\n";

fn plain(name: &str, rounds: u64) -> String {
    format!(
        "name='{name}'\nrounds={rounds}\n[model]\nkind='flat'\nparameters=100\n[data]\nname='digits'\n\
         [cohort]\nmin_workers=2\nmin_updates=2\n"
    )
}

async fn toys(count: usize, pause_ms: u64) -> Federation {
    let mut federation = Federation::start().await;
    for index in 0..count {
        let toy = Toy { pause: Duration::from_millis(pause_ms), ..Toy::default() };
        federation.add(&format!("w{index}"), Trainer::Toy(toy));
    }
    federation
}

async fn until(page: SocketAddr, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    let began = Instant::now();
    loop {
        let reply = get(page, path).await;
        if wanted(&reply) {
            return reply;
        }
        assert!(began.elapsed() < PATIENCE, "{path}: {reply:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_metrics_and_ledger_tell_the_same_epsilon_and_nobody_who_took_part() {
    let mut federation = toys(4, 0).await;
    let run = federation.operator.submit(PRIVATE).await;
    federation.operator.finished(&run).await;
    let page = federation.coordinator.page;
    let journal = Journal::parse(&federation.operator.ledger("digits").await.unwrap()).unwrap();
    let spent = report::epsilon(journal.ledger(), 1e-5, 1);

    let done = |reply: &Reply| reply.json()["state"] == "finished" && !reply.json()["last"].is_null();
    let told = until(page, &format!("/runs/{run}.json"), done).await.json();
    assert_eq!(told["privacy"]["epsilon"].as_f64(), Some(spent.epsilon), "{told}");
    for (key, want) in [
        ("unit", "client"),
        ("adjacency", "zero_out"),
        ("mechanism", "central_gaussian"),
        ("dataset", "digits"),
        ("accountant", spent.accountant.name()),
    ] {
        assert_eq!(told["privacy"][key], want, "{told}");
    }
    assert_eq!(
        (told["privacy"]["budget"].as_f64(), told["privacy"]["releases"].as_u64()),
        (Some(4.0), Some(6))
    );
    assert_eq!(told["last"]["epsilon"].as_f64(), Some(spent.epsilon), "the line of the last round");
    assert_eq!(told["curve"].as_array().map(Vec::len), Some(6));
    assert!(told["cohort"]["hidden"] == true && told["cohort"]["members"].as_array().unwrap().is_empty());

    let shown = get(page, &format!("/runs/{run}")).await;
    assert_eq!((shown.status, &*shown.headers["content-type"]), (200, "text/html; charset=utf-8"));
    let epsilon = format!("{:.6} of 4", spent.epsilon);
    for want in [&*epsilon, "1e-5", "client", "zero_out", "central_gaussian", "6 of 6", "<svg", "finished"] {
        assert!(shown.body.contains(want), "{want}: {}", shown.body);
    }
    let text = shown.body.replace("www.w3.org", "");
    assert!(!(0..4).any(|index| text.contains(&format!("w{index}"))), "who took part is a secret: {text}");
    assert!(!shown.body.contains("http-equiv=\"refresh\""), "nothing changes any more");

    let metrics = get(page, "/metrics").await;
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"), "{metrics:?}");
    let label = format!("run=\"{run}\"");
    let value = |name: &str| metrics.metric(name, &label);
    assert_eq!(value("starling_epsilon"), Some(spent.epsilon));
    assert_eq!((value("starling_epsilon_budget"), value("starling_delta")), (Some(4.0), Some(1e-5)));
    assert_eq!((value("starling_round"), value("starling_committed")), (Some(5.0), Some(6.0)));
    assert!(metrics.body.ends_with("# EOF\n") && value("starling_events_total") > Some(12.0), "{metrics:?}");
    assert_eq!(metrics.metric("starling_workers", "connected"), Some(4.0));
    assert_eq!(metrics.metric("starling_serving", ""), Some(1.0));
    assert_eq!(metrics.metric("starling_run_state", &format!("{label},state=\"finished\"")), Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_seen_while_it_goes_on() {
    let mut federation = toys(3, 20).await;
    let run = federation.operator.submit(&plain("goes-on", 400)).await;
    federation.operator.committed(&run, 3).await;
    let page = federation.coordinator.page;
    let path = format!("/runs/{run}.json");
    let moving = |reply: &Reply| {
        let told = reply.json();
        told["cohort"]["members"].as_array().is_some_and(|members| members.len() == 3)
            && told["bytes_up"].as_u64() > Some(0)
    };
    let told = until(page, &path, moving).await.json();
    assert_eq!(told["state"], "running");
    // The sums are those of the lines, once nothing moves.
    federation.operator.control(&run, v1::RunCommand::Cancel).await;
    let told = until(page, &path, |reply| reply.json()["state"] == "cancelled").await.json();
    let lines = federation.operator.metrics(&run).await;
    let sum = |of: fn(&Metrics) -> u64| lines.iter().map(of).sum::<u64>();
    assert_eq!(told["bytes_up"], sum(|line| line.bytes_up));
    assert_eq!(told["bytes_down"], sum(|line| line.bytes_down));
    assert_eq!(told["last"], serde_json::to_value(lines.last()).unwrap());

    let overview = get(page, "/").await;
    for want in [&*run, "cancelled", "3 online of 3 known", "0 quarantined", "serving", "/metrics"] {
        assert!(overview.body.contains(want), "{want}: {}", overview.body);
    }
    assert!(overview.body.contains("http-equiv=\"refresh\""));
    let all = get(page, "/runs.json").await.json();
    assert_eq!((&all["runs"][0]["id"], &all["pages"]), (&run.clone().into(), &1.into()));

    // The log in parts, as `run watch --json` prints it.
    let watched = federation.operator.watch(&run, RunEvent::is_last).await;
    let log = get(page, &format!("/runs/{run}/log.json?from=1")).await.json();
    assert_eq!(log["events"], watched.len());
    let first = &log["log"][0];
    assert_eq!((&first["sequence"], first["event"].as_str().is_some()), (&1.into(), true), "{first}");
    assert!(log["log"].as_array().unwrap().len() <= 50);
    let newest = get(page, &format!("/runs/{run}/log")).await;
    assert!(newest.body.contains("cancelled"), "{}", newest.body);
    assert_eq!(newest.body.contains(">older<"), watched.len() > 50);
    assert_eq!(get(page, &format!("/runs/{run}/log?from=99999999")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_and_what_may_not_be_asked_is_said() {
    let federation = Federation::start().await;
    let page = federation.coordinator.page;
    for path in
        ["/nothing", "/runs/none-1", "/runs/none-1.json", "/runs/none-1/log", "/runs/", "/runs/a/b", "/.."]
    {
        let reply = get(page, path).await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
    }
    let odd = get(page, "/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    assert!(
        odd.status == 404 && odd.body.contains("&lt;script&gt;") && !odd.body.contains("<script"),
        "{odd:?}"
    );
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/metrics", "/runs.json", "/workers"] {
            let reply = ask(page, method, path, "localhost").await;
            assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
            assert!(reply.headers["allow"].contains("GET"), "{reply:?}");
        }
    }
    let head = ask(page, "HEAD", "/", "localhost:8080").await;
    assert!(head.status == 200 && head.body.is_empty(), "{head:?}");
    for path in ["/?page=0", "/?page=999999999", "/?page=x", "/workers?page=18446744073709551615"] {
        assert_eq!(get(page, path).await.status, 200, "{path}");
    }
    // A web site whose name was made to resolve to here.
    for host in ["evil.example", "evil.example:8080", ""] {
        assert_eq!(ask(page, "GET", "/", host).await.status, 421, "{host}");
    }
    for host in ["127.0.0.1", "[::1]:8080", "[::1]", "LOCALHOST"] {
        assert_eq!(ask(page, "GET", "/", host).await.status, 200, "{host}");
    }
    let reply = get(page, "/").await;
    for (name, want) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        assert!(reply.headers[name].starts_with(want), "{reply:?}");
    }
    assert_eq!(get(page, "/health.json").await.json()["serving"], true);
    let rude = over(TcpStream::connect(page).await.unwrap(), "nonsense\r\n\r\n").await;
    assert_eq!(rude.status, 400, "{rude:?}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    let stream = TcpStream::connect(page).await.unwrap();
    // Refused while it is being sent: the answer, or the end of the connection.
    let (mut reader, mut writer) = stream.into_split();
    let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, long.as_bytes()).await;
    let mut said = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
    assert_eq!(get(page, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_write_is_text() {
    let mut federation = Federation::start().await;
    let page = federation.coordinator.page;
    let said = |name: &str| match hello(name) {
        v1::worker_message::Body::Hello(hello) => v1::worker_message::Body::Hello(v1::Hello {
            program: "<script>alert('program')</script>".into(),
            ..hello
        }),
        other => other,
    };
    let mut liar = Peer::open(federation.coordinator.address, "liar", said("liar")).await;
    liar.next().await.unwrap();
    federation.add("w1", Trainer::Toy(Toy::default()));
    let run = federation.operator.submit(&plain("lies", 1)).await;
    let assignment = liar.assignment().await;
    let update = liar.update(&assignment, &[f32::NAN; 100]);
    assert_eq!(liar.send(update).await.0, Judged::Rejected(v1::RejectReason::NotFinite));

    let counted = |reply: &Reply| reply.json()["rejections"][0]["count"] == 1;
    let told = until(page, &format!("/runs/{run}.json"), counted).await.json();
    assert_eq!(told["rejections"][0]["reason"], v1::RejectReason::NotFinite.label());
    let metrics = get(page, "/metrics").await;
    assert_eq!(metrics.metric("starling_rejected_total", &format!("run=\"{run}\",reason=")), Some(1.0));
    for path in ["/workers", "/", &format!("/runs/{run}"), &format!("/runs/{run}/log")] {
        let reply = get(page, path).await;
        assert!(reply.status == 200 && !reply.body.contains("<script"), "{path}: {}", reply.body);
    }
    let workers = get(page, "/workers").await;
    assert!(workers.body.contains("&lt;script&gt;alert('program')"), "{}", workers.body);
    let workers = get(page, "/workers.json").await.json();
    assert_eq!((&workers["known"], &workers["connected"]), (&2.into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_logs_are_read_in_parts() {
    const MANY: u64 = 45_000;
    let mut federation = toys(2, 0).await;
    let run = federation.operator.submit(&plain("long", 2)).await;
    federation.operator.finished(&run).await;
    let name = run.clone();
    let federation = federation
        .restart_coordinator_after(move |dir| {
            let store = Store::open(dir).unwrap();
            let line = store.last_metrics(&name, 1).unwrap().remove(0);
            let first = store.next_sequence(&name).unwrap();
            let cohort: Vec<String> = (0..1_000).map(|index| format!("<script>{index}")).collect();
            for start in (0..MANY).step_by(5_000) {
                let events: Vec<StoredEvent> = (start..start + 5_000)
                    .map(|at| {
                        let cohort = if at.is_multiple_of(100) { cohort.clone() } else { Vec::new() };
                        let event = RunEvent::RoundOpened { round: at, cohort, deadline_s: 1 };
                        StoredEvent { sequence: first + at, time_ms: at, event }
                    })
                    .collect();
                store.append(&name, &events, None).unwrap();
            }
            for round in 2..MANY {
                let line = Metrics { round, bytes_up: 1, bytes_down: 2, ..line.clone() };
                store.append(&name, &[], Some(&line)).unwrap();
            }
            let record = store.runs().unwrap().remove(0);
            store.save(&record, &[], None).unwrap();
        })
        .await;
    let page = federation.coordinator.page;
    let path = format!("/runs/{run}.json");
    let whole = |reply: &Reply| reply.json()["last"]["round"] == MANY - 1;
    let told = until(page, &path, whole).await;
    let curve = told.json()["curve"].as_array().unwrap().len();
    assert!((128..=256).contains(&curve), "{curve}");
    assert!(told.json()["events"].as_u64() > Some(MANY));
    for path in [&*path, &format!("/runs/{run}"), &format!("/runs/{run}/log?from=100"), "/", "/metrics"] {
        let reply = get(page, path).await;
        assert!(reply.status == 200 && reply.body.len() < 300_000, "{path}: {}", reply.body.len());
        assert!(!reply.body.contains("<script") || path.ends_with("json"), "{path}");
    }
    let old = get(page, &format!("/runs/{run}/log.json?from=500")).await.json();
    assert!(old["log"].as_array().unwrap().len() == 50, "{old}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_the_page_holds_up_no_round() {
    let mut federation = toys(2, 0).await;
    let page = federation.coordinator.page;
    // Those who connect and say nothing, and those who never stop asking.
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(page).await.unwrap());
    }
    let crowd: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    for path in ["/", "/metrics", "/runs.json", "/workers"] {
                        get(page, path).await;
                    }
                }
            })
        })
        .collect();
    let run = federation.operator.submit(&plain("crowded", 30)).await;
    federation.operator.finished(&run).await;
    // Whoever says nothing loses its place.
    let told = until(page, &format!("/runs/{run}.json"), |reply| reply.json()["state"] == "finished").await;
    assert_eq!(told.json()["committed"], 30);
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

struct Site {
    page: SocketAddr,
    authority: Authority,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", Validity::lasting(now(), 3_600)).unwrap();
        let file = dir.path().join("authority.pem");
        authority.save(&file).unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let config = coordinator::Config {
            data_dir: dir.path().join("data"),
            tls: Some(coordinator::Tls::new(file)),
            page: Some(coordinator::Page { listen, tls: true, insecure: false }),
            ..coordinator::Config::default()
        };
        let page = coordinator::bind_page(&config).await.unwrap().unwrap();
        let at = page.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        tokio::spawn(coordinator::serve_with_page(config, Arc::new(Host), (listener, Some(page)), shutdown));
        Self { page: at, authority, stop, _dir: dir }
    }

    /// Asks as the holder of a certificate.
    async fn get(&self, role: Role, name: &str, path: &str) -> Reply {
        let validity = Validity::lasting(now(), 3_600);
        let bundle = Bundle::issue(&self.authority, role, name, (&[], validity)).unwrap();
        let client = identity::client(Current::new(&bundle).unwrap(), self.authority.certificate()).unwrap();
        let mut client = (*client).clone();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.page).await.unwrap();
        let server = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(client)).connect(server, stream).await.unwrap();
        over(stream, &format!("GET {path} HTTP/1.1\r\nHost: somewhere\r\n\r\n")).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_only_operators_and_observers_read() {
    let site = Site::start().await;
    for role in [Role::Operator, Role::Observer] {
        let reply = site.get(role, "anna", "/").await;
        assert!(reply.status == 200 && reply.body.contains("serving"), "{role}: {reply:?}");
    }
    for role in [Role::Worker, Role::Peer] {
        let reply = site.get(role, "anna", "/metrics").await;
        assert!(
            reply.status == 403 && reply.body.contains("for operators and observers"),
            "{role}: {reply:?}"
        );
    }
    // In clear there is nothing to read.
    let mut stream = TcpStream::connect(site.page).await.unwrap();
    let _ =
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    site.stop.cancel();
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let with = |listen: SocketAddr, tls, insecure| coordinator::Config {
        page: Some(coordinator::Page { listen, tls, insecure }),
        ..coordinator::Config::default()
    };
    for (config, wants) in [
        (with(taken.local_addr().unwrap(), false, false), ["page.listen", "--page"]),
        (with(([0, 0, 0, 0], 0).into(), false, false), ["page.listen", "page.insecure = true"]),
        (with(([127, 0, 0, 1], 0).into(), true, false), ["page.tls", "[tls]"]),
    ] {
        let error = coordinator::bind_page(&config).await.unwrap_err().to_string();
        assert!(wants.iter().all(|want| error.contains(want)), "{error}");
    }
    assert!(coordinator::bind_page(&with(([0, 0, 0, 0], 0).into(), false, true)).await.unwrap().is_some());
    assert!(coordinator::bind_page(&coordinator::Config::default()).await.unwrap().is_none());
}
