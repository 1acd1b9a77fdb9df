//! Confusion and calibration of a model on a worker's held-out examples, as sums.

use super::{Progress, Report, TrainError};
use crate::{
    data::{DataInfo, Dataset},
    engine::Model,
};
use algorithms::evaluation::{Assessment, Details, read};

/// Examples in a forward pass; memory depends on it, results do not.
const BATCH: usize = 128;

/// What `w` makes of the given examples, in batches, one after the other.
///
/// # Errors
/// If the model does not suit the examples, or `report` cancels.
pub fn details(
    model: &Model,
    examples: &Dataset,
    w: &[f32],
    report: Report<'_>,
) -> Result<Details, TrainError> {
    let classes = match examples.info() {
        DataInfo::Images { classes, .. } | DataInfo::Features { classes, .. } => *classes,
        DataInfo::Text { vocabulary, .. } => *vocabulary,
    };
    let mut seen = Assessment::new(classes, 1);
    let indices: Vec<usize> = (0..examples.len()).collect();
    for batch in indices.chunks(BATCH) {
        let done = batch.last().map_or(0, |last| *last as u64 + 1);
        let batch = examples.batch(batch, None);
        let logits = model.logits(w, &batch).map_err(|error| TrainError::Training(error.to_string()))?;
        seen.add(&read(&logits, &batch.labels, (classes, 1)));
        if report(Progress { done, due: examples.len() as u64 }).is_break() {
            return Err(TrainError::Cancelled);
        }
    }
    Ok(Details::of(&seen))
}
