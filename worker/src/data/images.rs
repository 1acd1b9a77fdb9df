//! What all image sources share: class count, shape check and normalisation constants.
//!
//! A source only has to read pixels and labels (`Reader`); everything that must come out the same for
//! the training and the test split is decided here, once.

use std::path::{Path, PathBuf};

use super::augment::{Augment, Pixels};
use super::dataset::{Dataset, KeyColumn, Normalisation, Parts, Store};
use super::{DataError, DataInfo, Split};

/// More classes than this is taken for a damaged label.
pub(crate) const MAX_CLASSES: usize = 1 << 16;

/// One split as it lies in its files.
#[derive(Debug)]
pub(crate) struct RawImages {
    pub(crate) shape: Pixels,
    /// Images × channels × rows × columns.
    pub(crate) pixels: Vec<u8>,
    pub(crate) labels: Vec<u32>,
    pub(crate) keys: Option<KeyColumn>,
}

/// A source of images.
pub(crate) trait Reader {
    /// Where the data lies, for messages.
    fn path(&self) -> &Path;

    fn images(&self, split: Split) -> Result<RawImages, DataError>;

    /// Labels alone; sources override it where that is cheaper.
    fn labels(&self, split: Split) -> Result<Vec<u32>, DataError> {
        Ok(self.images(split)?.labels)
    }

    /// Shape of the training images; sources override it where that is cheaper.
    fn shape(&self) -> Result<Pixels, DataError> {
        Ok(self.images(Split::Train)?.shape)
    }

    /// The number of classes, where the format itself says it.
    fn fixed_classes(&self) -> Result<Option<usize>, DataError> {
        Ok(None)
    }

    /// Published constants, if the data set is recognised by shape and number of classes.
    fn constants(&self, shape: Pixels, classes: usize) -> Option<Normalisation>;
}

/// Keys of the configuration that replace what would be derived from the training split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overrides<'a> {
    pub(crate) classes: Option<usize>,
    pub(crate) mean: Option<&'a [f32]>,
    pub(crate) std: Option<&'a [f32]>,
}

impl Overrides<'_> {
    /// The number of classes: as configured, or one more than the largest training label.
    pub(crate) fn classes(
        &self,
        path: &Path,
        train: impl FnOnce() -> Result<Vec<u32>, DataError>,
    ) -> Result<usize, DataError> {
        if let Some(classes) = self.classes {
            if (1..=MAX_CLASSES).contains(&classes) {
                return Ok(classes);
            }
            let expected = format!("1 to {MAX_CLASSES}");
            return Err(DataError::Config { key: "classes", value: classes.to_string(), expected });
        }
        match train()?.into_iter().max() {
            Some(label) if (label as usize) < MAX_CLASSES => Ok(label as usize + 1),
            Some(label) => Err(DataError::malformed(
                path,
                format!("label {label}"),
                format!("labels below {MAX_CLASSES}"),
            )),
            None => Err(DataError::malformed(path, "no training example", "at least one")),
        }
    }

    /// The configured constants, `None` if there are none.
    pub(crate) fn normalisation(&self, numbers: usize) -> Result<Option<Normalisation>, DataError> {
        let (mean, std) = match (self.mean, self.std) {
            (None, None) => return Ok(None),
            (Some(mean), Some(std)) => (mean.to_vec(), std.to_vec()),
            (mean, _) => {
                let key = if mean.is_some() { "std" } else { "mean" };
                let expected = "`mean` and `std` together, or neither".into();
                return Err(DataError::Config { key, value: "absent".into(), expected });
            }
        };
        for (key, values) in [("mean", &mean), ("std", &std)] {
            let valid = values.iter().all(|v| v.is_finite() && (key == "mean" || *v > 0.0));
            if values.len() != numbers || !valid {
                let sign = if key == "mean" { "finite" } else { "positive" };
                let expected = format!("{numbers} {sign} numbers, one per channel or feature");
                return Err(DataError::Config { key, value: format!("{values:?}"), expected });
            }
        }
        Ok(Some(Normalisation { mean, std }))
    }
}

/// What a model must know, with as little reading as the source allows.
pub(crate) fn info(reader: &dyn Reader, overrides: Overrides<'_>) -> Result<DataInfo, DataError> {
    let Pixels { channels, height, width } = reader.shape()?;
    let classes = match reader.fixed_classes()? {
        Some(classes) => classes,
        None => overrides.classes(reader.path(), || reader.labels(Split::Train))?,
    };
    Ok(DataInfo::Images { channels, height, width, classes })
}

