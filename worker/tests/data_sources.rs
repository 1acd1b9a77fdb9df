//! Every source over sound and over broken files: what is read, and what the owner is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use image::{GrayImage, Luma, Rgb, RgbImage};
use tempfile::TempDir;
use worker::data::{DataError, DataInfo, Dataset, Inputs, Source, Split, TextKey, detect, stream};

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn from_json(json: &str, path: &Path) -> Source {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["path"] = path.to_str().unwrap().into();
    serde_json::from_value(value).unwrap()
}

fn fault(source: &Source, split: Split) -> String {
    source.load(split, 10).unwrap_err().to_string()
}

fn first(data: &Dataset) -> Vec<f32> {
    match data.batch(&[0], None).inputs {
        Inputs::Dense(values) => values,
        Inputs::Tokens(_) => panic!("not text"),
    }
}

fn idx(rank: u8, dims: &[u32], values: &[u8]) -> Vec<u8> {
    let sizes = dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, 8, rank].into_iter().chain(sizes).chain(values.iter().copied()).collect()
}

/// Three 2×3 training images with labels 0, 4, 1 and one test image with label 2.
fn idx_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let pixels: Vec<u8> = (0..18).map(|v| v * 10).collect();
    write(&folder, "train-images-idx3-ubyte.gz", gzip(&idx(3, &[3, 2, 3], &pixels)));
    write(&folder, "train-labels-idx1-ubyte", idx(1, &[3], &[0, 4, 1]));
    write(&folder, "t10k-images.idx3-ubyte", idx(3, &[1, 2, 3], &[255; 6]));
    write(&folder, "t10k-labels-idx1-ubyte.gz", gzip(&idx(1, &[1], &[2])));
    folder
}

