//! What is known of rounds: who has ended them, how good the models are, how far they are apart.

use super::{Line, fleet::Fleet};
use crate::{evaluation::assess, parallel::in_order, training::SimulationError};
use gossip::{
    predict::{Forecast, KEPT},
    sketch::spread,
};
use proto::{digest::Digest, event::Metrics, spec::ModelSpec};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, thread};
use worker::{
    data::Dataset,
    trainer::{Scores, scores},
};

/// What a peer would report of a round.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    w: f64,
    model: Vec<f32>,
    change: Vec<f32>,
    loss: f64,
    scores: Option<Scores>,
}

/// A round that some have ended.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Open {
    told: BTreeMap<usize, Told>,
    /// `Σ w z`.
    sum: Vec<f64>,
}

/// The rounds of a simulation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    open: BTreeMap<u64, Open>,
    /// Sketches of the changes of the last rounds.
    changes: BTreeMap<u64, Vec<Vec<f32>>>,
    /// Made again from them.
    #[serde(skip)]
    forecast: Option<Forecast>,
    /// When the last round was over, and what was sent since then.
    closed: u64,
    pub(super) bytes: u64,
    /// Of each peer's model, when it was last looked at.
    accuracies: Vec<Option<f64>>,
}

/// A peer's model at the end of a round.
struct End {
    at: usize,
    w: f64,
    z: Arc<Vec<f32>>,
    sketch: Vec<f32>,
    scores: Option<Scores>,
}

impl Book {
    pub(super) fn new(fleet: &Fleet) -> Self {
        Self { accuracies: vec![None; fleet.len()], ..Self::default() }
    }

    /// Accuracy of a peer's model, when it was last looked at.
    pub(super) fn accuracy(&self, at: usize) -> Option<f64> {
        self.accuracies[at]
    }

    /// These peers have ended that round; gives its line, and the consensus model, when they were the last.
    pub(super) fn ended(
        &mut self,
        fleet: &Fleet,
        (round, peers): (u64, &[usize]),
        (test, now): (Option<&Dataset>, u64),
    ) -> Result<Option<(Line, Vec<f32>)>, SimulationError> {
        let due = fleet.is_due(round);
        let flat = matches!(fleet.spec.model, ModelSpec::Flat { .. });
        let test = test.filter(|test| due && !flat && !test.is_empty());
        let ends = in_order(fleet.threads, peers.len(), |index| look(fleet, (peers[index], round), test));
        let open = self.open.entry(round).or_default();
        let ends: Vec<End> = ends.into_iter().collect::<Result<_, _>>()?;
        add(&mut open.sum, &ends, fleet.threads);
        for End { at, w, sketch, scores, .. } in ends {
            self.accuracies[at] = scores.as_ref().map(share).or(self.accuracies[at]);
            let (change, loss) = fleet.node(at).trained.clone();
            open.told.insert(at, Told { w, model: sketch, change, loss, scores });
        }
        if open.told.len() < fleet.len() {
            return Ok(None);
        }
        let Some(Open { told, sum }) = self.open.remove(&round) else { return Ok(None) };
        let told: Vec<Told> = told.into_values().collect();
        let mass: f64 = told.iter().map(|told| told.w).sum();
        let model: Vec<f32> = sum.iter().map(|sum| (sum / mass) as f32).collect();
        let mut line = self.line(fleet, (round, now), &told);
        line.metrics.model_digest = Digest::of_vector(&model);
        if let Some(test) = test {
            let found = assess(&fleet.model, &model, test, 1, fleet.threads).map_err(failed)?;
            (line.consensus_accuracy, line.consensus_loss) = (found.accuracy(), found.loss());
        }
        Ok(Some((line, model)))
    }

