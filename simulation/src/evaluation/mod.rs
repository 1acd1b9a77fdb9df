//! How good a model is, beyond one number: loss and hits, which classes are taken for which, whether its
//! probabilities can be believed, and how the clients fare that it was made for.
//!
//! One forward pass serves all of it. Nothing depends on the number of threads: batches are summed in
//! their order.

mod calibration;
mod distribution;
mod logits;

pub use calibration::{Calibration, Sample, bins_for};
pub use distribution::{Spread, expected_accuracies};

use crate::parallel::in_order;
use serde::{Deserialize, Serialize};
use worker::{
    data::{DataInfo, Dataset},
    engine::{EngineError, Model},
};

/// Examples in a forward pass; memory depends on it, results do not.
const BATCH: usize = 256;

/// What a model did on held-out examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// Predictions made.
    pub predictions: u64,
    /// Right ones.
    pub correct: u64,
    /// Sum of the cross-entropies, natural logarithm.
    pub loss_sum: f64,
    /// Who was taken for whom.
    pub confusion: Confusion,
    /// Probabilities and outcomes, for calibration.
    pub sample: Sample,
}

/// Counts of (label, prediction), row-major by label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Number of classes.
    pub classes: usize,
    /// `classes × classes` counts.
    pub counts: Vec<u64>,
}

impl Confusion {
    /// No prediction yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// The counts of one label, by prediction.
    pub fn row(&self, label: usize) -> &[u64] {
        &self.counts[label * self.classes..(label + 1) * self.classes]
    }

    /// Share of right predictions of each class; `None` where no example has that label.
    pub fn recalls(&self) -> Vec<Option<f64>> {
        let recall = |label: usize| {
            let row = self.row(label);
            let all: u64 = row.iter().sum();
            (all > 0).then(|| row[label] as f64 / all as f64)
        };
        (0..self.classes).map(recall).collect()
    }
}

/// Classes of a data set; the alphabet for text.
pub fn classes(info: &DataInfo) -> usize {
    match info {
        DataInfo::Images { classes, .. } | DataInfo::Features { classes, .. } => *classes,
        DataInfo::Text { vocabulary, .. } => *vocabulary,
    }
}

/// Runs a model over a data set once, on so many threads. `top`: most likely classes whose calibration is
/// looked at.
///
/// # Errors
/// If the model does not suit the data.
pub fn assess(
    model: &Model,
    w: &[f32],
    data: &Dataset,
    top: usize,
    threads: usize,
) -> Result<Assessment, EngineError> {
    let classes = classes(data.info());
    let top = top.clamp(1, classes.max(1));
    let batches = data.len().div_ceil(BATCH);
    let part = |index: usize| {
        let indices: Vec<usize> = (index * BATCH..((index + 1) * BATCH).min(data.len())).collect();
        let batch = data.batch(&indices, None);
        let logits = model.logits(w, &batch)?;
        Ok::<_, EngineError>(logits::read(&logits, &batch.labels, (classes, top)))
    };
    let mut whole = Assessment {
        predictions: 0,
        correct: 0,
        loss_sum: 0.0,
        confusion: Confusion::new(classes),
        sample: Sample::new(top),
    };
    for part in in_order(threads, batches, part) {
        whole.add(&part?);
    }
    Ok(whole)
}

impl Assessment {
    fn add(&mut self, other: &Self) {
        self.predictions += other.predictions;
        self.correct += other.correct;
        self.loss_sum += other.loss_sum;
        for (count, more) in self.confusion.counts.iter_mut().zip(&other.confusion.counts) {
            *count += more;
        }
        self.sample.extend(&other.sample);
    }

    /// Share of right predictions; `None` without any.
    pub fn accuracy(&self) -> Option<f64> {
        (self.predictions > 0).then(|| self.correct as f64 / self.predictions as f64)
    }

    /// Mean loss; `None` without a prediction, or where it is not finite.
    pub fn loss(&self) -> Option<f64> {
        let loss = self.loss_sum / self.predictions as f64;
        (self.predictions > 0 && loss.is_finite()).then_some(loss)
    }
}
