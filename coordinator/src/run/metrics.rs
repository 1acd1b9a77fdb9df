//! Lines of `metrics.jsonl` that wait for their evaluation, published in the order of rounds.

use crate::{Evaluation, machine::Federated};
use algorithms::average::Average;
use proto::event::{AverageMetrics, ClientScores, Metrics};
use std::collections::BTreeMap;

/// What the coordinator's evaluation of a round found.
#[derive(Debug)]
pub(crate) struct Evaluated {
    pub(crate) model: Evaluation,
    pub(crate) averages: Vec<(Average, Evaluation)>,
}

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
    pub(crate) fn central(&mut self, round: u64, result: Option<Evaluated>) {
        let Some(line) = self.0.get_mut(&round) else { return };
        line.central = false;
        let Some(Evaluated { model, averages }) = result else { return };
        let found = scores(model);
        (line.metrics.eval_loss, line.metrics.eval_accuracy) = (found.eval_loss, found.eval_accuracy);
        line.metrics
            .averages
            .extend(averages.into_iter().map(|(which, e)| (which.name().to_owned(), scores(e))));
    }

    /// The workers' evaluation.
    pub(crate) fn federated(&mut self, round: u64, sums: Federated, clients: Option<Box<ClientScores>>) {
        let Some(line) = self.0.get_mut(&round) else { return };
        line.federated = false;
        line.metrics.clients = clients;
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

fn scores(evaluation: Evaluation) -> AverageMetrics {
    if evaluation.predictions == 0 {
        return AverageMetrics::default();
    }
    let predictions = evaluation.predictions as f64;
    AverageMetrics {
        eval_loss: Some(evaluation.loss_sum / predictions).filter(|loss| loss.is_finite()),
        eval_accuracy: Some(evaluation.correct as f64 / predictions),
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
            clients: None,
            bytes_down: 0,
            bytes_up: 0,
            averages: BTreeMap::new(),
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
        let found = |correct| Evaluation { loss_sum: 5.0, correct, predictions: 10 };
        pending.central(0, Some(Evaluated { model: found(9), averages: vec![(Average::Swa, found(8))] }));
        let first = pending.pop().unwrap();
        assert_eq!(first.averages["swa"], AverageMetrics { eval_loss: Some(0.5), eval_accuracy: Some(0.8) });
        assert_eq!((first.round, first.eval_loss, first.eval_accuracy), (0, Some(0.5), Some(0.9)));
        assert_eq!(pending.pop().unwrap().round, 1);
        assert!(pending.is_empty());
    }
}
