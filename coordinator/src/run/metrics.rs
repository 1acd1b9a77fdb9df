//! Lines of `metrics.jsonl` that wait for their evaluation, published in the order of rounds.

use crate::{Evaluation, machine::Federated};
use proto::event::Metrics;
use std::collections::BTreeMap;

/// Rounds that are committed but not evaluated.
#[derive(Debug, Default)]
pub(crate) struct Pending(BTreeMap<u64, Line>);

#[derive(Debug)]
struct Line {
    metrics: Metrics,
    central: bool,
    federated: bool,
}

impl Pending {
    /// A committed round, and what it waits for.
    pub(crate) fn insert(&mut self, metrics: Metrics, central: bool, federated: bool) {
        self.0.insert(metrics.round, Line { metrics, central, federated });
    }

    /// The coordinator's evaluation.
    pub(crate) fn central(&mut self, round: u64, result: Option<Evaluation>) {
        let Some(line) = self.0.get_mut(&round) else { return };
        line.central = false;
        if let Some(evaluation) = result.filter(|evaluation| evaluation.predictions > 0) {
            line.metrics.eval_loss =
                Some(evaluation.loss_sum / evaluation.predictions as f64).filter(|l| l.is_finite());
            line.metrics.eval_accuracy = Some(evaluation.correct as f64 / evaluation.predictions as f64);
        }
    }

    /// The workers' evaluation.
    pub(crate) fn federated(&mut self, round: u64, sums: Federated) {
        let Some(line) = self.0.get_mut(&round) else { return };
        line.federated = false;
        if sums.predictions > 0 {
            line.metrics.federated_loss = Some(sums.loss_sum / sums.predictions as f64);
            line.metrics.federated_accuracy = Some(sums.correct as f64 / sums.predictions as f64);
        }
    }

    /// The oldest line, if it waits for nothing.
    pub(crate) fn pop(&mut self) -> Option<Metrics> {
        let first = self.0.first_entry()?;
        let line = first.get();
        if line.central || line.federated {
            return None;
        }
        Some(first.remove().metrics)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::digest::Digest;

    fn metrics(round: u64) -> Metrics {
        Metrics {
            round,
            seconds: 1.0,
            participants: 1,
            rejected: 0,
            train_loss: None,
            eval_loss: None,
            eval_accuracy: None,
            federated_loss: None,
            federated_accuracy: None,
            bytes_down: 0,
            bytes_up: 0,
            epsilon: None,
            asynchronous: None,
            model_digest: Digest([0; 32]),
        }
    }

    #[test]
    fn lines_come_in_order_of_rounds() {
        let mut pending = Pending::default();
        pending.insert(metrics(0), true, false);
        pending.insert(metrics(1), false, false);
        assert_eq!(pending.pop(), None, "round 1 is done, round 0 is not");
        pending.central(0, Some(Evaluation { loss_sum: 5.0, correct: 9, predictions: 10 }));
        let first = pending.pop().unwrap();
        assert_eq!((first.round, first.eval_loss, first.eval_accuracy), (0, Some(0.5), Some(0.9)));
        assert_eq!(pending.pop().unwrap().round, 1);
        assert!(pending.is_empty());
    }
}
