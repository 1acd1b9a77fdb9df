//! Federated evaluation: workers judge the committed model on data of their own, and say numbers.
//!
//! What is kept of each is six numbers, for as long as the evaluation lasts; what workers tell in detail is
//! added up at once.

use super::{Action, Machine, Phase, Token, membership::Presence};
use algorithms::evaluation::{Details, Spread, Tally};
use proto::event::{ClientScores, PersonalScores};
use std::collections::BTreeMap;

/// Most predictions of one worker in an evaluation: sums over a fleet stay far below 2^64.
const PREDICTIONS_MAX: u64 = 1 << 40;
/// Largest sum of losses of one worker: sums over a fleet stay finite.
const LOSS_MAX: f64 = 1e30;

/// Sums over held-out predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Federated {
    /// Predictions made.
    pub predictions: u64,
    /// Right ones.
    pub correct: u64,
    /// Sum of the losses.
    pub loss_sum: f64,
}

/// What a worker tells of its evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluated {
    /// The committed model.
    pub shared: Federated,
    /// The worker's personal model, in a run that has them.
    pub personal: Option<Federated>,
    /// What the run asks for beyond that.
    pub details: Option<Box<Details>>,
}

impl From<Federated> for Evaluated {
    fn from(shared: Federated) -> Self {
        Self { shared, personal: None, details: None }
    }
}

impl Federated {
    fn is_possible(&self) -> bool {
        self.predictions <= PREDICTIONS_MAX
            && self.correct <= self.predictions
            && self.loss_sum.abs() <= LOSS_MAX
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            predictions: self.predictions + other.predictions,
            correct: self.correct + other.correct,
            loss_sum: self.loss_sum + other.loss_sum,
        }
    }

    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.predictions as f64
    }

    fn loss(&self) -> f64 {
        self.loss_sum / self.predictions as f64
    }
}

/// The reports of an evaluation so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports {
    shared: BTreeMap<String, Federated>,
    personal: BTreeMap<String, Federated>,
    tally: Tally,
}

impl Reports {
    fn add(&mut self, worker: &str, report: Evaluated) {
        let Evaluated { shared, personal, details } = report;
        if !shared.is_possible() {
            return;
        }
        self.shared.insert(worker.to_owned(), shared);
        if let Some(personal) = personal.filter(Federated::is_possible) {
            self.personal.insert(worker.to_owned(), personal);
        }
        if let Some(details) = details.filter(|told| told.is_possible(shared.predictions, shared.correct)) {
            self.tally.add(&details);
        }
    }

    /// In name order, so that sums do not depend on who answered first.
    fn sums(&self) -> Federated {
        self.shared.values().fold(Federated::default(), Federated::plus)
    }

    fn clients(&self) -> Option<ClientScores> {
        let (accuracy, loss) = spreads(&self.shared)?;
        Some(ClientScores {
            accuracy,
            loss,
            personal: personal(&self.personal),
            calibration: self.tally.calibration(),
            confusion: self.tally.confusion(),
        })
    }
}

fn personal(reports: &BTreeMap<String, Federated>) -> Option<PersonalScores> {
    let (accuracy, loss) = spreads(reports)?;
    let sums = reports.values().fold(Federated::default(), Federated::plus);
    Some(PersonalScores { mean_accuracy: sums.accuracy(), mean_loss: sums.loss(), accuracy, loss })
}

/// Of accuracy and loss over the workers that made a prediction; `None` without any.
fn spreads(reports: &BTreeMap<String, Federated>) -> Option<(Spread, Spread)> {
    let judged = || reports.values().filter(|report| report.predictions > 0);
    let accuracy = Spread::of(judged().map(Federated::accuracy).collect())?;
    Some((accuracy, Spread::of_losses(judged().map(Federated::loss).collect())?))
}

impl Machine {
    pub(super) fn evaluate(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Evaluating;
        self.reports = Reports::default();
        self.awaiting = self
            .presence
            .iter()
            .filter(|(_, presence)| **presence == Presence::Connected)
            .map(|(worker, _)| worker.clone())
            .collect();
        let round = self.round - 1;
        for worker in self.awaiting.clone() {
            out.push(Action::Evaluate { worker, round });
        }
        out.push(Action::Arm { token: Token::Evaluation { round }, at: self.now + self.rules.evaluation_ms });
        self.close_evaluation(out);
    }

    pub(super) fn evaluated(&mut self, worker: &str, round: u64, report: Evaluated, out: &mut Vec<Action>) {
        if self.phase != Phase::Evaluating || round + 1 != self.round || !self.awaiting.remove(worker) {
            return;
        }
        self.reports.add(worker, report);
        self.close_evaluation(out);
    }

    pub(super) fn close_evaluation(&mut self, out: &mut Vec<Action>) {
        if self.awaiting.is_empty() {
            let reports = std::mem::take(&mut self.reports);
            let (sums, clients) = (reports.sums(), reports.clients().map(Box::new));
            out.push(Action::FederatedDone { round: self.round - 1, sums, clients });
            self.advance(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use algorithms::evaluation::Cell;

    fn of(predictions: u64, correct: u64, loss_sum: f64) -> Federated {
        Federated { predictions, correct, loss_sum }
    }

    #[test]
    fn every_worker_counts_alike_and_personal_models_apart() {
        let mut reports = Reports::default();
        for (worker, shared, personal) in [
            ("a", of(10, 5, 20.0), Some(of(10, 9, 1.0))),
            ("b", of(30, 30, 3.0), Some(of(30, 31, 1.0))),
            ("c", Federated::default(), None),
            ("d", of(1, 2, 0.0), Some(of(1, 1, 0.0))),
        ] {
            let count = |label, prediction, count| Cell { label, prediction, count };
            let cells = vec![
                count(0, 0, shared.correct),
                count(1, 0, shared.predictions - shared.correct.min(shared.predictions)),
            ];
            let details = Details { confusion: cells, parts: Vec::new() };
            reports.add(worker, Evaluated { shared, personal, details: Some(Box::new(details)) });
        }
        assert_eq!(reports.sums(), of(40, 35, 23.0), "an impossible report does not count");
        let clients = reports.clients().unwrap();
        assert_eq!(
            (clients.accuracy.clients, clients.accuracy.mean, clients.accuracy.worst_decile),
            (2, 0.75, 0.5)
        );
        assert!((clients.accuracy.variance - 0.0625).abs() < 1e-12);
        assert_eq!((clients.loss.worst_decile, clients.loss.clients), (2.0, 2));
        let personal = clients.personal.unwrap();
        assert_eq!((personal.accuracy.clients, personal.mean_accuracy, personal.mean_loss), (1, 0.9, 0.1));
        let confusion = clients.confusion.unwrap();
        assert_eq!((confusion.classes, confusion.counts), (2, vec![35, 0, 5, 0]));
        assert_eq!(Reports::default().clients(), None);
    }
}
