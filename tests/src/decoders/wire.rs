//! Decoders of what arrives over the network or from an operator.

use super::Reader;
use algorithms::rules::RULES;
use bytes::Bytes;
use coordinator::access::audit::Entry;
use futures::FutureExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use identity::{Authority, Revocations, Role, Validity};
use proto::{
    chunk::{Assembler, bytes_of, chunk, chunks as cut},
    digest::Digest,
    event::{Metrics, RunEvent},
    messages::{Framed as _, Messages},
    names::{RunId, WorkerName},
    spec::{RunSpec, SpecError},
    v1::{self, coordinator_message::Body},
};
use std::sync::{Arc, OnceLock};
use tonic::Status;
use worker::message::Command;

const SPEC: &str = "name='fuzz'\nrounds=3\n[model]\nkind='flat'\nparameters=40\n[data]\nname='digits'\n";
/// Scalars of the vectors here.
const LENGTH: usize = 40;

/// A transfer of chunks with any offsets, sizes and checksums (mostly right ones), then its end.
pub(super) fn chunks(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let announced = Digest(input.array());
    let mut assembler = Assembler::new(LENGTH, announced);
    let mut whole: Vec<u8> = Vec::new();
    while !input.0.is_empty() {
        let (how, length) = (input.byte(), usize::from(input.byte()));
        let offset = if how.is_multiple_of(4) { input.word() } else { assembler.received() };
        let mut piece = chunk(offset, input.bytes(length).into());
        if (how >> 2).is_multiple_of(4) {
            piece.crc32c ^= u32::from(input.byte());
        }
        let before = assembler.received();
        match assembler.push(&piece) {
            Ok(()) => whole.extend_from_slice(&piece.data),
            Err(_) => assert_eq!(assembler.received(), before, "a refused chunk leaves no trace"),
        }
        assert!(assembler.arrived().len() <= LENGTH);
    }
    let (complete, received) = (assembler.is_complete(), assembler.received());
    assert_eq!(received, whole.len() as u64);
    let Ok(values) = assembler.finish() else { return false };
    assert!(complete && Digest::of(&whole) == announced);
    let again: Vec<u8> =
        cut(vec![bytes_of(&Arc::new(values))], 0).flat_map(|chunk| chunk.data.to_vec()).collect();
    assert_eq!(again, whole);
    true
}

/// An upload as HTTP/2 brings it, cut into frames of any one size.
pub(super) fn messages(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let size = 1 + usize::from(input.byte());
    let Some(read) = read_upload(input.0, size) else { return false };
    let again: Vec<u8> = read.iter().flat_map(|message| message.clone().frames().concat()).collect();
    let reread = read_upload(&again, 7).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{reread:?}"));
    true
}

fn read_upload(bytes: &[u8], size: usize) -> Option<Vec<v1::UploadRequest>> {
    let frames: Vec<Result<_, Status>> =
        bytes.chunks(size).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    let body = tonic::body::Body::new(StreamBody::new(futures::stream::iter(frames)));
    let mut arriving = Messages::<v1::UploadRequest>::of_request(body, 4_096);
    let mut read = Vec::new();
    loop {
        match arriving.message().now_or_never().expect("every frame is there") {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return Some(read),
            Err(_) => return None,
        }
    }
}

/// An upload of a header and two chunks.
pub(super) fn an_upload() -> Vec<Vec<u8>> {
    use v1::upload_request::Body::{Chunk, Header};
    let header = v1::UploadHeader { run: "fuzz-1".into(), worker: "w".into(), ..v1::UploadHeader::default() };
    let bodies = [
        Header(header),
        Chunk(chunk(0, Bytes::from_static(&[1; 80]))),
        Chunk(chunk(80, Bytes::from_static(&[2; 80]))),
    ];
    let whole = bodies.into_iter().flat_map(|body| v1::UploadRequest { body: Some(body) }.frames().concat());
    vec![[19].into_iter().chain(whole).collect()]
}

