//! What pages, JSON and metrics tell: plain data, collected by whoever serves them.

use crate::{History, history::Totals, plot::Point};
use privacy::{Adjacency, Unit};
use proto::{
    event::Metrics,
    v1::{CohortMember, RunSummary, WorkerSummary},
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A coordinator.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Version of the program.
    pub version: String,
    /// Whether it can do its work right now.
    pub serving: bool,
    /// Why not, or why it waits.
    pub trouble: Vec<String>,
    /// Workers.
    pub fleet: Census,
    /// Runs that it knows.
    pub runs: usize,
}

/// Workers by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    /// Seen since the coordinator started, or in quarantine.
    pub known: usize,
    /// With a session.
    pub connected: usize,
    /// That may not send updates.
    pub quarantined: usize,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Part<T> {
    /// Its elements.
    pub items: Vec<T>,
    /// Its number, from 1.
    pub page: usize,
    /// How many parts there are, at least 1.
    pub pages: usize,
}

impl<T> Part<T> {
    /// Part `page` (from 1; the nearest there is) of `all`, `size` at a time.
    pub fn of(all: Vec<T>, page: usize, size: usize) -> Self {
        let pages = all.len().div_ceil(size).max(1);
        let page = page.clamp(1, pages);
        Self { items: all.into_iter().skip((page - 1) * size).take(size).collect(), page, pages }
    }

    /// The same part of something else.
    pub fn with<U>(&self, items: Vec<U>) -> Part<U> {
        Part { items, page: self.page, pages: self.pages }
    }
}

/// A run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// In one line.
    pub summary: RunSummary,
    /// The newest line of metrics.
    pub last: Option<Metrics>,
    /// The curve.
    pub points: Vec<Point>,
    /// Sums over all lines.
    pub totals: Totals,
    /// The present round.
    pub cohort: Cohort,
    /// Updates that were rejected since the coordinator started, by reason.
    pub rejections: BTreeMap<String, u64>,
    /// What it promised, and what that has cost.
    pub privacy: Option<Privacy>,
    /// Events in its log.
    pub events: u64,
}

impl Run {
    /// What was remembered of its lines.
    pub fn remember(&mut self, history: &History) {
        self.points = history.points().to_vec();
        self.totals = history.totals();
        self.last = history.last().cloned();
    }
}

/// Who is in the present round.
#[derive(Debug, Clone, Default)]
pub struct Cohort {
    /// It is a secret of a private run.
    pub hidden: bool,
    /// The round, from 0, if one is open.
    pub round: Option<u64>,
    /// How many are in which state.
    pub states: BTreeMap<String, usize>,
    /// Some of them.
    pub members: Vec<CohortMember>,
}

impl Cohort {
    /// How many there are.
    pub fn size(&self) -> usize {
        self.states.values().sum()
    }
}

/// The promise of a private run, and what was spent: of everything that was released from its data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Privacy {
    /// Whose ledger.
    pub dataset: String,
    /// Whose privacy.
    pub unit: Unit,
    /// Against what.
    pub adjacency: Adjacency,
    /// How noise is added, as in a run file.
    pub mechanism: String,
    /// Who takes part in a round, as in a run file.
    pub sampling: Value,
    /// Standard deviation of the noise over the sensitivity.
    pub noise_multiplier: f64,
    /// δ.
    pub delta: f64,
    /// ε that was spent, as the run counts it; absent: it is not finite.
    pub epsilon: Option<f64>,
    /// Who counted.
    pub accountant: String,
    /// ε that must not be exceeded.
    pub budget: Option<f64>,
    /// Releases in the ledger, since its last reset.
    pub releases: u64,
    /// How often an operator let it count anew.
    pub resets: u64,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its number.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// In words.
    pub text: String,
    /// As it is.
    pub body: Value,
}

/// A run with its log.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    /// The run.
    pub run: Run,
    /// Its run file.
    pub spec: Value,
    /// The newest lines of metrics, in order.
    pub metrics: Vec<Metrics>,
    /// Part of its events, in order.
    pub events: Vec<Line>,
}

/// Workers, and how many of each kind there are.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    /// All.
    pub census: Census,
    /// Some.
    pub part: Part<WorkerSummary>,
}
