//! Somebody with an observer's certificate at a decentralised run: it sees all peers, and whatever else it
//! tries, alone or in a crowd, it is no peer, moves no mass, and is waited for by nobody.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use identity::{Authority, Bundle, Role, Tcp, Validity};
use proto::{peers, spec::RunSpec, v1};
use starling_tests::toy::Bowl;
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use worker::peer::{Config, Ended, Lane, Net};

const RUN: &str = "name='observed'\nmode='decentralised'\nrounds=40\nseed=5\n[model]\nkind='flat'\n\
    parameters=500\n[data]\nname='none'\n[algorithm]\nkind='sgp'\n[evaluation]\nevery=0\n\
    [topology]\nkind='ring'\nnodes=2\nretry_ms=300\nevict_after_s=20.0\n";
const PATIENCE: Duration = Duration::from_mins(1);

fn bundle(authority: &Authority, role: Role, name: &str) -> Bundle {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Bundle::issue(authority, role, name, (&[], Validity::lasting(now, 3_600))).unwrap()
}

struct Honest {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<Ended, worker::WorkerError>>,
}

impl Honest {
    async fn start(dir: &Path, authority: &Authority, name: &str, bootstrap: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = dir.join(format!("{name}.pem"));
        bundle(authority, Role::Peer, name).save(&identity).unwrap();
        let config = Config {
            name: name.parse().unwrap(),
            run: dir.join("run.toml"),
            listen: address,
            advertise: None,
            bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
            identity,
            state_dir: dir.join(name),
            revoked: None,
            ledger_dir: None,
            threads: 1,
            datasets: [].into(),
            share: None,
        };
        let stop = CancellationToken::new();
        let bowl = Bowl { centre: 1.0, pause: Duration::from_millis(30) };
        let spec = RunSpec::from_toml(RUN).unwrap();
        let task = tokio::spawn(worker::peer::run(config, spec, (listener, Box::new(bowl)), stop.clone()));
        Self { address, stop, task }
    }
}

type Client = v1::peers_client::PeersClient<Channel>;

fn client(net: &Net, at: SocketAddr) -> Client {
    net.client(&at.to_string(), Lane::Small).unwrap()
}

async fn status(net: &Net, at: SocketAddr) -> Option<v1::PeerStatusReply> {
    client(net, at).peer_status(v1::PeerStatusRequest {}).await.ok().map(tonic::Response::into_inner)
}

