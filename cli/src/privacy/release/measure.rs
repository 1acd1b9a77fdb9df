//! The exact numbers behind an answer, in quanta: nobody is shown them.
//!
//! Each is a sum over records of what one record gives, which depends on no other record; that is what the
//! cost of an answer rests on.

use super::question::{About, Of, Question, Read, SCALE};
use crate::exit::{Code, Failure};
use algorithms::evaluation::read;
use privacy::Positive;
use simulation::evaluation::classes;
use std::path::PathBuf;
use worker::{
    data::{Dataset, Source, Split},
    engine::{Model, load_safetensors},
};

/// Records in a pass of the engine.
const BATCH: usize = 64;
/// Characters of a record of text, where no run says so.
const SEQUENCE: usize = 80;

/// The numbers of a question.
pub(super) fn of(asked: &Read, source: &Source) -> Result<Vec<i64>, Failure> {
    if asked.question != Question::Records && source.measures() {
        return Err(Failure::usage(
            "which classes there are and how features are scaled follows from the records of this data set, and \
             would tell of them; expected a data set with fixed classes, or `--what records`",
        ));
    }
    let sequence = asked.about.as_ref().map_or(SEQUENCE, |about| about.spec.data.sequence);
    let data = source.load(Split::Train, sequence).map_err(|error| Failure::new(Code::Data, error))?;
    match (&asked.question, &asked.about) {
        (Question::Classes, _) => {
            let histogram: Vec<i64> = data.class_histogram().iter().map(|count| *count as i64).collect();
            if histogram.is_empty() {
                return Err(Failure::usage("`--what classes`: text has none; expected `records`"));
            }
            Ok(histogram)
        }
        (Question::Quantiles { of, up_to, bins, .. }, Some(about)) => {
            let (model, w) = about.model(&data)?;
            let numbers = match of {
                Of::GradientNorm => norms(&model, &w, &data)?,
                Of::Loss => scores(&model, &w, &data)?.into_iter().map(|(_, loss)| loss).collect(),
            };
            Ok(histogram(&numbers, *up_to, *bins))
        }
        (Question::Metrics { up_to, .. }, Some(about)) => {
            let (model, w) = about.model(&data)?;
            Ok(sums(&scores(&model, &w, &data)?, *up_to))
        }
        _ => Ok(vec![data.len() as i64]),
    }
}

impl About {
    /// The network and its weights.
    fn model(&self, data: &Dataset) -> Result<(Model, Vec<f32>), Failure> {
        let model = Model::new(&self.spec.model, data.info()).map_err(Failure::usage)?;
        let Some((path, bytes)) = &self.file else {
            let first = model.initial(self.spec.seed);
            return Ok((model, first));
        };
        let wrong = |path: &PathBuf, error| Failure::new(Code::Data, format!("{}: {error}", path.display()));
        let w = load_safetensors(&model, bytes).map_err(|error| wrong(path, error))?;
        Ok((model, w))
    }
}

fn batches(data: &Dataset) -> impl Iterator<Item = Vec<usize>> {
    let (all, parts) = (data.len(), data.len().div_ceil(BATCH));
    (0..parts).map(move |part| (part * BATCH..((part + 1) * BATCH).min(all)).collect())
}

/// Norms of the gradients of single records.
fn norms(model: &Model, w: &[f32], data: &Dataset) -> Result<Vec<f64>, Failure> {
    let (mut all, mut sum) = (Vec::with_capacity(data.len()), vec![0.0; w.len()]);
    for records in batches(data) {
        let batch = data.batch(&records, None);
        all.extend(model.clipped_gradient(w, &batch, 1.0, &mut sum).map_err(Failure::usage)?.norms);
    }
    Ok(all)
}

/// Share of right predictions and mean loss of each record.
fn scores(model: &Model, w: &[f32], data: &Dataset) -> Result<Vec<(f64, f64)>, Failure> {
    let (classes, mut all) = (classes(data.info()), Vec::with_capacity(data.len()));
    for records in batches(data) {
        let batch = data.batch(&records, None);
        let logits = model.logits(w, &batch).map_err(Failure::usage)?;
        let each = batch.labels.len() / batch.size.max(1);
        for (logits, labels) in logits.chunks(each * classes).zip(batch.labels.chunks(each)) {
            let seen = read(logits, labels, (classes, 1));
            let predictions = seen.predictions.max(1) as f64;
            all.push((seen.correct as f64 / predictions, seen.loss_sum / predictions));
        }
    }
    Ok(all)
}

/// The share of its bound that a number has; what is none has all of it.
fn share(number: f64, bound: Positive) -> f64 {
    if number.is_finite() { (number / bound.get()).clamp(0.0, 1.0) } else { 1.0 }
}

/// Records by part of the axis; the last one has those beyond, too.
fn histogram(numbers: &[f64], up_to: Positive, bins: u32) -> Vec<i64> {
    let mut counts = vec![0; bins as usize];
    for number in numbers {
        let bin = (share(*number, up_to) * f64::from(bins)) as usize;
        counts[bin.min(bins as usize - 1)] += 1;
    }
    counts
}

/// Records, right ones and losses, in quanta.
fn sums(scores: &[(f64, f64)], up_to: Positive) -> Vec<i64> {
    let mut sums = vec![0; 3];
    let quanta = |share: f64| (share.clamp(0.0, 1.0) * SCALE as f64).round() as i64;
    for (right, loss) in scores {
        sums[0] += SCALE;
        sums[1] += quanta(*right);
        sums[2] += quanta(share(*loss, up_to));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_record_gives_is_bounded_whatever_it_is() {
        let bound = Positive::new(2.0).unwrap();
        assert_eq!(histogram(&[0.0, 0.99, 1.0, 2.0, 9.0, f64::NAN], bound, 4), [1, 1, 1, 3]);
        let sums = sums(&[(1.0, 1.0), (0.0, f64::INFINITY), (0.5, -1.0)], bound);
        assert_eq!(sums, [3 * SCALE, SCALE + SCALE / 2, SCALE / 2 + SCALE]);
    }
}
