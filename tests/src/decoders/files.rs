//! Decoders of files: identities, client state, data sets.

use super::Reader;
use crate::memory_dir;
use algorithms::Vectors;
use identity::{Authority, Bundle, Role, Validity};
use proto::{
    digest::Digest,
    names::{RunId, WorkerName},
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use worker::{
    client_state::{Facts, Pending, States},
    data::{Source, Split, TextKey},
};

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("the folder is ours");
    fs::write(path, bytes).expect("the folder is ours");
}

/// Loads both halves; what can be loaded must be usable.
fn load(source: &Source, sequence: usize) -> bool {
    let mut accepted = false;
    for split in [Split::Train, Split::Test] {
        if let Ok(data) = source.load(split, sequence) {
            assert!(!data.is_empty(), "an empty data set is an error");
            assert_eq!(data.batch(&[0, data.len() - 1], None).size, 2);
            accepted = true;
        }
    }
    let _ = source.info(sequence);
    accepted
}

/// An identity's file, and an authority's.
pub(super) fn bundle(data: &[u8]) -> bool {
    let dir = memory_dir();
    let file = dir.path().join("identity.pem");
    put(&file, data);
    // A key that others may read is refused before anything is read.
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the folder is ours");
    let mut accepted = false;
    if let Ok(Some(bundle)) = Bundle::load(&file) {
        accepted = true;
        bundle.save(&file).expect("the folder is ours");
        let again = Bundle::load(&file).expect("it was just written").expect("it is there");
        assert_eq!(again.identity(), bundle.identity());
    }
    let authority = Authority::load(&file);
    if let Ok(authority) = &authority {
        assert_eq!(authority.certificate_pem().matches("BEGIN").count(), 1);
    }
    accepted || authority.is_ok()
}

const WORKER: &str = "w";
const RUN: &str = "fuzz-1";

/// A client state's file; the checksum is made right unless the first byte is odd.
pub(super) fn state(data: &[u8]) -> bool {
    let (run, worker): (RunId, WorkerName) = (name(RUN), name(WORKER));
    let Some((first, content)) = data.split_first() else { return false };
    let mut bytes = content.to_vec();
    if first & 1 == 0 {
        bytes.truncate(content.len().saturating_sub(32));
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
    }
    let dir = memory_dir();
    let file = dir.path().join(format!("runs/{RUN}.state"));
    put(&file, &bytes);
    let mut states = States::open(dir.path(), &worker).expect("the folder is ours");
    match states.get(&run, "scaffold", true).map(|durable| durable.clone()) {
        Ok(read) => {
            states.save(&run).expect("the folder is ours");
            drop(states);
            let mut again = States::open(dir.path(), &worker).expect("the folder is ours");
            let again = again.get(&run, "scaffold", true).expect("it was just written");
            // By bits: elements may be no numbers.
            assert_eq!(format!("{again:?}"), format!("{read:?}"));
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(RUN), "{error}");
            assert_eq!(
                fs::read(&file).expect("it stays"),
                bytes,
                "a file that cannot be read stays as it is"
            );
            false
        }
    }
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

/// MNIST's layout: the bytes are the images' file and, from the middle on, the labels'.
pub(super) fn idx(data: &[u8]) -> bool {
    let mut input = Reader(data);
    let (how, cut) = (input.byte(), usize::from(u16::from_le_bytes(input.array())));
    let (images, labels) = input.0.split_at(cut.min(input.0.len()));
    let ending = if how & 1 == 1 { ".gz" } else { "" };
    let dir = memory_dir();
    for split in ["train", "t10k"] {
        put(&dir.path().join(format!("{split}-images-idx3-ubyte{ending}")), images);
        put(&dir.path().join(format!("{split}-labels-idx1-ubyte{ending}")), labels);
    }
    load(&Source::Idx { path: dir.path().into(), classes: None, mean: None, std: None }, 1)
}

/// CIFAR's binary rows.
pub(super) fn cifar(data: &[u8]) -> bool {
    let Some((how, data)) = data.split_first() else { return false };
    let (files, classes): (&[&str], _) = match how & 3 {
        0 => (&["train.bin", "test.bin"], 100),
        _ => (
            &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
                "test_batch.bin",
            ],
            10,
        ),
    };
    let dir = memory_dir();
    for file in files {
        put(&dir.path().join(file), data);
    }
    load(&Source::CifarBinary { path: dir.path().into(), classes: Some(classes), mean: None, std: None }, 1)
}

/// A Parquet file of images.
pub(super) fn parquet(data: &[u8]) -> bool {
    let dir = memory_dir();
    for split in ["train", "test"] {
        put(&dir.path().join(format!("{split}-00000-of-00001.parquet")), data);
    }
    let path: PathBuf = dir.path().into();
    load(&Source::Parquet { path, image: None, label: None, classes: None, mean: None, std: None }, 1)
}