/// Reads a split and decides what it shares with the other one.
pub(crate) fn load(
    reader: &dyn Reader,
    overrides: Overrides<'_>,
    split: Split,
) -> Result<Dataset, DataError> {
    let raw = reader.images(split)?;
    let path = reader.path();
    if split == Split::Test {
        check_shape(reader, raw.shape)?;
    }
    let classes = match (reader.fixed_classes()?, split) {
        (Some(classes), _) => classes,
        (None, Split::Train) => overrides.classes(path, || Ok(raw.labels.clone()))?,
        (None, Split::Test) => overrides.classes(path, || reader.labels(Split::Train))?,
    };
    check_labels(path, &raw.labels, classes)?;
    let known = match overrides.normalisation(raw.shape.channels)? {
        Some(configured) => Some(configured),
        None => reader.constants(raw.shape, classes),
    };
    let normalisation = match (known, split) {
        (Some(known), _) => known,
        (None, Split::Train) => measure(&raw),
        (None, Split::Test) => measure(&reader.images(Split::Train)?),
    };
    let Pixels { channels, height, width } = raw.shape;
    Ok(Dataset::new(Parts {
        info: DataInfo::Images { channels, height, width, classes },
        store: Store::Pixels { shape: raw.shape, bytes: raw.pixels },
        labels: raw.labels,
        keys: raw.keys,
        normalisation,
        augment: Augment::for_channels(channels),
    }))
}

/// A folder may hold the test split alone (a coordinator's), as long as nothing must be derived.
fn check_shape(reader: &dyn Reader, test: Pixels) -> Result<(), DataError> {
    match reader.shape() {
        Err(DataError::Missing { .. }) => Ok(()),
        Err(other) => Err(other),
        Ok(train) if train == test => Ok(()),
        Ok(train) => {
            let problem = format!("test images are {test}");
            Err(DataError::malformed(reader.path(), problem, format!("{train}, like the training images")))
        }
    }
}

pub(crate) fn check_labels(path: &Path, labels: &[u32], classes: usize) -> Result<(), DataError> {
    match labels.iter().position(|&label| label as usize >= classes) {
        None => Ok(()),
        Some(at) => {
            let problem = format!("label {} at example {at}", labels[at]);
            Err(DataError::malformed(path, problem, format!("labels below {classes} (`classes`)")))
        }
    }
}

/// Mean and standard deviation of each channel, from exact integer sums.
pub(crate) fn measure(raw: &RawImages) -> Normalisation {
    let plane = raw.shape.height * raw.shape.width;
    let mut sums = vec![(0u64, 0u64); raw.shape.channels];
    for image in raw.pixels.chunks_exact(raw.shape.len()) {
        for (sum, plane) in sums.iter_mut().zip(image.chunks_exact(plane)) {
            sum.0 += plane.iter().map(|&v| u64::from(v)).sum::<u64>();
            sum.1 += plane.iter().map(|&v| u64::from(v) * u64::from(v)).sum::<u64>();
        }
    }
    let count = (raw.labels.len() * plane) as f64;
    let moments = sums.into_iter().map(|(sum, squares)| {
        let mean = sum as f64 / count;
        let variance = (squares as f64 / count - mean * mean).max(0.0);
        // A constant channel has no scale of its own.
        let std = if variance > 0.0 { variance.sqrt() } else { 255.0 };
        ((mean / 255.0) as f32, (std / 255.0) as f32)
    });
    let (mean, std) = moments.unzip();
    Normalisation { mean, std }
}

/// CIFAR's published constants for 32×32 colour images with 10 or 100 classes (FL-Simulator).
pub(crate) fn cifar_constants(shape: Pixels, classes: usize) -> Option<Normalisation> {
    let (mean, std) = match (shape.channels, shape.height, shape.width, classes) {
        (3, 32, 32, 10) => ([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
        (3, 32, 32, 100) => ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
        _ => return None,
    };
    Some(Normalisation { mean: mean.to_vec(), std: std.to_vec() })
}

/// The first of `names` that exists in `folder`.
pub(crate) fn first_existing(folder: &Path, names: &[String]) -> Result<PathBuf, DataError> {
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| DataError::missing(folder, names.join(" or ")))
}
