//! Peers whose fault is time: on a virtual clock, minutes of their silence cost nothing.

use crate::scene::{OPERATOR, Outcome, Seen, Shared, operate, plain, plain_url, serve, work, worker_config};
use bytes::Bytes;
use proto::{
    chunk::chunk,
    event::RunEvent,
    v1::{UploadRequest, upload_reply::Body as Reply, upload_request::Body as Sent},
};
use starling_tests::{
    memory_dir,
    peer::{Judged, Peer, offer, reply},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::sleep;

const ROUNDS: usize = 4;
/// Four megabytes: sixteen chunks.
const LENGTH: usize = 1_000_000;

/// Two honest workers, and one more that does `harm`; the run must finish.
fn beside<F>(config: coordinator::Config, cohort: &str, harm: impl Fn() -> F + 'static) -> Outcome
where
    F: Future<Output = ()> + 'static,
{
    let dir = memory_dir();
    let mut sim = turmoil::Builder::new()
        .tick_duration(Duration::from_millis(5))
        .simulation_duration(Duration::from_mins(30))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(1 << 16)
        .build();
    serve(&mut sim, coordinator::Config { data_dir: dir.path().join("coordinator"), ..config });
    for name in ["honest-1", "honest-2"] {
        work(&mut sim, worker_config(dir.path(), name, &plain_url()));
    }
    sim.host("harmful", move || {
        let done = harm();
        async move {
            done.await;
            std::future::pending().await
        }
    });
    let spec = format!(
        "name='harm'\nrounds={ROUNDS}\n[model]\nkind='flat'\nparameters={LENGTH}\n[data]\nname='digits'\n\
         [evaluation]\nevery=0\n[cohort]\nmin_workers=3\nmin_updates=2\n{cohort}"
    );
    let seen = Shared::default();
    sim.client(OPERATOR, operate(plain(), spec, Arc::clone(&seen)));
    sim.run().unwrap_or_else(|error| panic!("{error}: {:#?}", seen.lock().unwrap().events));
    let Seen { events, metrics, .. } = std::mem::take(&mut *seen.lock().unwrap());
    assert!(matches!(events.last(), Some(RunEvent::Finished { .. })), "{events:#?}");
    Outcome { events, metrics, played: Vec::new(), seconds: sim.elapsed().as_secs_f64() }
}

async fn join() -> Peer {
    let route = plain();
    let channel = route.endpoint().unwrap().connect_with_connector_lazy(route.connector());
    Peer::join_over(channel, "harmful").await
}

#[test]
fn a_worker_that_never_answers_is_named_and_not_waited_for() {
    let outcome = beside(coordinator::Config::default(), "deadline_s=60\n", || async {
        // Its heartbeats go on; it reads its orders and does nothing.
        let mut peer = join().await;
        while peer.next().await.is_ok() {}
    });
    for line in &outcome.metrics {
        assert_eq!((line.participants, line.seconds.round()), (2, 60.0), "{line:?}");
    }
    let named =
        |event: &&RunEvent| matches!(event, RunEvent::WorkerStuck { worker, .. } if worker == "harmful");
    let late = |event: &&RunEvent| matches!(event, RunEvent::Late { workers, stuck, .. } if workers == stuck && workers == &["harmful"]);
    assert_eq!(outcome.events.iter().filter(named).count(), ROUNDS, "{:#?}", outcome.events);
    assert_eq!(outcome.events.iter().filter(late).count(), ROUNDS, "{:#?}", outcome.events);
}

/// Sends `bytes` every `pause` until there is a verdict.
async fn trickle(verdicts: Arc<Mutex<Vec<Judged>>>, bytes: usize, pause: Duration) {
    let mut peer = join().await;
    loop {
        let assignment = peer.assignment().await;
        let upload = peer.update(&assignment, &vec![0.001; LENGTH]);
        let whole: Bytes = upload.chunks.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
        let (out, mut replies, first) = offer(&mut peer.fleet, upload.header).await;
        if first != (Reply::Ready(proto::v1::UploadReady { offset: 0 })) {
            continue;
        }
        let mut at = 0;
        while at < whole.len() {
            let piece = whole.slice(at..(at + bytes).min(whole.len()));
            let sent = chunk(at as u64, piece);
            if out.send(UploadRequest { body: Some(Sent::Chunk(sent)) }).await.is_err() {
                break;
            }
            at += bytes;
            sleep(pause).await;
        }
        drop(out);
        if let Reply::Verdict(verdict) = reply(&mut replies).await {
            verdicts.lock().unwrap().push(verdict.into());
        }
    }
}

/// One place for payloads, which the slow one may have taken first.
fn narrow() -> coordinator::Config {
    coordinator::Config { uploads_in_flight: 1, upload_memory_mib: 0, ..coordinator::Config::default() }
}

fn too_slow(outcome: &Outcome) -> usize {
    let slow = |event: &&RunEvent| matches!(event, RunEvent::UpdateRejected { worker, reason, .. } if worker == "harmful" && reason == "too slow");
    outcome.events.iter().filter(slow).count()
}

#[test]
fn a_slow_loris_loses_its_place() {
    let verdicts = Arc::default();
    let kept = Arc::clone(&verdicts);
    // A byte now and then: never silent for as long as a stalled transfer.
    let harm = move || trickle(Arc::clone(&kept), 4, Duration::from_secs(15));
    let outcome = beside(narrow(), "deadline_s=600\n", harm);
    assert!(too_slow(&outcome) > 0, "{:#?}", outcome.events);
    let slow = Judged::Rejected(proto::v1::RejectReason::TooSlow);
    assert!(verdicts.lock().unwrap().iter().all(|verdict| *verdict == slow), "{verdicts:?}");
    for line in &outcome.metrics {
        assert!(line.participants == 2 && line.seconds < 60.0, "{line:?}");
    }
}

#[test]
fn who_is_slow_while_others_wait_must_hurry() {
    // A chunk every 15 s would be fast enough if nobody waited for the place; four minutes for the whole.
    let harm = || trickle(Arc::default(), 256 * 1024, Duration::from_secs(15));
    let outcome = beside(narrow(), "deadline_s=200\n", harm);
    assert!(too_slow(&outcome) > 0, "{:#?}", outcome.events);
    assert!(outcome.metrics.iter().all(|line| line.participants == 2), "{:#?}", outcome.metrics);
}
