//! Peers that break the protocol, each in one way: each is told which rule it broke, nobody else
//! notices, and the run goes on with those who keep the rules.

use bytes::{Buf, BufMut};
use proto::{
    chunk::Assembler,
    digest::Digest,
    event::RunEvent,
    limits,
    v1::{
        self, ErrorCode, Heartbeat, RejectReason, UploadRequest, coordinator_message::Body,
        upload_reply::Body as Reply, upload_request::Body as Sent, worker_message::Body as Said,
    },
};
use starling_tests::{
    federation::{Federation, Trainer},
    operator::{PATIENCE, channel},
    peer::{Judged, Peer, Upload, hello, offer, send},
    toy::{Bowl, Toy},
};
use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

const LENGTH: usize = 1_000;

/// A run of a bare vector; `rest` begins inside `[cohort]`.
fn flat(rounds: usize, parameters: usize, rest: &str) -> String {
    format!(
        "name='flat'\nrounds={rounds}\n[model]\nkind='flat'\nparameters={parameters}\n[data]\nname='digits'\n\
         [evaluation]\nevery=0\n[cohort]\n{rest}"
    )
}

type Case = (&'static str, fn(Upload) -> Upload, RejectReason);

/// The first element replaced.
fn with(upload: Upload, value: f32) -> Upload {
    let mut values = vec![0.001; LENGTH];
    values[LENGTH / 2] = value;
    upload.with_values(&values)
}

fn change(mut upload: Upload, how: impl Fn(&mut Upload)) -> Upload {
    how(&mut upload);
    upload
}

/// Vetting accepts a norm of 150 here, so that an element of 129 is refused for itself.
const VALUES: &[Case] = &[
    ("NaN", |u| with(u, f32::NAN), RejectReason::NotFinite),
    ("infinity", |u| with(u, f32::NEG_INFINITY), RejectReason::NotFinite),
    ("norm", |u| u.with_values(&[5.0; LENGTH]), RejectReason::Norm),
    ("range", |u| with(u, -129.0), RejectReason::Range),
];

const SHAPES: &[Case] = &[
    ("length", |u| change(u, |u| u.header.vectors[0].length -= 1), RejectReason::Shape),
    ("10 GB", |u| change(u, |u| u.header.vectors[0].length = 2_500_000_000), RejectReason::Shape),
    ("u64::MAX", |u| change(u, |u| u.header.vectors[0].length = u64::MAX), RejectReason::Shape),
    ("name", |u| change(u, |u| u.header.vectors[0].name = "c".into()), RejectReason::Shape),
    ("no vector", |u| change(u, |u| u.header.vectors.clear()), RejectReason::Shape),
    ("element", |u| change(u, |u| u.header.vectors[0].element = 9), RejectReason::ElementType),
    ("no element", |u| change(u, |u| u.header.vectors[0].element = 0), RejectReason::ElementType),
];

const FACTS: &[Case] = &[
    ("examples 0", |u| change(u, |u| u.header.examples = 0), RejectReason::Facts),
    ("examples", |u| change(u, |u| u.header.examples = u64::MAX), RejectReason::Facts),
    ("steps 0", |u| change(u, |u| u.header.steps = 0), RejectReason::Facts),
    ("lr NaN", |u| change(u, |u| u.header.lr = f32::NAN), RejectReason::Facts),
    ("lr", |u| change(u, |u| u.header.lr *= 2.0), RejectReason::Facts),
    ("seconds", |u| change(u, |u| u.header.seconds = f64::INFINITY), RejectReason::Facts),
];

const CHUNKS: &[Case] = &[
    ("CRC", |u| change(u, |u| u.chunks[0].crc32c ^= 1), RejectReason::Chunk),
    ("offset", |u| change(u, |u| u.chunks[0].offset = 4), RejectReason::Chunk),
    ("digest", |u| change(u, |u| u.header.digest[0] ^= 1), RejectReason::Digest),
    ("no digest", |u| change(u, |u| u.header.digest.clear()), RejectReason::Digest),
    ("cut short", |u| u.with_bytes(0, vec![0; LENGTH * 2]), RejectReason::Length),
    ("nothing", |u| change(u, |u| u.chunks.clear()), RejectReason::Length),
    ("too long", |u| u.with_bytes(0, vec![0; LENGTH * 4 + 4]), RejectReason::Length),
];

/// Highest address space of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).expect("the peak is told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") / 1024
}

