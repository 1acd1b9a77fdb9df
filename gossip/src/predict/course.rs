//! The consensus distance of a run that is not in equilibrium yet: everybody starts with one model, and
//! disagreement comes to its level only after as many rounds as the graph takes to forget.

use super::Pilot;
use crate::{Schedule, analysis::dense::Dense, sketch::pilot};
use std::collections::VecDeque;

/// Rounds whose changes are remembered.
pub const KEPT: usize = 16;

/// What the graph has made of the rounds so far.
#[derive(Debug, Clone)]
struct Course {
    identity: Dense,
    /// `Σ_s η_s M_s` and `Σ_s η_s² M_s M_sᵀ` over the rounds s, `M_s` being all mixing since round s without the
    /// mean and `η_s` the round's learning rate.
    drift: Dense,
    noise: Dense,
    rounds: u64,
    even: bool,
}

impl Course {
    fn new(nodes: usize) -> Self {
        let share = vec![1.0 / nodes.max(1) as f64; nodes];
        let identity = Dense::identity(nodes).minus_limit(&share);
        let (drift, noise) = (Dense::zeros(nodes), Dense::zeros(nodes));
        Self { identity, drift, noise, rounds: 0, even: true }
    }

    fn advance(&mut self, schedule: &Schedule, repeats: u64, rate: f64) {
        let steps = self.rounds * repeats..(self.rounds + 1) * repeats;
        let step = |m: Dense| steps.clone().fold(m, |m, at| m.mixed(&schedule.mixing(at)));
        let even = |at| schedule.mixing(at).row_sums().iter().all(|sum| (sum - 1.0).abs() < 1e-9);
        self.even &= steps.clone().all(even);
        let plus = |to: &mut Dense, factor: f64| {
            let mut added = self.identity.clone();
            added.scale(factor);
            std::mem::replace(to, Dense::zeros(0)).plus(&added)
        };
        self.drift = step(plus(&mut self.drift, rate));
        let half = step(plus(&mut self.noise, rate * rate));
        self.noise = step(half.transposed());
        self.rounds += 1;
    }

    /// For how many rounds changes add up, if they keep their direction: `(1 + λ)/(1 − λ)` where one λ rules.
    fn memory(&self) -> f64 {
        let (sum, each) = (self.drift.norm().powi(2), self.noise.trace());
        if each > 1e-12 * sum { sum / each } else { 1.0 }
    }

    fn distance(&self, pilot: &Pilot) -> Option<f64> {
        let n = self.identity.n;
        if !self.even || n == 0 || pilot.gram.len() != n || pilot.gram.iter().any(|row| row.len() != n) {
            return None;
        }
        let gram = Dense { n, data: pilot.gram.concat() };
        // What nodes have in common from round to round is estimated over a few rounds, and comes out below nothing
        // where each round takes back some of the last, as small steps on sharp losses do.
        let drift = self.drift.times(&gram).times(&self.drift.transposed()).trace().max(0.0);
        Some((drift + pilot.noise * self.noise.trace()) / n as f64).filter(|distance| distance.is_finite())
    }
}

/// The prediction of a run under way: what the graph makes of changes like those of the last rounds, in as many
/// rounds as have been done since all had one model, if changes go with the learning rate. It looks back for as
/// long as changes add up on this graph.
#[derive(Debug, Clone)]
pub struct Forecast {
    schedule: Schedule,
    repeats: u64,
    course: Course,
    /// Sketches of the changes of the last rounds over the learning rate: by round, by node.
    changes: VecDeque<Vec<Vec<f32>>>,
}

impl Forecast {
    /// For a graph, with `repeats` mixing steps a round.
    pub fn new(schedule: Schedule, repeats: u64) -> Self {
        let course = Course::new(schedule.nodes());
        Self { schedule, repeats: repeats.max(1), course, changes: VecDeque::new() }
    }

    /// Number of nodes, `n`.
    pub fn nodes(&self) -> usize {
        self.schedule.nodes()
    }

    /// The expected `(1/n) Σ‖x_i − x̄‖²` after `round`, in which the nodes made these changes (sketches, in the
    /// nodes' order; `None`: not known), `rate` being the learning rate of every round. Rounds come in ascending
    /// order. `None` with fewer than two known rounds in a row, and when the matrices are not doubly stochastic.
    pub fn after(
        &mut self,
        round: u64,
        changes: Option<Vec<Vec<f32>>>,
        rate: impl Fn(u64) -> f64,
    ) -> Option<f64> {
        let missed = round > self.course.rounds;
        while self.course.rounds <= round {
            self.course.advance(&self.schedule, self.repeats, rate(self.course.rounds));
        }
        let scale = 1.0 / rate(round);
        let mut changes = changes.filter(|changes| changes.len() == self.nodes() && scale.is_finite());
        for change in changes.iter_mut().flatten().flatten() {
            *change = (f64::from(*change) * scale) as f32;
        }
        if missed || changes.is_none() {
            self.changes.clear();
        }
        self.changes.extend(changes);
        let window = (self.course.memory().round() as usize).clamp(2, KEPT);
        while self.changes.len() > KEPT {
            self.changes.pop_front();
        }
        let from = self.changes.len().saturating_sub(window);
        self.course.distance(&pilot(&self.changes.make_contiguous()[from..])?)
    }
}
