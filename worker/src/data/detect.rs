//! What lies in a folder that a person points at with `--data`.

use std::path::Path;

use super::augment::Pixels;
use super::images::{Overrides, Reader as _, first_existing};
use super::parquet::{self, Parquet};
use super::{DataError, Source, Split, TextKey, csv, folder, idx, text};

const LOOKED_FOR: &str = "train-images-idx3-ubyte[.gz] (MNIST), data_batch_1.bin (CIFAR-10), train.bin \
    (CIFAR-100), train-*.parquet (Hugging Face images), exactly one .txt or .csv file, folders of .png or .jpg \
    images (train/CLASS/* or CLASS/*)";

/// Names that label columns have.
const LABELS: [&str; 5] = ["label", "class", "target", "y", "labels"];

/// Recognises a data set by its files; returns the name that runs will know it by, and its source.
///
/// MNIST's files give `mnist`, CIFAR's `cifar10` or `cifar100` (Parquet files too, if they hold 32×32
/// colour images of 10 or 100 classes); a text or table is named by its file, anything else by its folder.
pub fn detect(path: &Path) -> Result<(String, Source), DataError> {
    let unknown = || DataError::Unknown { path: path.to_owned(), looked_for: LOOKED_FOR };
    if path.is_file() {
        return file_source(path).unwrap_or_else(|| Err(unknown()));
    }
    // An unreadable or absent folder is its own error.
    let entries = folder::entries(path)?;
    if first_existing(path, &idx::names(Split::Train, "images", 3)).is_ok() {
        let source = Source::Idx { path: path.to_owned(), classes: None, mean: None, std: None };
        return Ok(("mnist".into(), source));
    }
    for (file, name, classes) in [("data_batch_1.bin", "cifar10", 10), ("train.bin", "cifar100", 100)] {
        if path.join(file).is_file() {
            let (path, classes) = (path.to_owned(), Some(classes));
            return Ok((name.into(), Source::CifarBinary { path, classes, mean: None, std: None }));
        }
    }
    if !parquet::files(path, Split::Train)?.is_empty() {
        return parquet_source(path);
    }
    for extension in ["txt", "csv"] {
        let files: Vec<_> =
            entries.iter().filter(|entry| entry.is_file() && ends(entry, extension)).collect();
        if let [only] = files[..]
            && let Some(source) = file_source(only)
        {
            return source;
        }
    }
    if has_images(path)? || has_images(&path.join("train"))? {
        let source = Source::Folder { path: path.to_owned(), mean: None, std: None };
        return Ok((folder_name(path), source));
    }
    Err(unknown())
}

fn ends(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// One file that is a whole data set.
fn file_source(path: &Path) -> Option<Result<(String, Source), DataError>> {
    if ends(path, "txt") {
        return Some(text_source(path));
    }
    ends(path, "csv").then(|| csv_source(path))
}

/// A table with a header; its label column is the one that is named like one, or else the last.
fn csv_source(path: &Path) -> Result<(String, Source), DataError> {
    let columns = csv::columns(path)?;
    let named = LABELS.iter().find_map(|label| columns.iter().find(|name| name.eq_ignore_ascii_case(label)));
    let label = named.or(columns.last()).cloned().unwrap_or_default();
    let source = Source::Csv {
        path: path.to_owned(),
        test: None,
        label,
        key: None,
        header: true,
        classes: None,
        mean: None,
        std: None,
    };
    Ok((stem(path), source))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn text_source(path: &Path) -> Result<(String, Source), DataError> {
    let key = if text::has_speakers(path)? { TextKey::Speaker } else { TextKey::None };
    Ok((stem(path), Source::Text { path: path.to_owned(), key }))
}

fn parquet_source(path: &Path) -> Result<(String, Source), DataError> {
    let reader = Parquet { folder: path, image: None, label: None };
    let none = Overrides { classes: None, mean: None, std: None };
    let classes = none.classes(path, || reader.labels(Split::Train))?;
    let name = match (reader.shape()?, classes) {
        (Pixels { channels: 3, height: 32, width: 32 }, 10 | 100) => format!("cifar{classes}"),
        _ => folder_name(path),
    };
    let path = path.to_owned();
    Ok((name, Source::Parquet { path, image: None, label: None, classes: None, mean: None, std: None }))
}

/// Whether a sub-folder of `root` holds an image.
fn has_images(root: &Path) -> Result<bool, DataError> {
    if !root.is_dir() {
        return Ok(false);
    }
    for name in folder::folders(root)? {
        if !folder::images(&root.join(name))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn folder_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    full.file_name().map_or_else(|| "images".into(), |name| name.to_string_lossy().into_owned())
}
