//! One split of a data set in memory: compact, shared by all subsets, turned into numbers per batch.
//!
//! Pixels and characters stay `u8` and subsets are index lists over one `Arc`, so that hundreds of
//! simulated clients cost one copy of the data.

use std::sync::Arc;

use super::augment::{Augment, Pixels, Pose};
use super::random::Rng;
use super::{Batch, DataInfo, Inputs};

/// Constants by which inputs are shifted and scaled: `(x − mean) / std`.
///
/// One number per colour channel (of pixels scaled to `0..=1`) or per feature column. Every worker of
/// a federation must use the same constants, or their models mean different things.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// Subtracted.
    pub mean: Vec<f32>,
    /// Divided by; positive.
    pub std: Vec<f32>,
}

/// What the examples are made of.
#[derive(Debug)]
pub(crate) enum Store {
    /// Examples × `shape`.
    Pixels { shape: Pixels, bytes: Vec<u8> },
    /// Examples × `dimension`.
    Features { dimension: usize, values: Vec<f32> },
    /// Characters and the first character of each window, behind which `sequence + 1` follow.
    Windows { sequence: usize, tokens: Vec<u8>, starts: Vec<u32> },
}

/// Natural keys: names, and the name of each example.
#[derive(Debug)]
pub(crate) struct KeyColumn {
    pub(crate) names: Vec<String>,
    pub(crate) of: Vec<u32>,
}

/// All parts of a loaded split.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) info: DataInfo,
    pub(crate) store: Store,
    /// One per example; empty for text.
    pub(crate) labels: Vec<u32>,
    pub(crate) keys: Option<KeyColumn>,
    /// Empty for text.
    pub(crate) normalisation: Normalisation,
    pub(crate) augment: Augment,
}

/// Natural keys of a data set, as `Dataset::keys` returns them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys<'a> {
    /// Every key of the data set, also those that a subset no longer contains.
    pub names: &'a [String],
    /// For each example the index of its key in `names`.
    pub of: Vec<u32>,
}

/// One split of a data set, or a part of one. Cloning and `subset` copy no pixels.
#[derive(Debug, Clone)]
pub struct Dataset {
    parts: Arc<Parts>,
    view: Option<Arc<[u32]>>,
    flipped: bool,
}

