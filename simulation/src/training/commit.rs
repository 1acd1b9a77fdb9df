//! Closing a round: means, server rule, client states, evaluation, the line of `metrics.jsonl`. What the
//! coordinator's commit does, in its order.

use super::{Evaluation, Line, SimulationError, client_index, private::Released, server::Server};
use crate::evaluation::{Assessment, Spread, assess, bins_for, expected_accuracies};
use algorithms::{
    MODEL, RoundFacts, Vectors,
    average::Average,
    fold::{UploadFacts, accumulators_of, drain_into},
};
use coordinator::{
    Spool, centre_name, fold_vector, keep_centres,
    machine::{Action, Counted, Millis},
    private::Secret,
};
use proto::{
    event::{AverageMetrics, Metrics},
    spec::ModelSpec,
};
use std::{collections::BTreeMap, sync::Arc};
use worker::data::DataInfo;

impl Server<'_> {
    /// Commits a round; `action` is the machine's [`Action::Commit`]. Gives the round's line.
    pub(super) fn commit(
        &mut self,
        action: Action,
        now: Millis,
        secret: Option<&Secret>,
    ) -> Result<Option<Line>, SimulationError> {
        let Action::Commit { round, counted, population, population_before, rejected, opened_at } = action
        else {
            return Ok(None);
        };
        let facts = RoundFacts { included: counted.len(), population, population_before };
        let (mean, facts, epsilon, told) = match self.release(round, secret)? {
            Released::Noised { means, facts, epsilon, told } => (means, facts, Some(epsilon), told),
            Released::Paid(epsilon) => (self.means()?, facts, Some(epsilon), None),
            Released::Open => (self.means()?, facts, None, None),
        };
        self.algorithm.apply(&mut self.vectors, &mean, &facts);
        keep_centres(self.spec.combiner, &mut self.vectors, &mean);
        if let Some(averages) = self.spec.average {
            averages.take(&mut self.vectors, round);
        }
        self.record.round = round + 1;
        self.record.population_before = population;
        self.record.committed.extend(counted.iter().map(|counted| (counted.worker.clone(), round)));
        self.count_participations(&counted);
        self.record.profile(&counted);
        self.record.vectors = self.digests();
        self.record.recall(round, self.algorithm);
        if self.spec.has_client_state(self.algorithm) {
            self.states().commit(counted.iter().filter_map(|counted| client_index(&counted.worker)));
        }
        let (bytes_down, bytes_up) = std::mem::take(&mut self.bytes);
        let mut line = Line::new(Metrics {
            round,
            seconds: now.saturating_sub(opened_at) as f64 / 1_000.0,
            participants: told.map_or(counted.len(), |told| told.participants as usize),
            rejected,
            train_loss: told.map_or_else(|| train_loss(&counted), |told| told.train_loss),
            eval_loss: None,
            eval_accuracy: None,
            federated_loss: None,
            federated_accuracy: None,
            clients: None,
            bytes_down,
            bytes_up,
            averages: BTreeMap::new(),
            epsilon,
            asynchronous: None,
            model_digest: self.record.vectors[MODEL],
        });
        if self.spec.evaluation.central && self.is_due(round) {
            self.judge(&mut line)?;
        }
        Ok(Some(line))
    }

    /// Adds an update to the means of the round.
    pub(super) fn fold(
        &mut self,
        worker: &str,
        upload: &Vectors,
        (facts, draws): (&UploadFacts, usize),
    ) -> Result<(), SimulationError> {
        let shapes = self.algorithm.upload(self.record.length as usize);
        if self.spec.spooled().is_some() {
            let kept = self.keep(worker, shapes, (upload, facts, draws));
            return kept.map_err(|error| SimulationError::file(&self.folder, error));
        }
        if self.accumulators.is_empty() {
            self.accumulators = accumulators_of(self.spec.folds(self.algorithm), &shapes);
        }
        for accumulator in &mut self.accumulators {
            let x = &upload[accumulator.fold().from];
            let factor = self.spec.combiner.map_or(1.0, |combiner| combiner.factor_of(x));
            for _ in 0..draws {
                let (sum, scale) = accumulator.parts(facts);
                fold_vector(sum, x, scale * factor);
            }
        }
        Ok(())
    }

    fn keep(
        &mut self,
        worker: &str,
        shapes: Vec<(&'static str, usize)>,
        (upload, facts, draws): (&Vectors, &UploadFacts, usize),
    ) -> std::io::Result<()> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => self.spool.insert(Spool::create(&self.folder, shapes)?),
        };
        let parts: Vec<&[f32]> = upload.values().map(|vector| vector.as_slice()).collect();
        spool.add(worker, (*facts, draws), &parts)
    }

    fn means(&mut self) -> Result<Vectors, SimulationError> {
        if let (Some(combiner), Some(spool)) = (self.spec.spooled(), self.spool.take()) {
            let centre = |fold: &str| self.vectors.get(&centre_name(fold)).cloned();
            let combined = spool.combine(&combiner, &self.spec.folds(self.algorithm), centre);
            return combined.map_err(|error| SimulationError::Failed(error.to_string()));
        }
        if let Some(ready) = self.ready.take() {
            return Ok(ready);
        }
        Ok(self.drained())
    }

    /// The means of what was folded.
    pub(super) fn drained(&mut self) -> Vectors {
        let mut means = Vectors::new();
        for accumulator in &mut self.accumulators {
            let name = accumulator.fold().into.to_owned();
            let Some((sum, unit)) = accumulator.drain() else { continue };
            let mut mean = vec![0.0; sum.len()];
            drain_into(&mut mean, sum, unit);
            means.insert(name, Arc::new(mean));
        }
        means
    }

    fn is_due(&self, round: u64) -> bool {
        let every = self.spec.evaluation.every;
        every > 0 && ((round + 1).is_multiple_of(every) || round + 1 == self.spec.rounds)
    }

    fn judge(&self, line: &mut Line) -> Result<(), SimulationError> {
        let Some(found) = self.assess(MODEL)? else { return Ok(()) };
        line.metrics.eval_loss = found.loss();
        line.metrics.eval_accuracy = found.accuracy();
        for which in Average::ALL {
            if let Some(found) = self.assess(&which.vector())? {
                let scores = AverageMetrics { eval_loss: found.loss(), eval_accuracy: found.accuracy() };
                line.metrics.averages.insert(which.name().to_owned(), scores);
            }
        }
        let calibration = found.sample.calibration(bins_for(found.sample.len(), 1));
        (line.ece, line.ece_low, line.ece_high) =
            (calibration.map(|c| c.ece), calibration.map(|c| c.low), calibration.map(|c| c.high));
        let spread = self.spread(&found);
        line.client_accuracy = spread.map(|s| s.mean);
        line.client_accuracy_worst_decile = spread.map(|s| s.worst_decile);
        line.client_accuracy_variance = spread.map(|s| s.variance);
        Ok(())
    }

    /// How good one of the server's vectors is, if there is such a one.
    fn assess(&self, vector: &str) -> Result<Option<Assessment>, SimulationError> {
        let Some(w) = self.vectors.get(vector) else { return Ok(None) };
        let Some(test) = self.test.filter(|test| !test.is_empty()) else { return Ok(None) };
        if let ModelSpec::Flat { .. } = self.spec.model {
            return Ok(None);
        }
        let assessed = assess(self.model, w, test, 1, self.threads);
        assessed.map(Some).map_err(|error| SimulationError::Failed(format!("evaluation: {error}")))
    }

    fn spread(&self, found: &Assessment) -> Option<Spread> {
        Spread::of(expected_accuracies(&found.confusion, self.shares.histograms()?))
    }

    /// How good the present model is.
    pub(super) fn evaluation(&self) -> Result<Option<Evaluation>, SimulationError> {
        let Some(found) = self.assess(MODEL)? else { return Ok(None) };
        let text = self.test.is_some_and(|test| matches!(test.info(), DataInfo::Text { .. }));
        Ok(Some(Evaluation {
            accuracy: found.accuracy(),
            loss: found.loss(),
            clients: self.spread(&found),
            calibration: found.sample.calibration(bins_for(found.sample.len(), 1)),
            confusion: (!text).then_some(found.confusion),
        }))
    }
}

/// Mean over the counted updates, by examples, in name order: as the coordinator's.
fn train_loss(counted: &[Counted]) -> Option<f64> {
    let known = counted.iter().filter_map(|c| Some((c.facts.train_loss?, c.facts.examples as f64)));
    let (sum, weight) = known.fold((0.0, 0.0), |(sum, weight), (loss, n)| (sum + loss * n, weight + n));
    (weight > 0.0).then(|| sum / weight)
}