    fn line(&mut self, fleet: &Fleet, (round, now): (u64, u64), told: &[Told]) -> Line {
        let n = told.len() as f64;
        let sketches: Vec<Vec<f32>> = told.iter().map(|told| told.model.clone()).collect();
        let measured = fleet.is_measured(round);
        let changes = measured.then(|| told.iter().map(|told| told.change.clone()).collect());
        let predicted = self.predicted(fleet, round, changes).filter(|_| measured);
        let judged: Vec<Scores> = told.iter().filter_map(|told| told.scores).collect();
        let mean =
            |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let accuracies = || judged.iter().map(share);
        let losses = judged.iter().map(|scores| scores.loss_sum / scores.predictions as f64);
        let masses = || told.iter().map(|told| told.w);
        let (before, bytes) = (std::mem::replace(&mut self.closed, now), std::mem::take(&mut self.bytes));
        Line {
            metrics: Metrics {
                round,
                seconds: (now - before) as f64 / 1e3,
                participants: told.len(),
                rejected: 0,
                train_loss: Some(told.iter().map(|told| told.loss).sum::<f64>() / n),
                eval_loss: mean(losses.collect()),
                eval_accuracy: mean(accuracies().collect()),
                federated_loss: None,
                federated_accuracy: None,
                clients: None,
                bytes_down: 0,
                bytes_up: bytes,
                averages: BTreeMap::new(),
                epsilon: None,
                asynchronous: None,
                model_digest: Digest([0; 32]),
            },
            worst_accuracy: accuracies().reduce(f64::min),
            consensus_accuracy: None,
            consensus_loss: None,
            consensus_distance: measured.then(|| spread(&sketches)),
            consensus_predicted: predicted,
            mass: masses().sum(),
            w_min: masses().fold(f64::INFINITY, f64::min),
            w_max: masses().fold(0.0, f64::max),
        }
    }
}

impl Book {
    fn predicted(&mut self, fleet: &Fleet, round: u64, changes: Option<Vec<Vec<f32>>>) -> Option<f64> {
        let rate = |round| fleet.spec.lr(round).into();
        let forecast = self.forecast.get_or_insert_with(|| {
            let mut forecast = Forecast::new(fleet.schedule.clone(), fleet.mixing.repeats);
            for (round, changes) in &self.changes {
                forecast.after(*round, Some(changes.clone()), rate);
            }
            forecast
        });
        let predicted = forecast.after(round, changes.clone(), rate);
        self.changes.extend(changes.map(|changes| (round, changes)));
        self.changes = self.changes.split_off(&(round + 1).saturating_sub(KEPT as u64));
        predicted
    }
}

fn share(scores: &Scores) -> f64 {
    scores.correct as f64 / scores.predictions as f64
}

fn failed(error: impl std::fmt::Display) -> SimulationError {
    SimulationError::Failed(format!("evaluation: {error}"))
}

/// A peer's model as it is, with its scores on the whole held-out set.
fn look(fleet: &Fleet, (at, round): (usize, u64), test: Option<&Dataset>) -> Result<End, SimulationError> {
    let (w, z) = {
        let node = fleet.node(at);
        (node.machine.mass().value(), node.machine.model())
    };
    let z = z.ok_or_else(|| SimulationError::Failed("a peer is without mass".into()))?;
    let go = &mut |_| ControlFlow::Continue(());
    let scores = test.map(|test| scores(&fleet.model, test, &z, go)).transpose().map_err(failed)?;
    Ok(End { at, w, sketch: fleet.sketch(round, &z), z, scores })
}

/// `sum ← sum + Σ w z`, in the order of the peers for each coordinate, whatever the threads.
fn add(sum: &mut Vec<f64>, ends: &[End], threads: usize) {
    let Some(length) = ends.first().map(|end| end.z.len()) else { return };
    sum.resize(length, 0.0);
    let part = length.div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (number, sum) in sum.chunks_mut(part).enumerate() {
            scope.spawn(move || {
                for End { w, z, .. } in ends {
                    let z = &z[number * part..][..sum.len()];
                    sum.iter_mut().zip(z).for_each(|(sum, z)| *sum += w * f64::from(*z));
                }
            });
        }
    });
}