/// Each case in a round of its own, beside an honest worker.
async fn each_is_refused(cases: &[Case], vetting: &str) {
    let mut federation = Federation::start().await;
    let rest = format!("min_workers=2\n[vetting]\nquarantine_after=0\n{vetting}");
    let run = federation.operator.submit(&flat(cases.len(), LENGTH, &rest)).await;
    federation.add("honest", Trainer::Toy(Toy::default()));
    let mut liar = Peer::join(federation.coordinator.address, "liar").await;
    for (what, falsify, reason) in cases {
        let assignment = liar.assignment().await;
        let upload = falsify(liar.update(&assignment, &[0.001; LENGTH]));
        assert_eq!(liar.send(upload).await.0, Judged::Rejected(*reason), "{what}");
    }
    let events = federation.operator.finished(&run).await;
    let labels: Vec<String> = events
        .into_iter()
        .filter_map(|event| match event {
            RunEvent::UpdateRejected { worker, reason, .. } if worker == "liar" => Some(reason),
            _ => None,
        })
        .collect();
    let expected: Vec<&str> = cases.iter().map(|(_, _, reason)| reason.label()).collect();
    assert_eq!(labels, expected);
    for line in federation.operator.metrics(&run).await {
        assert_eq!((line.participants, line.rejected), (1, 1), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_values_are_refused() {
    each_is_refused(VALUES, "max_norm=150.0\n").await;
}

/// Ten of 1,000 scalars as `top-k` sends them: form, positions, values, and three bytes to whole words.
fn packed(mut upload: Upload, falsify: fn(&mut Vec<u8>)) -> Upload {
    let positions = (0..10_u32).flat_map(u32::to_le_bytes);
    let values = [0.001_f32; 10].into_iter().flat_map(f32::to_le_bytes);
    let mut bytes: Vec<u8> = std::iter::once(0).chain(positions).chain(values).chain([0; 3]).collect();
    falsify(&mut bytes);
    upload.header.vectors[0].length = 21;
    upload.header.vectors[0].element = v1::ElementType::Packed.into();
    upload.header.digest = Digest::of(&bytes).0.to_vec();
    upload.with_bytes(0, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_compression_does_not_make_is_refused() {
    const CASES: &[Case] = &[
        ("not packed", |u| u, RejectReason::Shape),
        (
            "as numbers",
            |u| change(packed(u, |_| ()), |u| u.header.vectors[0].element = 1),
            RejectReason::ElementType,
        ),
        ("form", |u| packed(u, |bytes| bytes[0] = 9), RejectReason::Compression),
        ("positions", |u| packed(u, |bytes| bytes[4] = 0xFF), RejectReason::Compression),
        ("padding", |u| packed(u, |bytes| bytes[83] = 1), RejectReason::Compression),
        ("NaN", |u| packed(u, |bytes| bytes[41..45].fill(0xFF)), RejectReason::NotFinite),
    ];
    each_is_refused(CASES, "[compression]\nkind='top-k'\nratio=0.01\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_send_what_the_run_needs_is_not_asked() {
    let compression = vec![proto::COMPRESSION.to_owned()];
    for (capabilities, section, most) in [
        (Vec::new(), "[compression]\nkind='int8'\n", LENGTH as u64 + 32),
        (compression, "[personal]\ntensors=['head']\n", LENGTH as u64 * 2),
    ] {
        let mut federation = Federation::start().await;
        let Said::Hello(greeting) = hello("old") else { panic!("a greeting is a Hello") };
        let old = v1::Hello { capabilities, ..greeting };
        let mut old = Peer::open(federation.coordinator.address, "old", Said::Hello(old)).await;
        assert!(matches!(old.next().await, Ok(Body::Welcome(_))));
        let run = federation.operator.submit(&flat(2, LENGTH, section)).await;
        federation.add("new", Trainer::Bowl(Bowl { centre: 0.5, pause: Duration::ZERO }));
        federation.operator.finished(&run).await;
        let lines = federation.operator.metrics(&run).await;
        assert!(lines.iter().all(|line| line.participants == 1 && line.bytes_up <= most), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_elements_are_refused_without_a_bound_on_the_norm() {
    const HUGE: &[Case] = &[
        ("1e30", |u| with(u, 1e30), RejectReason::Range),
        ("the largest", |u| u.with_values(&[f32::MAX; LENGTH]), RejectReason::Range),
    ];
    each_is_refused(HUGE, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_shapes_are_refused_before_anything_is_allocated() {
    let before = peak_mib();
    each_is_refused(SHAPES, "").await;
    // Other tests run beside this one; 10 GB would be seen nevertheless.
    assert!(peak_mib() - before < 5_000, "{before} MiB before, {} MiB after", peak_mib());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_facts_are_refused() {
    each_is_refused(FACTS, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_transfers_are_refused() {
    each_is_refused(CHUNKS, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_in_place_of_a_chunk_is_refused() {
    let mut federation = Federation::start().await;
    let run = federation.operator.submit(&flat(1, LENGTH, "min_workers=2\n")).await;
    federation.add("honest", Trainer::Toy(Toy::default()));
    let mut liar = Peer::join(federation.coordinator.address, "liar").await;
    let assignment = liar.assignment().await;
    let header = liar.update(&assignment, &[0.001; LENGTH]).header;
    let (out, mut replies, first) = offer(&mut liar.fleet, header.clone()).await;
    assert_eq!(first, Reply::Ready(v1::UploadReady { offset: 0 }));
    out.send(UploadRequest { body: Some(Sent::Header(header)) }).await.unwrap();
    match replies.message().await.unwrap().unwrap().body.unwrap() {
        Reply::Verdict(verdict) => assert_eq!(verdict.reason(), RejectReason::Chunk),
        other @ Reply::Ready(_) => panic!("{other:?}"),
    }
    federation.operator.finished(&run).await;
    // A chunk in place of the header.
    let (out, queue) = tokio::sync::mpsc::channel(1);
    out.send(UploadRequest { body: None }).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut replies = liar.fleet.upload(requests).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_addressees_are_told_and_an_update_is_counted_once() {
    let mut federation = Federation::start().await;
    let run = federation.operator.submit(&flat(2, LENGTH, "min_workers=2\n")).await;
    let address = federation.coordinator.address;
    let mut a = Peer::join(address, "a").await;
    let mut b = Peer::join(address, "b").await;
    let assignment = a.assignment().await;
    let good = a.update(&assignment, &[0.01; LENGTH]);
    let strange: &[Case] = &[
        ("early", |u| change(u, |u| u.header.round = 1), RejectReason::StaleRound),
        ("run", |u| change(u, |u| u.header.run = "other-9".into()), RejectReason::UnknownRun),
        ("no run", |u| change(u, |u| u.header.run.clear()), RejectReason::UnknownRun),
        ("stranger", |u| change(u, |u| u.header.worker = "c".into()), RejectReason::NotAssigned),
        ("nameless", |u| change(u, |u| u.header.worker.clear()), RejectReason::NotAssigned),
    ];
    for (what, falsify, reason) in strange {
        assert_eq!(a.send(falsify(good.clone())).await.0, Judged::Rejected(*reason), "{what}");
    }
    assert_eq!(a.send(good.clone()).await, (Judged::Applied, Some(0)));
    assert_eq!(a.send(good.clone()).await, (Judged::Duplicate, None));
    // What it contains does not matter: the worker was counted.
    assert_eq!(a.send(good.clone().with_values(&[0.5; LENGTH])).await.0, Judged::Duplicate);
    b.obey().await;
    federation.operator.committed(&run, 0).await;
    assert_eq!(a.send(good.clone()).await.0, Judged::Duplicate, "committed");
    a.obey().await;
    b.obey().await;
    federation.operator.finished(&run).await;
    assert_eq!(a.send(good).await.0, Judged::Rejected(RejectReason::StaleRound), "two rounds late");
    for line in federation.operator.metrics(&run).await {
        assert_eq!(line.participants, 2, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_faults_lead_to_quarantine_and_an_operator_out_of_it() {
    let mut federation = Federation::start().await;
    let spec = flat(5, LENGTH, "min_workers=2\n[vetting]\nquarantine_after=3\n");
    let run = federation.operator.submit(&spec).await;
    let address = federation.coordinator.address;
    let mut liar = Peer::join(address, "liar").await;
    let mut honest = Peer::join(address, "honest").await;
    let mut last = None;
    for _ in 0..3 {
        let assignment = liar.assignment().await;
        let bad = with(liar.update(&assignment, &[0.001; LENGTH]), f32::NAN);
        assert_eq!(liar.send(bad.clone()).await.0, Judged::Rejected(RejectReason::NotFinite));
        last = Some(bad);
        honest.obey().await;
    }
    assert!(liar.notice().await.contains("quarantined"));
    assert_eq!(liar.send(last.unwrap()).await.0, Judged::Rejected(RejectReason::Quarantined));
    assert!(federation.operator.worker("liar").await.unwrap().quarantined);
    federation.operator.committed(&run, 2).await;
    assert!(!federation.operator.release("liar").await.quarantined);
    assert!(liar.notice().await.contains("released"));
    honest.obey().await;
    let assignment = liar.assignment().await;
    assert_eq!(assignment.round, 4);
    honest.obey().await;
    let good = liar.update(&assignment, &[0.001; LENGTH]);
    assert_eq!(liar.send(good).await.0, Judged::Applied);
    let events = federation.operator.finished(&run).await;
    let cohorts: Vec<usize> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::RoundOpened { cohort, .. } => Some(cohort.len()),
            _ => None,
        })
        .collect();
    assert_eq!(cohorts, [2, 2, 2, 1, 2]);
    assert!(events.contains(&RunEvent::Quarantined { worker: "liar".into(), rejections: 3 }));
}

async fn refused(address: SocketAddr, name: &str, version: u32) -> ErrorCode {
    let Said::Hello(greeting) = hello(name) else { panic!("hello greets") };
    let greeting = v1::Hello { protocol_version: version, ..greeting };
    let mut peer = Peer::open(address, name, Said::Hello(greeting)).await;
    let Ok(Body::Refusal(refusal)) = peer.next().await else { panic!("{name:?} is welcome") };
    assert!(!refusal.detail.is_empty());
    assert!(peer.next().await.is_err(), "a refusal ends the stream");
    refusal.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_greetings_are_refused() {
    let mut federation = Federation::start().await;
    let address = federation.coordinator.address;
    let mut rude = Peer::open(address, "rude", Said::Heartbeat(Heartbeat { sequence: 0 })).await;
    assert_eq!(rude.next().await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(refused(address, "old", 0).await, ErrorCode::Incompatible);
    for bad in ["", "../x", "a b", &"x".repeat(65)] {
        assert_eq!(refused(address, bad, 1).await, ErrorCode::Name, "{bad}");
    }
    let _first = Peer::join(address, "twice").await;
    assert_eq!(refused(address, "twice", 1).await, ErrorCode::Name);
    assert!(federation.operator.worker("twice").await.unwrap().connected);
    // A newer worker is spoken to in our version.
    let Said::Hello(greeting) = hello("new") else { panic!("hello greets") };
    let newer = v1::Hello { protocol_version: 99, capabilities: vec!["later".into()], ..greeting };
    let mut newer = Peer::open(address, "new", Said::Hello(newer)).await;
    let Ok(Body::Welcome(welcome)) = newer.next().await else { panic!("not welcome") };
    assert_eq!(welcome.protocol_version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_is_ended_within_5_seconds() {
    let mut federation = Federation::start().await;
    let mut silent = Peer::open(federation.coordinator.address, "silent", hello("silent")).await;
    let began = Instant::now();
    assert!(matches!(silent.next().await, Ok(Body::Welcome(_))));
    while federation.operator.worker("silent").await.unwrap().connected {
        sleep(Duration::from_millis(50)).await;
    }
    let after = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_millis(5_500)).contains(&after), "after {after:?}");
    assert!(silent.next().await.is_err(), "the stream ended");
    // The name is free again.
    let _again = Peer::join(federation.coordinator.address, "silent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_port_disturbs_nobody() {
    let mut federation = Federation::start().await;
    let address = federation.coordinator.address;
    let run = federation.operator.submit(&flat(5, LENGTH, "")).await;
    let mut noise = Vec::new();
    for seed in 0..20_u8 {
        let mut stream = TcpStream::connect(address).unwrap();
        // Some begin as HTTP/2 does.
        let begin: &[u8] = if seed % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } else { b"" };
        let mut bytes = begin.to_vec();
        bytes.extend((0..=255_u8).map(|i| i.wrapping_mul(37).wrapping_add(seed)));
        // The coordinator may have hung up already.
        let _ = stream.write_all(&bytes);
        noise.push(stream);
    }
    federation.add("honest", Trainer::Toy(Toy { pause: Duration::from_millis(10), ..Toy::default() }));
    federation.operator.finished(&run).await;
    assert!(federation.operator.worker("honest").await.unwrap().connected);
}

/// Sends bytes as they are, in gRPC's envelope.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// What a call answers to one message of any bytes.
async fn answer(address: SocketAddr, call: &str, bytes: Vec<u8>) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel(address));
    grpc.ready().await.expect("the connection is open");
    let request = tonic::Request::new(tokio_stream::iter([bytes]));
    let called = timeout(PATIENCE, grpc.streaming(request, call.parse().expect("the path of a call"), Raw));
    let mut replies = match called.await.expect("every call is answered") {
        Ok(replies) => replies.into_inner(),
        Err(status) => return status,
    };
    loop {
        match timeout(PATIENCE, replies.message()).await.expect("every stream ends") {
            Ok(Some(())) => {}
            Ok(None) => panic!("{call}: the stream ended without a reason"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_every_call_is_refused_with_a_reason() {
    let mut federation = Federation::start().await;
    let address = federation.coordinator.address;
    let run = federation.operator.submit(&flat(5, LENGTH, "")).await;
    for call in proto::calls().into_iter().filter(|call| !call.starts_with("/starling.v1.Peers/")) {
        let status = answer(address, &call, vec![0xff; 100]).await;
        assert!(status.message().contains("decode"), "{call}: {status:?}");
        let status = answer(address, &call, vec![0; limits::MESSAGE_BYTES + 1]).await;
        assert_eq!(status.code(), Code::OutOfRange, "{call}: {status:?}");
    }
    federation.add("honest", Trainer::Toy(Toy::default()));
    federation.operator.finished(&run).await;
}

/// Sends the header and two chunks, then is gone, as a process that is killed.
fn begin_upload(address: SocketAddr, upload: Upload) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime of its own");
    let alive = runtime.block_on(async move {
        let mut fleet = v1::fleet_client::FleetClient::new(channel(address));
        let (out, replies, first) = offer(&mut fleet, upload.header).await;
        assert_eq!(first, Reply::Ready(v1::UploadReady { offset: 0 }));
        for chunk in upload.chunks.into_iter().take(2) {
            out.send(UploadRequest { body: Some(Sent::Chunk(chunk)) }).await.expect("the call lives");
        }
        // Until they have arrived.
        sleep(Duration::from_millis(200)).await;
        (fleet, out, replies)
    });
    runtime.shutdown_background();
    drop(alive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_connection_breaks_goes_on_where_it_stopped() {
    const LONG: usize = 300_000;
    let mut federation = Federation::start().await;
    let run = federation.operator.submit(&flat(1, LONG, "")).await;
    let address = federation.coordinator.address;
    let mut peer = Peer::join(address, "unlucky").await;
    let assignment = peer.assignment().await;
    let values: Vec<f32> = (0..LONG).map(|i| (i % 97) as f32 * 1e-3).collect();
    let upload = peer.update(&assignment, &values);
    let sizes: Vec<u64> = upload.chunks.iter().map(|chunk| chunk.data.len() as u64).collect();
    assert_eq!(sizes.len(), 5);
    let first = upload.clone();
    tokio::task::spawn_blocking(move || begin_upload(address, first)).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    let (judged, offset) = send(&mut peer.fleet, upload).await;
    assert_eq!((judged, offset), (Judged::Applied, Some(sizes[0] + sizes[1])));
    federation.operator.finished(&run).await;
    let line = federation.operator.metrics(&run).await.remove(0);
    assert_eq!((line.participants, line.rejected, line.bytes_up), (1, 0, LONG as u64 * 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_gives_exactly_what_is_asked_for() {
    const LONG: usize = 300_000;
    let mut federation = Federation::start().await;
    federation.operator.submit(&flat(1, LONG, "")).await;
    let mut peer = Peer::join(federation.coordinator.address, "reader").await;
    let assignment = peer.assignment().await;
    let model = &assignment.vectors[0];
    let fetch =
        |offset: u64| v1::FetchRequest { digest: model.digest.clone(), offset, run: assignment.run.clone() };
    let mut assembler = Assembler::new(LONG, Digest::from_bytes(&model.digest).unwrap());
    let mut chunks = peer.fleet.fetch(fetch(0)).await.unwrap().into_inner();
    assembler.push(&chunks.message().await.unwrap().unwrap()).unwrap();
    drop(chunks);
    let mut rest = peer.fleet.fetch(fetch(assembler.received())).await.unwrap().into_inner();
    while let Some(chunk) = rest.message().await.unwrap() {
        assembler.push(&chunk).unwrap();
    }
    assembler.finish().unwrap();
    for offset in [LONG as u64 * 4, u64::MAX] {
        let mut none = peer.fleet.fetch(fetch(offset)).await.unwrap().into_inner();
        assert!(none.message().await.unwrap().is_none());
    }
    let unknown = v1::FetchRequest { digest: vec![7; 32], ..fetch(0) };
    assert_eq!(peer.fleet.fetch(unknown).await.unwrap_err().code(), Code::NotFound);
    let malformed = v1::FetchRequest { digest: vec![7; 5], ..fetch(0) };
    assert_eq!(peer.fleet.fetch(malformed).await.unwrap_err().code(), Code::InvalidArgument);
}
