//! A peer whose certificate is revoked in the middle of a run: its connections end, nobody hears it any more, it
//! is evicted as if it had crashed, and the others go on with all of their mass.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use identity::{Authority, Bundle, Revocations, Role, Tcp, Validity};
use proto::v1;
use starling_tests::honest::Honest;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;
use tonic::Code;
use worker::peer::{Ended, Lane, Net};

const RUN: &str = "name='revoked'\nmode='decentralised'\nrounds=120\nseed=5\n[model]\nkind='flat'\n\
    parameters=500\n[data]\nname='none'\n[algorithm]\nkind='sgp'\n[evaluation]\nevery=0\n\
    [topology]\nkind='one-peer-exponential'\nnodes=3\nretry_ms=300\nevict_after_s=600.0\n";
const PATIENCE: Duration = Duration::from_mins(1);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Somebody with a certificate who asks.
struct Asker(Net);

impl Asker {
    fn new(bundle: &Bundle) -> Self {
        Self(Net::new(bundle, Arc::new(Tcp)).unwrap())
    }

    async fn status(&self, at: SocketAddr) -> Result<v1::PeerStatusReply, tonic::Status> {
        let mut client = self.0.client(&at.to_string(), Lane::Small).unwrap();
        client.peer_status(v1::PeerStatusRequest {}).await.map(tonic::Response::into_inner)
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
            if let Ok(status) = &status
                && wanted(status)
            {
                return status.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{status:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn revoke(&self, at: SocketAddr, list: &Revocations) -> Result<u64, tonic::Status> {
        let mut client = self.0.client(&at.to_string(), Lane::Small).unwrap();
        let request = v1::RevokeRequest { revocations: list.text().to_owned() };
        client.revoke(request).await.map(|reply| reply.into_inner().number)
    }
}

fn live(status: &v1::PeerStatusReply) -> Vec<&str> {
    let live = status.members.iter().filter(|member| member.live);
    live.map(|member| member.name.as_str()).collect()
}

fn at_work(status: &v1::PeerStatusReply) -> bool {
    status.round >= 3 && live(status).len() == 3
}

struct Scene {
    dir: tempfile::TempDir,
    authority: Authority,
    operator: Asker,
}

impl Scene {
    fn new() -> Self {
        let authority = Authority::create("test", Validity::lasting(now(), 3600)).unwrap();
        let validity = Validity::lasting(now(), 3600);
        let operator = Bundle::issue(&authority, Role::Operator, "o", (&[], validity)).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), operator: Asker::new(&operator), authority }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn start(&self, name: &str, bootstrap: &[SocketAddr], list: Option<PathBuf>) -> Honest {
        Honest::start_with(RUN, (self.path(), &self.authority), (name, bootstrap), list).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_revoked_in_mid_run_is_fenced_and_the_others_go_on() {
    let scene = Scene::new();
    let a = scene.start("a", &[], None).await;
    let b = scene.start("b", &[a.address], None).await;
    let c = scene.start("c", &[a.address], None).await;
    for peer in [&a, &b, &c] {
        scene.operator.until(peer.address, at_work).await;
    }
    let thief = Asker::new(&Bundle::load(&scene.path().join("c.pem")).unwrap().unwrap());
    thief.status(a.address).await.unwrap();

    // A list that the authority did not sign is refused, whoever brings it.
    let stranger = Authority::create("test", Validity::lasting(now(), 3600)).unwrap();
    let forged = stranger.revoke(&Revocations::default(), (Role::Peer, "b"), now()).unwrap();
    let refused = scene.operator.revoke(a.address, &forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    // One that it signed reaches everybody through one; the open connection ends as well.
    let list = scene.authority.revoke(&Revocations::default(), (Role::Peer, "c"), now()).unwrap();
    assert_eq!(scene.operator.revoke(a.address, &list).await.unwrap(), 1);
    for peer in [&a, &b] {
        let without = |status: &v1::PeerStatusReply| live(status) == ["a", "b"] || live(status) == ["b", "a"];
        let began = scene.operator.until(peer.address, without).await.round;
        scene.operator.until(peer.address, |status| status.round > began + 5).await;
        let began = Instant::now();
        loop {
            let refused = thief.status(peer.address).await.unwrap_err();
            if refused.code() == Code::Unauthenticated {
                assert!(refused.message().contains("peer `c` was revoked"), "{refused}");
                break;
            }
            // The connection was cut in the middle of a call; the next one is told.
            assert!(began.elapsed() < PATIENCE, "{refused}");
        }
    }
    // Nobody asks it any more, and what it sends is not heard: it stays out.
    sleep(Duration::from_secs(2)).await;
    let mut sums = [0.0; 2];
    for peer in [&a, &b] {
        let status = scene.operator.until(peer.address, |status| status.phase == "finished").await;
        assert_eq!(live(&status).len(), 2, "{status:?}");
        assert!(status.balanced);
        sums = [sums[0] + status.holding, sums[1] + status.account];
    }
    assert_eq!(sums[0], sums[1], "the mass is what the epoch published");

    // With a certificate that was issued later, it may come back.
    c.stop.cancel();
    assert_eq!(c.task.await.unwrap().unwrap(), Ended::Stopped);
    std::fs::remove_file(scene.path().join("c.pem")).unwrap();
    while now() <= list.until(Role::Peer, "c").unwrap() {
        sleep(Duration::from_millis(100)).await;
    }
    std::fs::remove_dir_all(scene.path().join("c")).unwrap();
    let c = scene.start("c", &[a.address], None).await;
    for peer in [&a, &b, &c] {
        scene.operator.until(peer.address, |status| live(status).len() == 3).await;
    }
    for peer in [a, b, c] {
        peer.stop.cancel();
        assert_eq!(peer.task.await.unwrap().unwrap(), Ended::Stopped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_read_again_when_it_changes_and_kept_over_a_restart() {
    let scene = Scene::new();
    let file = scene.path().join("revoked.txt");
    let nobody = scene.authority.revoke(&Revocations::default(), (Role::Peer, "x"), now()).unwrap();
    std::fs::write(&file, nobody.text()).unwrap();
    let a = scene.start("a", &[], None).await;
    let b = scene.start("b", &[a.address], Some(file.clone())).await;
    let c = scene.start("c", &[a.address], None).await;
    for peer in [&a, &b, &c] {
        scene.operator.until(peer.address, at_work).await;
    }
    let list = scene.authority.revoke(&nobody, (Role::Peer, "c"), now()).unwrap();
    std::fs::write(&file, list.text()).unwrap();
    // `a` has no file: it hears of it from `b`.
    for peer in [&a, &b] {
        scene.operator.until(peer.address, |status| live(status).len() == 2).await;
    }
    // A file that is damaged meanwhile changes nothing.
    std::fs::write(&file, list.text().replace("peer c", "peer a")).unwrap();
    sleep(Duration::from_millis(1_500)).await;
    scene.operator.status(b.address).await.unwrap();
    a.stop.cancel();
    a.task.await.unwrap().unwrap();
    let a = scene.start("a", &[b.address], None).await;
    let thief = Asker::new(&Bundle::load(&scene.path().join("c.pem")).unwrap().unwrap());
    scene.operator.until(a.address, |status| status.phase != "meeting").await;
    let refused = thief.status(a.address).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // Who finds itself on the list does not start; nor does who is given a damaged one.
    c.stop.cancel();
    c.task.await.unwrap().unwrap();
    let damaged = scene.start("d", &[a.address], Some(file.clone())).await.task.await.unwrap().unwrap_err();
    assert!(damaged.to_string().contains("not signed by"), "{damaged}");
    std::fs::write(&file, list.text()).unwrap();
    let revoked = scene.start("c", &[a.address], Some(file)).await.task.await.unwrap().unwrap_err();
    assert!(revoked.to_string().contains("peer `c` was revoked"), "{revoked}");
    for peer in [a, b] {
        peer.stop.cancel();
        assert_eq!(peer.task.await.unwrap().unwrap(), Ended::Stopped);
    }
}