async fn until(
    net: &Net,
    at: SocketAddr,
    wanted: impl Fn(&v1::PeerStatusReply) -> bool,
) -> v1::PeerStatusReply {
    let began = Instant::now();
    loop {
        let found = status(net, at).await;
        if let Some(found) = found.as_ref().filter(|found| wanted(found)) {
            return found.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn refused<T>(answer: Result<T, Status>, what: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{what} is refused"));
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    assert!(status.message().contains("observer `olga`"), "{what}: {status}");
}

/// All that a peer could say, from somebody who is none, in its own name and in another's.
async fn try_everything(net: &Net, to: SocketAddr, run: &[u8], victim: v1::PeerMember) {
    let mut client = client(net, to);
    let own = v1::PeerMember { id: peers::id_of("olga"), incarnation: 1 };
    for from in [own, victim] {
        let question = v1::MeetRequest { run: run.to_vec(), member: Some(from) };
        refused(client.meet(question).await, "a question");
        let rumour = v1::RumourRequest {
            run: run.to_vec(),
            address: "127.0.0.1:1".into(),
            datagram: vec![0x53, 0xb0, 0, 3],
        };
        refused(client.rumour(rumour).await, "a rumour");
        let gone = v1::PeerStanding { member: Some(victim), gone: true, examples: 0 };
        let message = |body| v1::PeerMessage { from: Some(from), to: Some(victim), body: Some(body) };
        for body in [
            v1::peer_message::Body::Leave(v1::PeerLeave {}),
            v1::peer_message::Body::Membership(v1::PeerMembership { standings: vec![gone] }),
        ] {
            let body = Some(v1::tell_request::Body::Message(message(body)));
            refused(client.tell(v1::TellRequest { run: run.to_vec(), body }).await, "a message");
        }
        let report = v1::PeerReport { from: Some(from), ..v1::PeerReport::default() };
        let body = Some(v1::tell_request::Body::Report(report));
        refused(client.tell(v1::TellRequest { run: run.to_vec(), body }).await, "a report");
        let content = Some(v1::peer_transfer::Content::Mass(1 << 48));
        let share = v1::PeerTransfer { seq: 1, content, ..v1::PeerTransfer::default() };
        let header = v1::HandHeader {
            run: run.to_vec(),
            message: Some(message(v1::peer_message::Body::Transfer(share))),
            length: 500,
            digest: vec![0; 32],
        };
        let header = v1::HandRequest { body: Some(v1::hand_request::Body::Header(header)) };
        refused(client.hand(futures::stream::iter([header])).await, "a share");
    }
    refused(client.leave_run(v1::LeaveRunRequest {}).await, "an order");
    refused(client.model(v1::ModelRequest::default()).await, "a wish for the model");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_sees_everything_and_is_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let authority = Authority::create("test", Validity::lasting(now, 3_600)).unwrap();
    let a = Honest::start(dir.path(), &authority, "a", &[]).await;
    let b = Honest::start(dir.path(), &authority, "b", &[a.address]).await;
    let net = Net::new(&bundle(&authority, Role::Observer, "olga"), Arc::new(Tcp)).unwrap();
    let run = RunSpec::from_toml(RUN).unwrap().to_json();
    let run = proto::digest::Digest::of(run.as_bytes()).0.to_vec();

    let found = until(&net, a.address, |status| status.round >= 2).await;
    let victim = found.members.iter().find(|member| member.name == "b").unwrap().member.unwrap();
    assert_eq!(found.members.len(), 2, "{found:?}");
    try_everything(&net, a.address, &run, victim).await;

    // A crowd that never stops to ask, and one that goes away in the middle of an answer.
    let crowd: Vec<_> = (0..24)
        .map(|_| {
            let (net, at) = (net.clone(), [a.address, b.address]);
            tokio::spawn(async move {
                for turn in 0.. {
                    let _ = status(&net, at[turn % 2]).await;
                }
            })
        })
        .collect();
    for _ in 0..50 {
        let gone = tokio::time::timeout(Duration::from_micros(300), status(&net, b.address)).await;
        drop(gone);
    }
    // The run neither waits for an observer nor counts it, nor is its mass another.
    let operator = Net::new(&bundle(&authority, Role::Operator, "anna"), Arc::new(Tcp)).unwrap();
    let sum =
        |ends: &[v1::PeerStatusReply], of: fn(&v1::PeerStatusReply) -> f64| ends.iter().map(of).sum::<f64>();
    let began = Instant::now();
    let ends = loop {
        let mut ends = Vec::new();
        for peer in [&a, &b] {
            ends.push(until(&operator, peer.address, |status| status.phase == "finished").await);
        }
        // The last shares may still be on their way.
        if sum(&ends, |end| end.holding) == 2.0 {
            break ends;
        }
        assert!(began.elapsed() < PATIENCE, "{ends:?}");
        sleep(Duration::from_millis(50)).await;
    };
    crowd.iter().for_each(JoinHandle::abort);
    assert_eq!(sum(&ends, |end| end.account), 2.0, "two peers began with 1 each");
    for end in &ends {
        assert!(end.balanced && end.round == 40 && end.epoch == ends[0].epoch, "{end:?}");
        let names: Vec<&str> = end.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(!names.contains(&"olga") && end.members.iter().all(|member| member.live), "{end:?}");
    }
    // What an observer is told is what an operator is told, at most a moment older.
    let seen = until(&net, a.address, |status| status.phase == "finished").await;
    let operators = status(&operator, a.address).await.unwrap();
    assert_eq!((seen.w, seen.holding, seen.members.len()), (operators.w, operators.holding, 2));
    for peer in [a, b] {
        peer.stop.cancel();
        assert_eq!(peer.task.await.unwrap().unwrap(), Ended::Stopped);
    }
}