#[test]
fn idx_is_read_and_detected() {
    let folder = idx_folder();
    let (name, source) = detect(folder.path()).unwrap();
    assert_eq!((name.as_str(), &source), ("mnist", &from_json(r#"{"kind": "idx"}"#, folder.path())));
    let info = DataInfo::Images { channels: 1, height: 2, width: 3, classes: 5 };
    assert_eq!(source.info(0).unwrap(), info);
    let train = source.load(Split::Train, 0).unwrap();
    assert_eq!((train.len(), train.info()), (3, &info));
    let batch = train.batch(&[2, 0], None);
    assert_eq!((batch.size, batch.labels), (2, vec![1, 0]));
    let Inputs::Dense(values) = batch.inputs else { panic!("images") };
    assert_eq!(values[0], (120.0 / 255.0 - 0.1307) / 0.3081);
    let test = source.load(Split::Test, 0).unwrap();
    assert_eq!((test.info(), test.class_histogram()), (&info, vec![0, 0, 1, 0, 0]));
}

#[test]
fn idx_faults_are_named() {
    let sound = from_json(r#"{"kind": "idx"}"#, Path::new("."));
    let broken = |name: &str, bytes: &[u8]| {
        let folder = idx_folder();
        write(&folder, name, bytes);
        let Source::Idx { classes, mean, std, .. } = sound.clone() else { panic!("idx") };
        fault(&Source::Idx { path: folder.path().to_owned(), classes, mean, std }, Split::Train)
    };
    let images = idx(3, &[3, 2, 3], &[0; 18]);
    let zipped = gzip(&images);
    let cases: [(&str, &[u8], &str); 6] = [
        ("train-images-idx3-ubyte", &images[..20], "ends after 4"),
        ("train-images-idx3-ubyte", b"GIF89a..", "starts with 47 49 46 38"),
        ("train-images-idx3-ubyte.gz", &zipped[..zipped.len() - 12], "unreadable after"),
        ("train-images-idx3-ubyte.gz", b"not gzip at all", "no complete header"),
        ("train-labels-idx1-ubyte", &idx(1, &[2], &[0, 1]), "3 images, but 2 labels in"),
        ("train-images-idx3-ubyte", &idx(3, &[3, 0, 3], &[]), "sizes [3, 0, 3]"),
    ];
    for (name, bytes, words) in cases {
        let message = broken(name, bytes);
        assert!(message.contains(words) && message.contains(name), "{message}");
    }
    let folder = idx_folder();
    let few = from_json(r#"{"kind": "idx", "classes": 3}"#, folder.path());
    assert!(fault(&few, Split::Train).contains("label 4 at example 1; expected labels below 3"));
    std::fs::remove_file(folder.path().join("t10k-images.idx3-ubyte")).unwrap();
    let error = few.load(Split::Test, 0).unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("t10k-images-idx3-ubyte.gz"), "{error}");
}

#[test]
fn a_test_split_may_stand_alone() {
    let folder = idx_folder();
    std::fs::remove_file(folder.path().join("train-images-idx3-ubyte.gz")).unwrap();
    let source = from_json(r#"{"kind": "idx", "classes": 10}"#, folder.path());
    assert_eq!(source.load(Split::Test, 0).unwrap().class_histogram()[2], 1);
}

#[test]
fn normalisation_can_be_configured() {
    let folder = idx_folder();
    let source = from_json(r#"{"kind": "idx", "mean": [0.5], "std": [0.25]}"#, folder.path());
    assert_eq!(first(&source.load(Split::Test, 0).unwrap()), [2.0; 6]);
    for (keys, words) in [
        (r#""mean": [0.5]"#, "std is absent"),
        (r#""mean": [0.5, 0.5], "std": [1.0]"#, "mean is [0.5, 0.5]; expected 1 finite numbers"),
        (r#""mean": [0.5], "std": [0.0]"#, "std is [0.0]; expected 1 positive numbers"),
        (r#""classes": 0"#, "classes is 0"),
    ] {
        let source = from_json(&format!(r#"{{"kind": "idx", {keys}}}"#), folder.path());
        let message = fault(&source, Split::Train);
        assert!(message.contains(words), "{message}");
    }
}

fn cifar_rows(labels: &[u8], extra: bool) -> Vec<u8> {
    let row = |&label: &u8| {
        let head = if extra { vec![0, label] } else { vec![label] };
        head.into_iter().chain(std::iter::repeat_n(label, 3072)).collect::<Vec<u8>>()
    };
    labels.iter().flat_map(row).collect()
}

#[test]
fn cifar_binary_is_read_and_detected() {
    let folder = TempDir::new().unwrap();
    for i in 1..=5u8 {
        write(&folder, &format!("data_batch_{i}.bin"), cifar_rows(&[i, 0], false));
    }
    write(&folder, "test_batch.bin", cifar_rows(&[9], false));
    let (name, source) = detect(folder.path()).unwrap();
    assert_eq!(name, "cifar10");
    let info = DataInfo::Images { channels: 3, height: 32, width: 32, classes: 10 };
    assert_eq!(source.info(0).unwrap(), info);
    let train = source.load(Split::Train, 0).unwrap();
    assert_eq!(train.labels().unwrap(), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
    let test = source.load(Split::Test, 0).unwrap();
    assert_eq!(
        (first(&test)[0], first(&test)[3071]),
        ((9.0 / 255.0 - 0.491) / 0.247, (9.0 / 255.0 - 0.447) / 0.262)
    );
    write(&folder, "data_batch_3.bin", cifar_rows(&[3], false).split_off(1));
    assert!(
        fault(&source, Split::Train).contains("data_batch_3.bin: 3072 bytes; expected a multiple of 3073")
    );

    let folder = TempDir::new().unwrap();
    write(&folder, "train.bin", cifar_rows(&[99, 4], true));
    write(&folder, "test.bin", cifar_rows(&[100], true));
    let (name, source) = detect(folder.path()).unwrap();
    assert_eq!(
        (name.as_str(), source.load(Split::Train, 0).unwrap().labels().unwrap()),
        ("cifar100", vec![99, 4])
    );
    assert!(fault(&source, Split::Test).contains("test.bin: label 100 in row 0"));
}

#[test]
fn csv_is_read_with_a_tenth_held_out() {
    let folder = TempDir::new().unwrap();
    let rows: String = (0..20).map(|i| format!("{i},{},{}", i % 3, i * 2)).collect::<Vec<_>>().join("\n");
    let path = write(&folder, "table.csv", rows);
    let source = from_json(r#"{"kind": "csv", "label": "1", "header": false}"#, &path);
    assert_eq!(source.info(0).unwrap(), DataInfo::Features { dimension: 2, classes: 3 });
    let (train, test) = (source.load(Split::Train, 0).unwrap(), source.load(Split::Test, 0).unwrap());
    assert_eq!((train.len(), test.labels().unwrap()), (18, vec![0, 1]));
    assert_eq!(train.normalisation(), test.normalisation());
    let all: Vec<usize> = (0..18).collect();
    let Inputs::Dense(values) = train.batch(&all, None).inputs else { panic!("features") };
    let mean = values.iter().step_by(2).sum::<f32>() / 18.0;
    let square = values.iter().step_by(2).map(|v| v * v).sum::<f32>() / 18.0;
    assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-4, "{mean} {square}");
    let other = write(&folder, "test.csv", "1,0\n");
    let Source::Csv { label, key, header, classes, mean, std, .. } = source else { panic!("csv") };
    let source = Source::Csv { path, test: Some(other), label, key, header, classes, mean, std };
    assert!(fault(&source, Split::Test).contains("test.csv: feature columns [\"0\"]"));
}

#[test]
fn text_windows_predict_the_next_character() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "poem.txt", "abcdefghijklmnopqrstuvwxyz".repeat(2) + "\u{e9}\n\n");
    let (name, source) = detect(folder.path()).unwrap();
    assert_eq!((name.as_str(), &source), ("poem", &Source::Text { path, key: TextKey::None }));
    assert_eq!(source.info(7).unwrap(), DataInfo::Text { vocabulary: 97, sequence: 7 });
    let train = source.load(Split::Train, 7).unwrap();
    let test = source.load(Split::Test, 7).unwrap();
    assert_eq!((train.len(), test.len()), (6, 1));
    assert!(train.keys().is_none() && train.labels().is_none() && train.class_histogram().is_empty());
    let batch = train.batch(&[1, 0], None);
    let letters = |range: std::ops::Range<u32>| range.map(|i| i % 26 + 66).collect::<Vec<u32>>();
    assert_eq!(batch.inputs, Inputs::Tokens([letters(7..14), letters(0..7)].concat()));
    assert_eq!(batch.labels, [letters(8..15), letters(1..8)].concat());
    let message = source.load(Split::Train, 40).unwrap_err().to_string();
    assert!(message.contains("poem.txt: no speaker (or text) has two windows of 40"), "{message}");
    assert!(source.load(Split::Train, 0).unwrap_err().to_string().contains("sequence is 0"));
    let Source::Text { path, .. } = source else { panic!("text") };
    let message = fault(&Source::Text { path, key: TextKey::Speaker }, Split::Train);
    assert!(message.contains("no speaker; expected lines `NAME:`"), "{message}");
}

#[test]
fn bytes_that_are_no_text_become_unknown() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "noise.txt", [0xff, 0xfe, b'a', 0x80, b'\n'].repeat(20));
    let data = Source::Text { path, key: TextKey::None }.load(Split::Train, 5).unwrap();
    assert_eq!(data.batch(&[0], None).inputs, Inputs::Tokens(vec![96, 96, 66, 96, 0]));
}

fn picture(folder: &TempDir, name: &str, level: u8) {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(4, 3, Rgb([level, 0, 255])).save(path).unwrap();
}

#[test]
fn folders_are_read_and_detected() {
    let folder = TempDir::new().unwrap();
    for i in 0..12 {
        picture(&folder, &format!("train/cat/{i:02}.png"), i);
        picture(&folder, &format!("train/dog/{i:02}.jpg"), 100 + i);
    }
    picture(&folder, "test/dog/1.PNG", 50);
    write(&folder, "train/cat/notes.md", "no image");
    let (_, source) = detect(folder.path()).unwrap();
    assert_eq!(source.info(0).unwrap(), DataInfo::Images { channels: 3, height: 3, width: 4, classes: 2 });
    let train = source.load(Split::Train, 0).unwrap();
    assert_eq!(train.class_histogram(), [12, 12]);
    let keys = train.keys().unwrap();
    assert_eq!((keys.names, keys.of[0], keys.of[23]), (&["cat".to_owned(), "dog".into()][..], 0, 1));
    // Constants come from the training images for either split.
    assert_eq!(source.load(Split::Test, 0).unwrap().normalisation(), train.normalisation());
    picture(&folder, "test/cow/1.png", 1);
    assert!(fault(&source, Split::Test).contains("class folder cow"));
}

#[test]
fn one_folder_of_classes_is_divided() {
    let folder = TempDir::new().unwrap();
    for i in 0..20 {
        picture(&folder, &format!("a/{i:02}.png"), i);
        picture(&folder, &format!("b/{i:02}.png"), i);
    }
    let (_, source) = detect(folder.path()).unwrap();
    let count = |split| source.load(split, 0).unwrap().class_histogram();
    assert_eq!((count(Split::Train), count(Split::Test)), (vec![18, 18], vec![2, 2]));
}

#[test]
fn faulty_pictures_are_named() {
    let folder = TempDir::new().unwrap();
    let source = from_json(r#"{"kind": "folder"}"#, folder.path());
    assert!(fault(&source, Split::Train).contains("a folder of images for each class"));
    (0..3).for_each(|i| picture(&folder, &format!("a/{i}.png"), i));
    assert!(fault(&source, Split::Test).contains("no image for Test"));
    RgbImage::new(5, 3).save(folder.path().join("a/2.png")).unwrap();
    let message = fault(&source, Split::Train);
    assert!(message.contains("2.png: image is 3×3×5") && message.contains("3×3×4"), "{message}");
    write(&folder, "a/1.png", b"\x89PNG\r\n\x1a\nbroken");
    assert!(fault(&source, Split::Train).contains("1.png: "));
    // Grey among colour is spread over the channels.
    GrayImage::from_pixel(4, 3, Luma([9])).save(folder.path().join("a/1.png")).unwrap();
    GrayImage::from_pixel(4, 3, Luma([9])).save(folder.path().join("a/2.png")).unwrap();
    assert_eq!(source.load(Split::Train, 0).unwrap().len(), 3);
    // Colour among grey would lose its colour.
    GrayImage::from_pixel(4, 3, Luma([9])).save(folder.path().join("a/0.png")).unwrap();
    picture(&folder, "a/2.png", 7);
    assert!(fault(&source, Split::Train).contains("expected 1×3×4"));
}

#[test]
fn a_table_is_detected_with_its_label_column() {
    let folder = TempDir::new().unwrap();
    let label = |source: &Source| match source {
        Source::Csv { label, .. } => label.clone(),
        other => panic!("{other:?}"),
    };
    let rows = (0..20).map(|i| format!("{},{i},0.5", i % 2)).collect::<Vec<_>>().join("\n");
    write(&folder, "wine.csv", format!("Class,a,b\n{rows}"));
    let (name, source) = detect(folder.path()).unwrap();
    assert_eq!((name.as_str(), label(&source).as_str()), ("wine", "Class"));
    assert_eq!(source.load(Split::Train, 0).unwrap().len(), 18);
    write(&folder, "wine.csv", "a,b,c\n1,2,0\n");
    assert_eq!(label(&detect(&folder.path().join("wine.csv")).unwrap().1), "c");
    write(&folder, "more.csv", "a,b,c\n1,2,0\n");
    assert!(matches!(detect(folder.path()), Err(DataError::Unknown { .. })), "which of the two?");
}

#[test]
fn nothing_to_detect_lists_what_was_looked_for() {
    let folder = TempDir::new().unwrap();
    let message = detect(folder.path()).unwrap_err().to_string();
    assert!(message.contains("train-images-idx3-ubyte") && message.contains("CLASS"), "{message}");
    write(&folder, "a.txt", "x");
    write(&folder, "b.txt", "x");
    assert!(matches!(detect(folder.path()), Err(DataError::Unknown { .. })));
    assert!(matches!(detect(&folder.path().join("absent")), Err(DataError::Read { .. })));
}

#[test]
fn configuration_is_strict_and_round_trips() {
    let digits: Source = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
    assert_eq!(digits, Source::Digits { train: 10_000, test: 2_000, seed: 0 });
    let text = r#"{"kind": "text", "path": "a.txt", "key": "none"}"#;
    let source: Source = serde_json::from_str(text).unwrap();
    let again: Source = serde_json::from_str(&serde_json::to_string(&source).unwrap()).unwrap();
    assert_eq!(source, again);
    let message = serde_json::from_str::<Source>(r#"{"kind": "idx", "path": "a", "clases": 3}"#).unwrap_err();
    assert!(message.to_string().contains("clases"), "{message}");
}

#[test]
fn views_share_and_batches_augment_by_seed() {
    let data = Source::Digits { train: 60, test: 1, seed: 0 }.load(Split::Train, 0).unwrap();
    let view = data.subset(&[50, 7, 7]);
    assert_eq!((view.len(), view.labels().unwrap()), (3, vec![0, 7, 7]));
    assert_eq!(view.batch(&[1, 0], None), data.batch(&[7, 50], None));
    assert_eq!(view.subset(&[2, 0]).batch(&[0], None), data.batch(&[7], None));
    let all: Vec<usize> = (0..60).collect();
    let augmented = |seed| data.batch(&all, Some(&mut stream("test", &[seed])));
    assert_eq!(augmented(1), augmented(1));
    assert_ne!(augmented(1), augmented(2));
    assert_ne!(augmented(1), data.batch(&all, None));
    assert_eq!(augmented(1).labels, data.batch(&all, None).labels);
}
