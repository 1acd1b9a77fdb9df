//! A pass of the engine over held-out examples, for [`algorithms::evaluation`]. Nothing depends on the number
//! of threads: batches are summed in their order.

pub use algorithms::evaluation::{
    Assessment, Calibration, Confusion, Sample, Spread, bins_for, expected_accuracies,
};

use crate::parallel::in_order;
use algorithms::evaluation::read;
use worker::{
    data::{DataInfo, Dataset},
    engine::{EngineError, Model},
};

/// Examples in a forward pass; memory depends on it, results do not.
const BATCH: usize = 256;

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
    let on_device = model.logits_on_device(w, data).transpose()?;
    let part = |index: usize| {
        let indices: Vec<usize> = (index * BATCH..((index + 1) * BATCH).min(data.len())).collect();
        let batch = data.batch(&indices, None);
        if let Some(all) = &on_device {
            let each = all.len() / data.len();
            let logits = &all[indices[0] * each..(indices[0] + indices.len()) * each];
            return Ok(read(logits, &batch.labels, (classes, top)));
        }
        let logits = model.logits(w, &batch)?;
        Ok::<_, EngineError>(read(&logits, &batch.labels, (classes, top)))
    };
    let mut whole = Assessment::new(classes, top);
    for part in in_order(threads, batches, part) {
        whole.add(&part?);
    }
    Ok(whole)
}