/// An upload's header and payload, as far as they can be wrong, through everything that is checked.
pub(super) fn header(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let rule = &RULES[usize::from(input.byte()) % RULES.len()];
    let algorithm = (rule.make)(&algorithms::Params::default()).expect("an empty section is valid");
    let spec = RunSpec::from_toml(SPEC).expect("the run file is valid");
    let due = algorithm.upload(LENGTH);
    let how = input.byte();
    let mut vectors: Vec<v1::VectorShape> = due
        .iter()
        .map(|(name, length)| v1::VectorShape {
            name: (*name).to_owned(),
            length: *length as u64,
            element: v1::ElementType::F32.into(),
        })
        .collect();
    if how & 1 == 1 {
        let length = usize::from(input.byte() % 20);
        let strange = v1::VectorShape {
            name: input.text(length),
            length: input.word(),
            element: i32::from(input.byte()),
        };
        let at = usize::from(input.byte()) % (vectors.len() + 1);
        if how & 2 == 2 && at < vectors.len() { vectors[at] = strange } else { vectors.insert(at, strange) }
    }
    let total: usize = due.iter().map(|(_, length)| length).sum();
    let count = if how & 4 == 4 { usize::from(input.byte()) } else { total };
    let mut header = v1::UploadHeader {
        run: "fuzz-1".into(),
        round: input.word(),
        worker: "w".into(),
        vectors,
        digest: Vec::new(),
        examples: if how & 8 == 8 { input.word() } else { 1 + u64::from(input.byte()) },
        steps: u32::from_le_bytes(input.array()),
        lr: f32::from_le_bytes(input.array()),
        train_loss: f64::from_le_bytes(input.array()),
        seconds: f64::from_le_bytes(input.array()),
    };
    if how & 16 == 0 {
        header.lr = spec.lr(header.round);
        header.seconds = 1.0;
    }
    let values: Vec<f32> = (0..count).map(|_| f32::from_le_bytes(input.array())).collect();
    let announced = if how & 32 == 32 { input.bytes(32) } else { Digest::of_vector(&values).0.to_vec() };
    header.digest = announced;
    let Ok(facts) = coordinator::vet(&header, &values, (&spec, algorithm.as_ref(), LENGTH)) else {
        return false;
    };
    assert!(values.iter().all(|value| value.is_finite()));
    let mut accumulators = algorithms::fold::accumulators(algorithm.as_ref(), LENGTH);
    coordinator::fold(&mut accumulators, &due, &values, &facts);
    true
}

/// An assignment and an evaluation, as a worker reads them.
pub(super) fn assignment(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let (how, run) = (input.byte(), input.byte());
    let vector = |input: &mut Reader<'_>| {
        let (name, digest) = (usize::from(input.byte() % 16), usize::from(input.byte() % 40));
        v1::VectorRef { name: input.text(name), digest: input.bytes(digest), length: input.word() }
    };
    let vectors: Vec<v1::VectorRef> = (0..how >> 5).map(|_| vector(&mut input)).collect();
    let (round, lr) = (input.word(), f32::from_le_bytes(input.array()));
    let run = if how & 1 == 0 { "fuzz-1".to_owned() } else { input.text(usize::from(run)) };
    let spec = String::from_utf8_lossy(input.0).into_owned();
    let body = if how & 2 == 0 {
        let (committed, remaining_ms) = (Some(round), round);
        // Any number at all, where a run may promise nothing.
        let clip_norm = (how & 4 == 4).then_some(f64::from(lr));
        let assignment = v1::Assignment { run, round, spec, lr, committed, vectors, remaining_ms, clip_norm };
        Body::Assignment(assignment)
    } else {
        let model = vectors.into_iter().next();
        Body::Evaluate(v1::EvaluationRequest { run, round, spec, packed: model.clone(), model })
    };
    matches!(
        worker::message::read(v1::CoordinatorMessage { body: Some(body) }),
        Ok(Some(Command::Assign(_) | Command::Evaluate(_)))
    )
}

/// What is read can be written and read again; what is not has a reason.
fn same(read: Result<RunSpec, SpecError>) -> bool {
    match read {
        Ok(spec) => {
            let text = spec.to_json();
            let again = RunSpec::from_json(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(again.to_json(), text);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// A run file as people write it.
pub(super) fn run_toml(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| same(RunSpec::from_toml(text)))
}

/// A run file as it travels and is stored.
pub(super) fn run_json(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| same(RunSpec::from_json(text)))
}

/// Names of workers and runs, and digests.
pub(super) fn names(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let named = text.parse::<WorkerName>();
    if let Ok(name) = &named {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['/', '\\', '\0']), "a name may become a file's");
    }
    if let Ok(run) = text.parse::<RunId>() {
        assert_eq!(run.as_str(), text);
        assert!(!text.contains(['/', '\\', '\0']), "a name may become a file's");
    }
    if let Ok(digest) = Digest::from_bytes(data) {
        let json = serde_json::to_string(&digest).expect("a digest is text");
        assert_eq!(serde_json::from_str::<Digest>(&json).expect("the same text"), digest);
    }
    let _ = serde_json::from_slice::<Digest>(data);
    named.is_ok()
}

