//! The store against a real directory.

use super::*;
use crate::machine::Opening;
use proto::{event::RunEvent, spec::RunSpec};
use std::collections::BTreeMap;
use std::{fs, sync::Arc};

fn record(id: &str, number: u64) -> RunRecord {
    let spec = RunSpec::from_toml(
        "name = \"x\"\nrounds = 3\n[model]\nkind = \"flat\"\nparameters = 4\n[data]\nname = \"none\"\n",
    )
    .unwrap();
    RunRecord {
        id: id.to_owned(),
        number,
        spec,
        state: Stored::Active {},
        tensors: vec![("flat".into(), vec![4])],
        vectors: BTreeMap::new(),
        length: 4,
        lengths: BTreeMap::new(),
        round: 1,
        opening: Some(Opening { round: 1, cohort: vec!["a".into()], secret: None }),
        members: BTreeSet::from(["a".to_owned()]),
        population_before: 1,
        committed: BTreeMap::from([("a".to_owned(), 0)]),
        recalled: BTreeMap::new(),
        privacy: None,
        participations: BTreeMap::new(),
        ongoing: None,
        versions: BTreeMap::new(),
        profiles: BTreeMap::new(),
    }
}

fn event(sequence: u64) -> StoredEvent {
    StoredEvent { sequence, time_ms: 5, event: RunEvent::Paused {} }
}

#[test]
fn what_was_saved_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.next_number().unwrap(), 1);
    store.save(&record("x-2", 2), &[event(0)], None).unwrap();
    store.save(&record("x-1", 1), &[event(0), event(1)], None).unwrap();
    store.append("x-1", &[event(2)], None).unwrap();
    store.set_quarantine("bad", true).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.next_number().unwrap(), 2);
    assert_eq!(store.runs().unwrap(), [record("x-1", 1), record("x-2", 2)]);
    assert_eq!(store.events("x-1", 1, 10).unwrap(), [event(1), event(2)]);
    assert_eq!(store.next_sequence("x-1").unwrap(), 3);
    assert_eq!(store.next_sequence("unknown").unwrap(), 0);
    assert_eq!(store.quarantined().unwrap(), BTreeSet::from(["bad".to_owned()]));
}

#[test]
fn one_process_at_a_time_and_no_foreign_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _held = Store::open(dir.path()).unwrap();
    assert!(Store::open(dir.path()).unwrap_err().to_string().contains("in use"));
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("holiday.jpg"), b"x").unwrap();
    assert!(Store::open(foreign.path()).unwrap_err().to_string().contains("not empty"));
    let garbage = tempfile::tempdir().unwrap();
    fs::write(garbage.path().join("starling.redb"), b"this is no database").unwrap();
    assert!(Store::open(garbage.path()).unwrap_err().to_string().contains("cannot be opened"));
}

#[test]
fn vectors_are_named_by_what_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path().join("v")).unwrap();
    let small = Arc::new(vec![1.0_f32, 2.0]);
    let large = Arc::new((0..3_000_000).map(|i| i as f32).collect::<Vec<_>>());
    for vector in [&small, &large] {
        let digest = blobs.put(vector).unwrap();
        assert_eq!(digest, Digest::of_vector(vector));
        assert_eq!(blobs.get(digest, Vec::new).unwrap(), *vector);
        let reader = blobs.reader(digest).unwrap().unwrap();
        let mut assembler = proto::chunk::Assembler::new(vector.len(), digest);
        while let Some(chunk) = reader.chunk(assembler.received()).unwrap() {
            assembler.push(&chunk).unwrap();
        }
        assert_eq!(assembler.finish().unwrap(), **vector);
    }
    assert!(blobs.reader(Digest([0; 32])).unwrap().is_none());
    let keep = BTreeSet::from([Digest::of_vector(&large)]);
    blobs.retain(&keep).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("v")).unwrap().count(), 2, "nobody has named them yet");
    blobs.named(&BTreeSet::from([Digest::of_vector(&small), Digest::of_vector(&large)]));
    blobs.retain(&keep).unwrap();
    assert!(blobs.get(Digest::of_vector(&large), Vec::new).is_ok());
    assert_eq!(fs::read_dir(dir.path().join("v")).unwrap().count(), 1);
}

