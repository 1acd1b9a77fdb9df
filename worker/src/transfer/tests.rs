//! Transfers over real sockets that break: what arrives is what was sent, from where it stopped.

use super::*;
use crate::testing::Coordinator;
use algorithms::{Vector, Vectors};
use proto::{chunk::bytes_of, digest::Digest, limits::CHUNK_BYTES, v1};
use std::sync::Arc;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn vector(length: usize) -> Vector {
    Arc::new((0..length).map(|i| (i as f32).sin()).collect())
}

fn live(coordinator: &Coordinator) -> Live {
    let route = crate::access::Route::plain(&coordinator.address, Arc::new(identity::Tcp));
    Live { vectors: channel::vectors(&route).unwrap(), out: mpsc::channel(1).0 }
}

fn line(coordinator: &Coordinator) -> (watch::Sender<Option<Live>>, Line) {
    let (up, line) = watch::channel(Some(live(coordinator)));
    (up, Line(line))
}

fn offer(vectors: &[(&str, &Vector)]) -> Offer {
    let vectors: Vectors = vectors.iter().map(|(name, v)| ((*name).to_owned(), Arc::clone(v))).collect();
    let payload: Vec<u8> = vectors.values().flat_map(|vector| bytes_of(vector).to_vec()).collect();
    let shape = |(name, vector): (&String, &Vector)| v1::VectorShape {
        name: name.clone(),
        length: vector.len() as u64,
        element: v1::ElementType::F32.into(),
    };
    let header = v1::UploadHeader {
        run: "r".into(),
        worker: "w".into(),
        vectors: vectors.iter().map(shape).collect(),
        digest: Digest::of(&payload).0.to_vec(),
        ..v1::UploadHeader::default()
    };
    Offer { header, vectors }
}

#[tokio::test]
async fn a_broken_fetch_goes_on_where_it_stopped() {
    let coordinator = Coordinator::start().await;
    let sent = vector(300_000);
    coordinator.hold(&sent);
    coordinator.book().cut_fetch.extend([2, 0, 1]);
    let (_up, mut line) = line(&coordinator);
    let mut reports = Vec::new();
    let digest = Digest::of_vector(&sent);
    let got = fetch(&mut line, "run-1", digest, vec![f32::NAN; sent.len()], &mut |done| reports.push(done))
        .await
        .unwrap();
    assert!(got == *sent, "other values");
    let offsets: Vec<u64> = coordinator.book().fetches.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 2 * CHUNK, 2 * CHUNK, 3 * CHUNK]);
    assert!(reports.is_sorted() && reports.last() == Some(&1_200_000), "{reports:?}");
}

#[tokio::test]
async fn what_cannot_be_fetched_is_an_error_at_once() {
    let coordinator = Coordinator::start().await;
    let (_up, mut line) = line(&coordinator);
    let unknown = Digest::of(b"unknown");
    let error = fetch(&mut line, "run-1", unknown, vec![0.0; 3], &mut |_| {}).await.unwrap_err();
    assert!(matches!(&error, TransferError::Refused(why) if why.contains("no such vector")), "{error}");
    let wrong = vector(3);
    coordinator.book().vectors.insert(unknown, wrong);
    let error = fetch(&mut line, "run-1", unknown, vec![0.0; 3], &mut |_| {}).await.unwrap_err();
    assert!(matches!(&error, TransferError::Damaged(why) if why.contains(&unknown.to_string())), "{error}");
    assert_eq!(coordinator.book().fetches.len(), 4, "tried three times");
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_coordinator_wants_it() {
    let coordinator = Coordinator::start().await;
    let (a, b) = (vector(200_000), vector(100_001));
    coordinator.book().cut_upload.extend([3, 0]);
    let (_up, mut line) = line(&coordinator);
    let offer = offer(&[("a", &a), ("b", &b)]);
    let verdict = upload(&mut line, &offer, &mut |_| {}).await.unwrap();
    assert_eq!(verdict, Verdict::Counted { again: false });
    let whole = [bytes_of(&a), bytes_of(&b)].concat();
    assert!(coordinator.book().payloads[&offer.header.digest] == whole, "other bytes");
    // The vector's border is not a chunk's: the third chunk ends within 800,000 bytes.
    assert_eq!(coordinator.book().asked, [0, 3 * CHUNK, 3 * CHUNK]);
    let again = upload(&mut line, &offer, &mut |_| {}).await.unwrap();
    assert_eq!(again, Verdict::Counted { again: true });
    assert_eq!(coordinator.book().asked.len(), 3, "nothing was sent again");
}

#[tokio::test]
async fn a_transfer_waits_for_the_session() {
    let coordinator = Coordinator::start().await;
    let sent = vector(10);
    coordinator.hold(&sent);
    let (up, line) = watch::channel(None);
    let mut line = Line(line);
    let digest = Digest::of_vector(&sent);
    let mut report = |_| {};
    let fetching = fetch(&mut line, "run-1", digest, vec![f32::NAN; sent.len()], &mut report);
    let connecting = async {
        tokio::task::yield_now().await;
        assert!(coordinator.book().fetches.is_empty());
        up.send_replace(Some(live(&coordinator)));
    };
    let (got, ()) = tokio::join!(fetching, connecting);
    assert_eq!(got.unwrap(), *sent);
    up.send_replace(None);
    drop(up);
    assert!(line.live().await.is_err(), "nobody will open a session any more");
}

#[test]
fn pauses_start_over_when_something_moved() {
    let mut patience = Patience::new(1);
    for _ in 0..20 {
        patience.pause(5);
    }
    assert!(patience.attempt > 5);
    assert!(patience.pause(6) <= Duration::from_millis(200));
}
