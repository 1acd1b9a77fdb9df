//! A peer with a certificate of its own that speaks in another's name: it is refused, by name, whatever it
//! says; what it says of third peers moves nobody; and the run goes on.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use identity::{Authority, Tcp, Validity};
use proto::{peers, spec::RunSpec, v1};
use starling_tests::honest::{Honest, bundle};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, time::sleep};
use tonic::{Code, Status, transport::Channel};
use worker::peer::{Ended, Lane, Net};

const RUN: &str = "name='impostors'\nmode='decentralised'\nrounds=60\nseed=5\n[model]\nkind='flat'\n\
    parameters=500\n[data]\nname='none'\n[algorithm]\nkind='sgp'\n[evaluation]\nevery=0\n\
    [topology]\nkind='ring'\nnodes=2\nretry_ms=300\nevict_after_s=10.0\n";
const PATIENCE: Duration = Duration::from_mins(1);

/// Somebody of the run who lies.
struct Liar {
    net: Net,
    run: Vec<u8>,
}

type Client = v1::peers_client::PeersClient<Channel>;

impl Liar {
    fn client(&self, at: SocketAddr) -> Client {
        self.net.client(&at.to_string(), Lane::Small).unwrap()
    }

    async fn status(&self, at: SocketAddr) -> Option<v1::PeerStatusReply> {
        self.client(at).peer_status(v1::PeerStatusRequest {}).await.ok().map(tonic::Response::into_inner)
    }