#[test]
fn a_damaged_vector_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path().to_owned()).unwrap();
    let digest = blobs.put(&Arc::new(vec![1.0_f32; 100])).unwrap();
    let path = dir.path().join(digest.to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[17] ^= 1;
    fs::write(&path, bytes).unwrap();
    let fresh = Blobs::open(dir.path().to_owned()).unwrap();
    assert!(fresh.get(digest, Vec::new).unwrap_err().to_string().contains("damaged"));
    let large = blobs.put(&Arc::new(vec![0.5_f32; 400_000])).unwrap();
    let path = dir.path().join(large.to_string());
    let bytes = fs::read(&path).unwrap();
    for damage in [
        |bytes: &mut Vec<u8>| bytes[1_200_000] ^= 1,
        |bytes: &mut Vec<u8>| bytes.truncate(4 * 256 * 1024),
        |bytes: &mut Vec<u8>| bytes.truncate(1_500_000),
        |bytes: &mut Vec<u8>| bytes.resize(3_000_000, 0),
    ] {
        let mut damaged = bytes.clone();
        damage(&mut damaged);
        fs::write(&path, damaged).unwrap();
        for blobs in [&blobs, &fresh] {
            let error = blobs.get(large, Vec::new).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }
    fs::write(&path, bytes).unwrap();
    assert_eq!(*blobs.get(large, Vec::new).unwrap(), vec![0.5; 400_000]);
    fs::write(dir.path().join("x.partial"), b"half").unwrap();
    Blobs::open(dir.path().to_owned()).unwrap();
    assert!(!dir.path().join("x.partial").exists());
}

#[test]
fn a_large_file_is_written_again_but_not_while_somebody_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path().to_owned()).unwrap();
    let put = |value: f32| {
        let digest = blobs.put(&Arc::new(vec![value; 300_000])).unwrap();
        blobs.named(&BTreeSet::from([digest]));
        digest
    };
    let inode = |digest: Digest| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join(digest.to_string())).unwrap())
    };
    let (first, second) = (put(1.0), put(2.0));
    let (of_first, of_second) = (inode(first), inode(second));
    blobs.retain(&BTreeSet::from([second])).unwrap();
    let third = put(3.0);
    assert_eq!(inode(third), of_first, "nobody needed it");
    assert!(blobs.reader(first).unwrap().is_none());
    let reader = blobs.reader(second).unwrap().unwrap();
    blobs.retain(&BTreeSet::from([third])).unwrap();
    let fourth = put(4.0);
    assert_ne!(inode(fourth), of_second, "somebody reads it");
    assert_eq!(reader.chunk(0).unwrap().unwrap().data[..4], 2.0_f32.to_le_bytes());
    for (digest, value) in [(third, 3.0), (fourth, 4.0)] {
        assert_eq!(*blobs.get(digest, Vec::new).unwrap(), vec![value; 300_000]);
        blobs.verify(digest).unwrap();
    }
    blobs.retain(&BTreeSet::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "kept to be written again");
    blobs.shrink().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn payment(round: u64, epsilon: f64) -> Payment {
    let event = r#"{"mechanism":{"kind":"gaussian","noise_multiplier":2.0},"sampling":{"kind":"everyone"},"count":1}"#;
    let gate = format!(r#"{{"budget":{{"epsilon":{epsilon},"delta":1e-5}},"rule":{{"kind":"schedule"}}}}"#);
    Payment {
        dataset: "d".into(),
        unit: privacy::Unit::Client,
        adjacency: privacy::Adjacency::ZeroOut,
        round,
        event: Some(serde_json::from_str(event).unwrap()),
        gate: Some(serde_json::from_str(&gate).unwrap()),
        delta: 1e-5,
    }
}

fn released(store: &Store, record: &RunRecord, round: u64) -> Release {
    store.release(record, &[], None, &payment(round, 5.0)).unwrap()
}

#[test]
fn a_release_is_paid_for_once_and_only_if_it_fits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let record = record("x-1", 1);
    let Release::Done { epsilon, last: None } = released(&store, &record, 1) else { panic!("refused") };
    // A retry costs nothing.
    assert_eq!(released(&store, &record, 1), Release::Done { epsilon, last: None });
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(released(&store, &record, 1), Release::Done { epsilon, last: None });
    assert_eq!(store.journal("d").unwrap().unwrap().ledger().events().len(), 1);
    let mut rounds = 1;
    let last = loop {
        rounds += 1;
        match released(&store, &record, rounds) {
            Release::Done { last: None, .. } => {}
            Release::Done { last: Some(why), epsilon } => break (why, epsilon),
            Release::Refused(why) => panic!("round {rounds}: {why}"),
        }
    };
    assert!(last.0.contains("above the budget of 5") && last.1 <= 5.0, "{last:?}");
    // Nothing of a refused release is written, not the record either.
    let mut next = record.clone();
    next.round = 99;
    assert!(matches!(released(&store, &next, rounds + 1), Release::Refused(_)));
    assert_eq!(store.runs().unwrap()[0].round, record.round);
    assert_eq!(store.journal("d").unwrap().unwrap().ledger().events().len() as u64, rounds);
    // Another promise cannot be added up.
    let other = Payment { adjacency: privacy::Adjacency::AddRemove, ..payment(rounds + 1, 50.0) };
    let refused = store.release(&next, &[], None, &other).unwrap();
    assert!(matches!(refused, Release::Refused(why) if why.contains("state the same")));
    // Until an operator says so.
    assert_eq!(store.reset_ledger("d", "the data was replaced").unwrap(), Some(1));
    assert_eq!(store.reset_ledger("e", "x").unwrap(), None);
    assert!(matches!(released(&store, &next, rounds + 1), Release::Done { .. }));
    drop(store);
    let journals = Store::open(dir.path()).unwrap().journals().unwrap();
    assert_eq!((journals.len(), journals[0].resets(), journals[0].ledger().events().len()), (1, 1, 1));
}
