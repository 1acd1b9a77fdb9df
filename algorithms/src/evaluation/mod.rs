//! How good a model is, beyond one number: loss and hits, which classes are taken for which, whether its
//! probabilities can be believed, and how the clients fare that it was made for.
//!
//! All of it comes from logits and labels; what clients tell of it adds up ([`Details`], [`Tally`]), so that
//! a federation knows it without a prediction leaving a client.

mod calibration;
mod distribution;
mod logits;
mod tally;

pub use calibration::{Calibration, Sample, bins_for};
pub use distribution::{Spread, expected_accuracies};
pub use logits::read;
pub use tally::{CLASSES, Cell, Details, PARTS, Part, Tally};

use serde::{Deserialize, Serialize};

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

impl Assessment {
    /// Nothing was seen yet.
    pub fn new(classes: usize, top: usize) -> Self {
        Self {
            predictions: 0,
            correct: 0,
            loss_sum: 0.0,
            confusion: Confusion::new(classes),
            sample: Sample::new(top),
        }
    }

    /// Takes in what was seen of the same model elsewhere.
    pub fn add(&mut self, other: &Self) {
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