    /// Asks until the answer is as wanted.
    async fn until(
        &self,
        at: SocketAddr,
        wanted: impl Fn(&v1::PeerStatusReply) -> bool,
    ) -> v1::PeerStatusReply {
        let began = Instant::now();
        loop {
            let status = self.status(at).await;
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{status:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A rumour as chitchat writes it, that tells of peers by name, generation and address.
    async fn rumour(
        &self,
        to: SocketAddr,
        answer: SocketAddr,
        of: &[(&str, u64, SocketAddr)],
    ) -> Result<(), Status> {
        let mut datagram = 45_139_u16.to_le_bytes().to_vec();
        datagram.extend([0, 0]);
        datagram.extend((of.len() as u16).to_le_bytes());
        for (name, generation, address) in of {
            let SocketAddr::V4(address) = address else { panic!("loopback") };
            datagram.extend((name.len() as u16).to_le_bytes());
            datagram.extend(name.as_bytes());
            datagram.extend(generation.to_le_bytes());
            datagram.push(4);
            datagram.extend(address.ip().octets());
            datagram.extend(address.port().to_le_bytes());
            // The heartbeat is now, so that it is news each time.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            for number in [now, 0, 0] {
                datagram.extend(number.to_le_bytes());
            }
        }
        let cluster = proto::digest::Digest(self.run.as_slice().try_into().unwrap()).to_string();
        datagram.extend((cluster.len() as u16).to_le_bytes());
        datagram.extend(cluster.as_bytes());
        let request = v1::RumourRequest { run: self.run.clone(), address: answer.to_string(), datagram };
        self.client(to).rumour(request).await.map(drop)
    }
}

fn refused(answer: Result<(), Status>, what: &str) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    assert!(status.message().contains("peer `mallory`"), "{what}: {status}");
}

/// Everything that has a sender, in the name of another.
async fn speak_as(liar: &Liar, to: SocketAddr, victim: v1::PeerMember, me: v1::PeerMember) {
    let run = || liar.run.clone();
    let mut client = liar.client(to);
    let question = v1::MeetRequest { run: run(), member: Some(victim) };
    refused(client.meet(question).await.map(drop), "a question");
    let message = |body| v1::PeerMessage { from: Some(victim), to: Some(me), body: Some(body) };
    for body in [
        v1::peer_message::Body::Leave(v1::PeerLeave {}),
        v1::peer_message::Body::Membership(v1::PeerMembership {
            standings: vec![v1::PeerStanding { member: Some(victim), gone: true }],
        }),
    ] {
        let body = Some(v1::tell_request::Body::Message(message(body)));
        refused(client.tell(v1::TellRequest { run: run(), body }).await.map(drop), "a message");
    }
    let report = v1::PeerReport { from: Some(victim), ..v1::PeerReport::default() };
    let body = Some(v1::tell_request::Body::Report(report));
    refused(client.tell(v1::TellRequest { run: run(), body }).await.map(drop), "a report");
    let content = Some(v1::peer_transfer::Content::Mass(1 << 40));
    let share = v1::PeerTransfer { seq: 1_000, content, ..v1::PeerTransfer::default() };
    let header = v1::HandHeader {
        run: run(),
        message: Some(message(v1::peer_message::Body::Transfer(share))),
        length: 500,
        digest: vec![0; 32],
    };
    let header = v1::HandRequest { body: Some(v1::hand_request::Body::Header(header)) };
    let mut replies = client.hand(futures::stream::iter([header])).await.unwrap().into_inner();
    refused(replies.message().await.map(drop), "a share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_in_the_name_of_another_peer() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let authority = Authority::create("test", Validity::lasting(now, 3600)).unwrap();
    let a = Honest::start(RUN, (dir.path(), &authority), ("a", &[])).await;
    let b = Honest::start(RUN, (dir.path(), &authority), ("b", &[a.address])).await;
    let net = Net::new(&bundle(&authority, "mallory"), Arc::new(Tcp)).unwrap();
    let spec = RunSpec::from_toml(RUN).unwrap();
    let liar = Liar { net, run: blake3_of(&spec) };
    let begun = |status: &v1::PeerStatusReply| status.round >= 2;
    let (at_a, at_b) = (liar.until(a.address, begun).await, liar.until(b.address, begun).await);

    speak_as(&liar, a.address, at_b.member.unwrap(), at_a.member.unwrap()).await;

    // Rumours: as somebody else, or with the answer to somebody else.
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    refused(liar.rumour(a.address, place, &[("b", 9, place)]).await, "a rumour");
    refused(liar.rumour(a.address, b.address, &[("mallory", 9, place)]).await, "an answer elsewhere");
    // What it says of a third peer is heard, as gossip must be, but moves nobody who has spoken itself.
    let later = now * 2_000;
    for _ in 0..4 {
        let of = [("mallory", 1, place), ("b", later, place), ("a", later, place)];
        liar.rumour(a.address, place, &of).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    let status = liar.status(a.address).await.unwrap();
    for member in &status.members {
        let true_one = if member.name == "a" { a.address } else { b.address };
        assert_eq!(member.address, true_one.to_string(), "{}", member.name);
        assert!(member.live && member.reachable, "{member:?}");
    }
    // And who answers at a forged address is not taken for whom it was said to be.
    let mut wrong = liar.net.client_of("b", &a.address.to_string(), Lane::Small).unwrap();
    let status = wrong.peer_status(v1::PeerStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut right = liar.net.client_of("a", &a.address.to_string(), Lane::Small).unwrap();
    right.peer_status(v1::PeerStatusRequest {}).await.unwrap();

    for peer in [a, b] {
        let status = liar.until(peer.address, |status| status.phase == "finished").await;
        assert_eq!(status.members.len(), 2, "{status:?}");
        assert!(status.balanced && status.members.iter().all(|member| member.live), "{status:?}");
        assert_eq!(status.member.unwrap().id, peers::id_of(&status.name));
        peer.stop.cancel();
        assert_eq!(peer.task.await.unwrap().unwrap(), Ended::Stopped);
    }
}

/// The digest by which peers know their run: that of the run file's content.
fn blake3_of(spec: &RunSpec) -> Vec<u8> {
    proto::digest::Digest::of(spec.to_json().as_bytes()).0.to_vec()
}