/// A folder with one image twice.
pub(super) fn images(data: &[u8]) -> bool {
    let dir = memory_dir();
    for file in ["train/a/1.png", "train/b/1.jpg", "test/a/1.png"] {
        put(&dir.path().join(file), data);
    }
    load(&Source::Folder { path: dir.path().into(), mean: None, std: None }, 1)
}

/// A table; the first byte says whether it has a header and a key column.
pub(super) fn csv(data: &[u8]) -> bool {
    let Some((how, data)) = data.split_first() else { return false };
    let dir = memory_dir();
    let path = dir.path().join("table.csv");
    put(&path, data);
    let header = how & 1 == 0;
    let source = Source::Csv {
        path,
        test: None,
        label: if header { "label".into() } else { "0".into() },
        key: (how & 2 == 2).then(|| if header { "key".into() } else { "1".into() }),
        header,
        classes: None,
        mean: None,
        std: None,
    };
    load(&source, 1)
}

/// A text; the first byte gives the length of a window and whether speakers divide it.
pub(super) fn text(data: &[u8]) -> bool {
    let Some((how, data)) = data.split_first() else { return false };
    let dir = memory_dir();
    let path = dir.path().join("text.txt");
    put(&path, data);
    let key = if how & 1 == 1 { TextKey::Speaker } else { TextKey::None };
    load(&Source::Text { path, key }, usize::from(how >> 1))
}

/// Valid files.
pub(super) fn samples(kind: &str) -> Vec<Vec<u8>> {
    match kind {
        "bundle" => bundles(),
        "state" => vec![a_state()],
        "idx" => {
            let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3][..], &[7; 18]].concat();
            let labels = [0, 0, 8, 1, 0, 0, 0, 2, 1, 0];
            vec![[&[0, images.len() as u8, 0][..], &images, &labels].concat()]
        }
        "cifar" => vec![[&[1][..], &[3; 3073]].concat(), [&[0][..], &[3; 3074]].concat()],
        "images" => vec![a_png()],
        "csv" => vec![
            b"\x00x,y,label\n1,2,0\n3,4,1\n5,6.5,1\n-1e3,2,0\n".to_vec(),
            b"\x030,a,1.5\n1,b,2.5\n0,a,3\n".to_vec(),
            b"\x02x,key,label\n1,a,0\n3,b,1\n".to_vec(),
        ],
        "text" => vec![
            b"\x09ANNA:\nGood morrow, all.\n\nBERT:\nAnd to you, good Anna, and to all.\n\nANNA:\nFarewell.\n".to_vec(),
        ],
        // A reader of Parquet needs a writer's file: the fixture of the worker's tests.
        _ => {
            let file = "../worker/tests/fixtures/data/parquet/test-00000-of-00001.parquet";
            fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).into_iter().collect()
        }
    }
}

fn bundles() -> Vec<Vec<u8>> {
    let valid = Validity { from: 1_000_000_000, until: 4_000_000_000 };
    let authority = Authority::create("fuzz", valid).expect("an authority");
    let bundle = Bundle::issue(&authority, Role::Worker, WORKER, (&[], valid)).expect("an identity");
    let dir = memory_dir();
    let files = ["authority.pem", "identity.pem"].map(|name| dir.path().join(name));
    authority.save(&files[0]).expect("the folder is ours");
    bundle.save(&files[1]).expect("the folder is ours");
    files.iter().map(|file| fs::read(file).expect("it was just written")).collect()
}

fn a_state() -> Vec<u8> {
    let (run, worker): (RunId, WorkerName) = (name(RUN), name(WORKER));
    let dir = memory_dir();
    let mut states = States::open(dir.path(), &worker).expect("the folder is ours");
    let vectors = |value: f32| Vectors::from([("c".to_owned(), Arc::new(vec![value; 5]))]);
    let durable = states.get(&run, "scaffold", true).expect("there is no file yet");
    durable.state = vectors(1.0);
    durable.round = Some(3);
    durable.pending = Some(Pending {
        round: 4,
        basis: Digest::of(b"basis"),
        facts: Facts { examples: 10, steps: 5, lr: 0.1, train_loss: 0.5, seconds: 1.0 },
        digest: Digest::of(b"upload"),
        upload: vectors(2.0),
        next: vectors(3.0),
    });
    states.save(&run).expect("the folder is ours");
    [vec![0], fs::read(dir.path().join(format!("runs/{RUN}.state"))).expect("it was just written")].concat()
}

/// A PNG of 2 × 2 grey pixels.
fn a_png() -> Vec<u8> {
    vec![
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0,
        87, 221, 82, 248, 0, 0, 0, 14, 73, 68, 65, 84, 120, 156, 99, 16, 104, 96, 56, 240, 31, 0, 4, 213, 2,
        80, 42, 11, 186, 50, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
    ]
}
