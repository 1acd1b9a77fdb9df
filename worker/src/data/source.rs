//! The `[data.NAME]` table of a configuration: where a data set lies and how it is read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::images::{self, Overrides, Reader};
use super::{DataError, DataInfo, Split};
use super::{cifar, csv, digits, folder, idx, parquet, text};

/// One entry of a worker's (or the coordinator's) configuration.
///
/// `classes`, `mean` and `std` exist because what is derived from local data may differ between
/// workers: in a federation set them alike everywhere, unless the data set's constants are published
/// ones that Starling knows (MNIST's for IDX; CIFAR's for 32×32 colour images with 10 or 100 classes).
/// Otherwise mean and deviation are measured on the local training split, per channel or feature.
///
/// Augmentation follows the source too: colour images are flipped and cropped, greyscale images (IDX,
/// digits, greyscale Parquet and folders) only cropped, since a mirrored digit or letter is another
/// one; features and text are never augmented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A folder with `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, each plain or `.gz` (MNIST).
    Idx {
        /// The folder.
        path: PathBuf,
        /// Number of labels; default: the largest training label plus one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        classes: Option<usize>,
        /// Normalisation; default: MNIST's 0.1307.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<Vec<f32>>,
        /// Normalisation; default: MNIST's 0.3081.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<Vec<f32>>,
    },
    /// A folder with CIFAR's binary version: `data_batch_1.bin` … `test_batch.bin` (10 classes) or
    /// `train.bin`, `test.bin` (100 classes, fine labels).
    CifarBinary {
        /// The folder.
        path: PathBuf,
        /// 10 or 100; default: whichever files are there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        classes: Option<usize>,
        /// Normalisation, three numbers; default: FL-Simulator's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<Vec<f32>>,
        /// Normalisation, three numbers; default: FL-Simulator's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<Vec<f32>>,
    },
    /// A folder with `train-*.parquet` and `test-*.parquet` in the Hugging Face image layout: a struct
    /// column with a `bytes` field (JPEG or PNG, all of one size) and an integer label column.
    Parquet {
        /// The folder.
        path: PathBuf,
        /// The image column; default: `img` or `image`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        /// The label column; default: `label`, `labels` or `fine_label`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// Number of labels; default: the largest training label plus one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        classes: Option<usize>,
        /// Normalisation, one number per channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<Vec<f32>>,
        /// Normalisation, one number per channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<Vec<f32>>,
    },
    /// A table of numbers with one integer label column.
    Csv {
        /// The training rows.
        path: PathBuf,
        /// The test rows; default: every tenth row of `path`, which training then leaves out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test: Option<PathBuf>,
        /// The label column, by name (by number from 0 if there is no header).
        label: String,
        /// A column that names the natural client of each row; it is no feature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Whether the first line names the columns.
        #[serde(default = "yes")]
        header: bool,
        /// Number of labels; default: the largest training label plus one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        classes: Option<usize>,
        /// Normalisation, one number per feature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<Vec<f32>>,
        /// Normalisation, one number per feature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<Vec<f32>>,
    },
    /// A text whose characters are predicted one by one, over a fixed alphabet of 97: line feed,
    /// printable ASCII, and one symbol for all else (bytes that are no UTF-8 included).
    Text {
        /// The file.
        path: PathBuf,
        /// What divides the text among natural clients.
        #[serde(default)]
        key: TextKey,
    },
    /// Image folders: `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*`, of which every tenth file (by
    /// name) is for testing. PNG and JPEG, all of one size. The class folder is the natural key.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Normalisation, one number per channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<Vec<f32>>,
        /// Normalisation, one number per channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<Vec<f32>>,
    },
    /// Digits that are drawn rather than read: 28×28 greyscale, 10 classes, no file needed.
    Digits {
        /// Training images.
        #[serde(default = "default_train")]
        train: usize,
        /// Test images.
        #[serde(default = "default_test")]
        test: usize,
        /// Another seed draws other images of the same distribution.
        #[serde(default)]
        seed: u64,
    },
}

