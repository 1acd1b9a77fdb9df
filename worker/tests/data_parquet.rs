//! Parquet image tables: sound ones written by another implementation, and damaged ones.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use worker::data::{DataInfo, Inputs, Source, Split, detect};

fn source(path: &Path, image: Option<&str>, label: Option<&str>) -> Source {
    let (image, label) = (image.map(str::to_owned), label.map(str::to_owned));
    Source::Parquet { path: path.to_owned(), image, label, classes: None, mean: None, std: None }
}

fn fault(source: &Source, split: Split) -> String {
    source.load(split, 0).unwrap_err().to_string()
}

fn parquet_fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/parquet")
}

/// The fixture was written by pyarrow: several files, row groups and codecs; PNG and JPEG.
#[test]
fn parquet_is_read_and_detected() {
    let (name, source) = detect(&parquet_fixture()).unwrap();
    assert_eq!(name, "parquet");
    let info = DataInfo::Images { channels: 3, height: 6, width: 8, classes: 3 };
    assert_eq!(source.info(0).unwrap(), info);
    let train = source.load(Split::Train, 0).unwrap();
    assert_eq!(train.labels().unwrap(), [0, 1, 2, 0, 1, 2, 0]);
    let Source::Parquet { path, image, label, classes, .. } = source else { panic!("parquet") };
    let (mean, std) = (Some(vec![0.0; 3]), Some(vec![1.0 / 255.0; 3]));
    let plain = Source::Parquet { path, image, label, classes, mean, std };
    let test = plain.load(Split::Test, 0).unwrap();
    assert_eq!(test.info(), &info);
    // Row 1 of the test file is a PNG of (v, 255 − v, 2v) with v = 60 + 3x + 5y.
    let Inputs::Dense(values) = test.batch(&[1, 0], None).inputs else { panic!("images") };
    for (plane, expected) in [(0, 60 + 3 * 7 + 5 * 2), (1, 255 - 91), (2, 182)] {
        assert_eq!(values[plane * 48 + 2 * 8 + 7].round() as i32, expected);
    }
    // Row 0 is a JPEG of the same with v = 30 + …: near, not exact.
    assert!((values[144 + 2 * 8 + 7] - 61.0).abs() < 12.0);
}

#[test]
fn parquet_faults_are_named() {
    let fixture = parquet_fixture();
    let message = fault(&source(&fixture, Some("photo"), None), Split::Train);
    assert!(message.contains("expected a column photo.bytes or photo of type BYTE_ARRAY"), "{message}");
    assert!(
        message.contains("image.bytes (BYTE_ARRAY), image.path (BYTE_ARRAY), label (INT64)"),
        "{message}"
    );
    let message = fault(&source(&fixture, None, Some("image.bytes")), Split::Train);
    assert!(message.contains("of type INT64 or INT32"), "{message}");
    let message = fault(&source(&fixture, Some("image.path"), None), Split::Train);
    assert!(message.contains("null"), "{message}");
    let empty = TempDir::new().unwrap();
    let message = fault(&source(empty.path(), None, None), Split::Test);
    assert!(message.contains("test-*.parquet not found"), "{message}");
}

#[test]
fn an_undecodable_picture_is_named_by_file_and_row() {
    let mut bytes = std::fs::read(parquet_fixture().join("test-00000-of-00001.parquet")).unwrap();
    // The file is not compressed; row 1 is the first PNG in it.
    let png = bytes.windows(4).position(|w| w == b"\x89PNG").unwrap();
    bytes[png + 16] = 0xff;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("train-0.parquet"), bytes).unwrap();
    let message = fault(&source(folder.path(), None, None), Split::Train);
    assert!(message.contains("train-0.parquet: row 1: "), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damaged_parquet_never_panics(
        hits in proptest::collection::vec((0usize..1 << 16, any::<u8>()), 1..4),
        cut in 0usize..6000,
        shorten: bool,
        tail: bool,
    ) {
        let mut bytes = std::fs::read(parquet_fixture().join("train-00000-of-00002.parquet")).unwrap();
        // The footer is where lengths and offsets are.
        let from = if tail { bytes.len().saturating_sub(1200) } else { 0 };
        for (at, value) in hits {
            let at = from + at % (bytes.len() - from);
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut);
        }
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("train-0.parquet"), bytes).unwrap();
        let source = source(folder.path(), None, None);
        let _ = source.info(0);
        if let Err(error) = source.load(Split::Train, 0) {
            prop_assert!(error.to_string().contains("train-0.parquet"), "{}", error);
        }
    }
}