/// A join token.
pub(super) fn token(data: &[u8]) -> bool {
    let Ok(token) = String::from_utf8_lossy(data).parse::<identity::Token>() else { return false };
    let again: identity::Token = token.text().parse().expect("its own text");
    assert_eq!(
        (again.id(), again.secret(), again.authority()),
        (token.id(), token.secret(), token.authority())
    );
    true
}

/// By whom lists of revoked certificates are signed here.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let make = || Authority::create("fuzz", Validity::lasting(1_000, 1 << 32));
    AUTHORITY.get_or_init(|| make().expect("the library makes authorities"))
}

/// A list of revoked certificates, as peers pass it on.
pub(super) fn revocations(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let Ok(list) = Revocations::read(&text, authority().certificate()) else { return false };
    assert_eq!(Revocations::read(list.text(), authority().certificate()), Ok(list));
    true
}

/// Two holders on a list.
pub(super) fn a_list() -> Vec<u8> {
    let revoke = |list: &Revocations, name| authority().revoke(list, (Role::Peer, name), 2_000);
    let list = revoke(&Revocations::default(), "p1").and_then(|list| revoke(&list, "p2"));
    list.expect("the library signs").text().into()
}

/// A line of the event log, of the metrics or of the audit log.
pub(super) fn event(data: &[u8]) -> bool {
    let event = serde_json::from_slice::<RunEvent>(data);
    if let Ok(event) = &event {
        let text = serde_json::to_string(event).expect("an event is text");
        let again: RunEvent = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(serde_json::to_string(&again).expect("an event is text"), text);
    }
    let _ = serde_json::from_slice::<Metrics>(data);
    let _ = serde_json::from_slice::<Entry>(data);
    event.is_ok()
}

/// Run files, as text and as JSON.
pub(super) fn samples(name: &str) -> Vec<Vec<u8>> {
    let full = "name='all'\nrounds=20\nseed=7\n[model]\nkind='mlp'\nhidden=[32,16]\n[data]\nname='mnist'\n\
         partition={kind='dirichlet',alpha=0.3}\n[algorithm]\nkind='scaffold'\n[local]\nepochs=1\nbatch=50\n\
         lr=0.05\nlr_decay=0.998\nweight_decay=1e-3\nclip=10.0\n[cohort]\nfraction=0.1\nmin_updates=2\n\
         deadline_s=600\n[evaluation]\nevery=2\nfederated=true\n[vetting]\nmax_norm=100.0\n";
    let specs = [SPEC, full].map(|text| RunSpec::from_toml(text).map(|spec| (text, spec)));
    let valid = specs.into_iter().map(|spec| spec.expect("the run file is valid"));
    valid
        .map(|(text, spec)| match name {
            "run_toml" => text.as_bytes().to_vec(),
            "run_json" => spec.to_json().into_bytes(),
            // Nothing strange, then the specification: how, run, round, lr.
            _ => [vec![0; 14], spec.to_json().into_bytes()].concat(),
        })
        .collect()
}

/// Lines of the event log.
pub(super) fn events() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"a");
    let events = [
        RunEvent::Submitted { name: "a".into() },
        RunEvent::RoundOpened { round: 3, cohort: vec!["a".into(), "b".into()], deadline_s: 60 },
        RunEvent::UpdateApplied {
            round: 3,
            worker: "a".into(),
            examples: 10,
            train_loss: Some(0.5),
            seconds: 1.5,
        },
        RunEvent::RoundCommitted { round: 3, participants: 2, model_digest: digest },
        RunEvent::Finished { rounds: 4, model_digest: digest },
    ];
    events.iter().map(|event| serde_json::to_vec(event).expect("an event is text")).collect()
}

/// A vector in two chunks, as [`chunks`] takes it.
pub(super) fn a_transfer() -> Vec<Vec<u8>> {
    let payload = [7; LENGTH * 4];
    let (head, tail) = payload.split_at(100);
    let piece = |bytes: &[u8]| [&[15, bytes.len() as u8][..], bytes].concat();
    vec![[&Digest::of(&payload).0[..], &piece(head), &piece(tail)].concat()]
}