/// What divides a text among natural clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextKey {
    /// A line `NAME:` after an empty line (or at the start) opens a speech; clients are speakers.
    #[default]
    Speaker,
    /// One stream without keys; lines `NAME:` are text like any other.
    None,
}

fn yes() -> bool {
    true
}
fn default_train() -> usize {
    10_000
}
fn default_test() -> usize {
    2_000
}

impl Default for Source {
    /// The procedural digits: the one source that needs no file.
    fn default() -> Self {
        Self::Digits { train: default_train(), test: default_test(), seed: 0 }
    }
}

/// A source, ready to be read.
enum Opened<'a> {
    Images(Box<dyn Reader + 'a>),
    Table(csv::Table<'a>),
    Text(&'a Path, TextKey),
}

impl Source {
    /// Reads one split into memory; `sequence` is the number of characters in a window of text.
    ///
    /// Where a default must be derived from the training split (see the type), loading the test split
    /// reads the training split too.
    pub fn load(&self, split: Split, sequence: usize) -> Result<Dataset, DataError> {
        match self.open() {
            Opened::Images(reader) => images::load(&*reader, self.overrides(), split),
            Opened::Table(table) => csv::load(&table, self.overrides(), split),
            Opened::Text(path, key) => text::load(path, key, split, sequence),
        }
    }

    /// What a model must know, with as little reading as the format allows.
    pub fn info(&self, sequence: usize) -> Result<DataInfo, DataError> {
        match self.open() {
            Opened::Images(reader) => images::info(&*reader, self.overrides()),
            Opened::Table(table) => Ok(csv::load(&table, self.overrides(), Split::Train)?.info().clone()),
            Opened::Text(path, key) => Ok(text::load(path, key, Split::Train, sequence)?.info().clone()),
        }
    }

    /// Whether `mean` and `std` are missing where they may have to be measured on the data.
    pub fn measures(&self) -> bool {
        let given = self.overrides();
        let measurable = matches!(self, Self::Parquet { .. } | Self::Csv { .. } | Self::Folder { .. });
        measurable && (given.mean.is_none() || given.std.is_none())
    }

    fn open(&self) -> Opened<'_> {
        match self {
            Self::Idx { path, .. } => Opened::Images(Box::new(idx::Idx { folder: path })),
            Self::CifarBinary { path, classes, .. } => {
                Opened::Images(Box::new(cifar::Cifar { folder: path, classes: *classes }))
            }
            Self::Parquet { path, image, label, .. } => Opened::Images(Box::new(parquet::Parquet {
                folder: path,
                image: image.as_deref(),
                label: label.as_deref(),
            })),
            Self::Folder { path, .. } => Opened::Images(Box::new(folder::Folder { path })),
            Self::Digits { train, test, seed } => {
                Opened::Images(Box::new(digits::Digits { train: *train, test: *test, seed: *seed }))
            }
            Self::Csv { path, test, label, key, header, .. } => Opened::Table(csv::Table {
                path,
                test: test.as_deref(),
                label,
                key: key.as_deref(),
                header: *header,
            }),
            Self::Text { path, key } => Opened::Text(path, *key),
        }
    }

    fn overrides(&self) -> Overrides<'_> {
        let none = Overrides { classes: None, mean: None, std: None };
        match self {
            Self::Idx { classes, mean, std, .. }
            | Self::CifarBinary { classes, mean, std, .. }
            | Self::Parquet { classes, mean, std, .. }
            | Self::Csv { classes, mean, std, .. } => {
                Overrides { classes: *classes, mean: mean.as_deref(), std: std.as_deref() }
            }
            Self::Folder { mean, std, .. } => {
                Overrides { mean: mean.as_deref(), std: std.as_deref(), ..none }
            }
            Self::Text { .. } | Self::Digits { .. } => none,
        }
    }
}