impl Dataset {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), view: None, flipped: false }
    }

    /// Examples of noise, for checks and measurements of engines.
    pub fn of_noise(info: &DataInfo, examples: usize) -> Self {
        let draw = |n: usize, key: u64| (0..n as u64).map(move |i| algorithms::seed::mix(i ^ (key << 40)));
        let byte = |x: u64| (x >> 56) as u8;
        let labels = |classes: usize| draw(examples, 1).map(|x| (x % classes as u64) as u32).collect();
        let of = |n: usize| Normalisation { mean: vec![0.4; n], std: vec![0.3; n] };
        let (store, labels, normalisation) = match *info {
            DataInfo::Images { channels, height, width, classes } => {
                let shape = Pixels { channels, height, width };
                let bytes = draw(examples * shape.len(), 2).map(byte).collect();
                (Store::Pixels { shape, bytes }, labels(classes), of(channels))
            }
            DataInfo::Features { dimension, classes } => {
                let values = draw(examples * dimension, 2).map(|x| byte(x).into()).map(|x: f32| x / 255.0);
                (Store::Features { dimension, values: values.collect() }, labels(classes), of(dimension))
            }
            DataInfo::Text { vocabulary, sequence } => {
                let tokens = draw(examples * 3 + sequence + 1, 2).map(|x| (x % vocabulary as u64) as u8);
                let starts = (0..examples as u32).map(|i| 3 * i).collect();
                (Store::Windows { sequence, tokens: tokens.collect(), starts }, Vec::new(), of(0))
            }
        };
        let augment = Augment { flip: true, crop: true };
        Self::new(Parts { info: info.clone(), store, labels, keys: None, normalisation, augment })
    }

    /// Feature vectors end to end, used as they are: for each its label, and the number of whoever it belongs
    /// to, which is its natural key.
    ///
    /// # Panics
    /// If there are not as many vectors and owners as labels.
    pub fn of_features(
        (dimension, classes): (usize, usize),
        values: Vec<f32>,
        labels: Vec<u32>,
        owners: Vec<u32>,
    ) -> Self {
        assert!(values.len() == dimension * labels.len() && owners.len() == labels.len(), "one of each");
        let most = owners.iter().max().map_or(0, |most| most + 1);
        Self::new(Parts {
            info: DataInfo::Features { dimension, classes },
            store: Store::Features { dimension, values },
            labels,
            keys: Some(KeyColumn { names: (0..most).map(|owner| owner.to_string()).collect(), of: owners }),
            normalisation: Normalisation { mean: vec![0.0; dimension], std: vec![1.0; dimension] },
            augment: Augment::NONE,
        })
    }

    /// What a model must know.
    pub fn info(&self) -> &DataInfo {
        &self.parts.info
    }

    /// The constants that `batch` applies; empty for text.
    pub fn normalisation(&self) -> &Normalisation {
        &self.parts.normalisation
    }

    /// Number of examples (windows, for text).
    pub fn len(&self) -> usize {
        match &self.view {
            Some(view) => view.len(),
            None => match &self.parts.store {
                Store::Windows { starts, .. } => starts.len(),
                _ => self.parts.labels.len(),
            },
        }
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The label of each example; `None` for text, whose every position has its own target.
    pub fn labels(&self) -> Option<Vec<u32>> {
        if let Store::Windows { .. } = self.parts.store {
            return None;
        }
        Some((0..self.len()).map(|i| self.label(self.row(i))).collect())
    }

    /// Examples of each class, one entry per class of `info`; empty for text.
    pub fn class_histogram(&self) -> Vec<usize> {
        let (DataInfo::Images { classes, .. } | DataInfo::Features { classes, .. }) = self.parts.info else {
            return Vec::new();
        };
        let mut histogram = vec![0; classes];
        for i in 0..self.len() {
            histogram[self.label(self.row(i)) as usize] += 1;
        }
        histogram
    }

    /// The natural key of each example, if the data carries one.
    pub fn keys(&self) -> Option<Keys<'_>> {
        let column = self.parts.keys.as_ref()?;
        let of = (0..self.len()).map(|i| column.of[self.row(i)]).collect();
        Some(Keys { names: &column.names, of })
    }

    /// The examples at `indices`, in that order; repetitions are allowed.
    ///
    /// # Panics
    /// If an index is not below `len`.
    #[must_use]
    pub fn subset(&self, indices: &[usize]) -> Self {
        let view = indices.iter().map(|&i| self.row(i) as u32).collect();
        Self { parts: Arc::clone(&self.parts), view: Some(view), flipped: self.flipped }
    }

    /// The same examples with labels turned round: of C classes, y becomes C − 1 − y. What a lying client
    /// of a simulation trains on. Text stays as it is.
    #[must_use]
    pub fn flipped(self) -> Self {
        Self { flipped: !self.flipped, ..self }
    }

    fn label(&self, row: usize) -> u32 {
        let label = self.parts.labels[row];
        match self.parts.info {
            DataInfo::Images { classes, .. } | DataInfo::Features { classes, .. } if self.flipped => {
                classes as u32 - 1 - label
            }
            _ => label,
        }
    }

    /// The examples at `indices` as one mini-batch: normalised, and augmented if a generator is given.
    ///
    /// Augmentation applies to images only; what it does depends on the source (`Source`).
    ///
    /// # Panics
    /// If an index is not below `len`.
    pub fn batch(&self, indices: &[usize], augment: Option<&mut Rng>) -> Batch {
        let rows: Vec<usize> = indices.iter().map(|&i| self.row(i)).collect();
        let parts = &*self.parts;
        match &parts.store {
            Store::Windows { sequence, tokens, starts } => text_batch(tokens, starts, *sequence, &rows),
            Store::Features { dimension, values } => {
                let mut dense = Vec::with_capacity(rows.len() * dimension);
                for &row in &rows {
                    let features = &values[row * dimension..][..*dimension];
                    let Normalisation { mean, std } = &parts.normalisation;
                    dense.extend(features.iter().zip(mean).zip(std).map(|((x, m), s)| (x - m) / s));
                }
                self.labelled(&rows, dense)
            }
            Store::Pixels { shape, bytes } => {
                let augment = augment.map(|rng| (rng, parts.augment));
                self.labelled(&rows, shape.batch(bytes, &rows, &parts.normalisation, augment))
            }
        }
    }

    /// What [`Self::batch`] is made from, for a device that holds the examples itself.
    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    /// Of each example of a batch its place in the store, its label (0 for text) and its pose; draws what
    /// [`Self::batch`] draws.
    pub(crate) fn records(&self, indices: &[usize], augment: Option<&mut Rng>) -> Vec<(usize, u32, Pose)> {
        let poses = match &self.parts.store {
            Store::Pixels { shape, .. } => {
                shape.poses(indices.len(), augment.map(|rng| (rng, self.parts.augment)))
            }
            _ => vec![Pose::default(); indices.len()],
        };
        let has_labels = !self.parts.labels.is_empty();
        let record = |(&index, pose): (&usize, Pose)| {
            let row = self.row(index);
            (row, if has_labels { self.label(row) } else { 0 }, pose)
        };
        indices.iter().zip(poses).map(record).collect()
    }

    fn labelled(&self, rows: &[usize], dense: Vec<f32>) -> Batch {
        let labels = rows.iter().map(|&row| self.label(row)).collect();
        Batch { size: rows.len(), inputs: Inputs::Dense(dense), labels }
    }

    /// Position in the store of the view's example `index`.
    fn row(&self, index: usize) -> usize {
        if let Some(view) = &self.view {
            return view[index] as usize;
        }
        assert!(index < self.len(), "example {index} of {}", self.len());
        index
    }
}

fn text_batch(tokens: &[u8], starts: &[u32], sequence: usize, rows: &[usize]) -> Batch {
    let window = |row: usize, shift: usize| {
        let first = starts[row] as usize + shift;
        tokens[first..first + sequence].iter().map(|&t| u32::from(t))
    };
    Batch {
        size: rows.len(),
        inputs: Inputs::Tokens(rows.iter().flat_map(|&r| window(r, 0)).collect()),
        labels: rows.iter().flat_map(|&r| window(r, 1)).collect(),
    }
}
