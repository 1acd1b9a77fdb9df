//! What a peer knows of a round: its own line of `metrics.jsonl`, with what all peers reported (how far they
//! are apart, how the mass is divided) and what the topology promised.

use crate::trainer::Scores;
use gossip::{
    Mass,
    predict::Forecast,
    sketch::{BUCKETS, gap, spread},
};
use proto::{
    digest::Digest,
    spec::{Mixing, RunSpec},
    v1,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Rounds that are remembered.
const KEPT: u64 = 16;
/// A line waits no longer for the reports of others.
const PATIENCE: Duration = Duration::from_secs(4);

/// One line.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub(super) round: u64,
    pub(super) seconds: f64,
    pub(super) epoch: u64,
    /// Live peers, and how many of them reported.
    pub(super) members: usize,
    pub(super) reports: usize,
    pub(super) train_loss: Option<f64>,
    pub(super) eval_loss: Option<f64>,
    pub(super) eval_accuracy: Option<f64>,
    /// Bytes of vectors and masses, in this round.
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// `(1/n) Σ‖z_i − z̄‖²` over those who reported, from sketches; a private run has none.
    pub(super) consensus_distance: Option<f64>,
    /// What the topology makes of changes like those of the last rounds.
    pub(super) consensus_predicted: Option<f64>,
    /// `‖Σ (y_i − g_i)‖ / Σ ‖y_i − g_i‖` over all peers, where gradients are tracked: nothing but rounding while
    /// Σ y = Σ g.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tracking_error: Option<f64>,
    /// Σ w of those who reported, and the sum that they published.
    pub(super) mass: f64,
    pub(super) mass_published: f64,
    pub(super) w: f64,
    pub(super) w_min: f64,
    pub(super) w_max: f64,
    /// Of all that left this peer, in a private run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon: Option<f64>,
    pub(super) model_digest: Digest,
}

/// What this peer itself knows of a round.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) seconds: f64,
    pub(super) train_loss: Option<f64>,
    pub(super) scores: Option<Scores>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) digest: Digest,
    pub(super) epoch: u64,
    pub(super) members: BTreeSet<u64>,
    pub(super) w: f64,
    pub(super) epsilon: Option<f64>,
    pub(super) at: Instant,
}

#[derive(Debug)]
struct Report {
    mass: Mass,
    account: Mass,
    model: Vec<f32>,
    change: Vec<f32>,
    correction: Option<Vec<f32>>,
}

/// All rounds that are not written yet, and the reports of the last ones.
#[derive(Debug)]
pub(super) struct Book {
    mixing: Mixing,
    spec: Arc<RunSpec>,
    file: PathBuf,
    own: BTreeMap<u64, Own>,
    reports: BTreeMap<u64, BTreeMap<u64, Report>>,
    written: Option<u64>,
    pub(super) last: Option<Line>,
    /// For those who take part.
    forecast: Option<(BTreeSet<u64>, Forecast)>,
}

impl Book {
    pub(super) fn new(mixing: Mixing, spec: Arc<RunSpec>, file: PathBuf) -> Self {
        let (own, reports) = (BTreeMap::new(), BTreeMap::new());
        Self { mixing, spec, file, own, reports, written: None, last: None, forecast: None }
    }

    /// Notes what a peer reported; one that makes no sense is dropped.
    pub(super) fn report(&mut self, report: &v1::PeerReport) {
        let Some(from) = report.from else { return };
        let vector = |bytes: &[u8]| -> Option<Vec<f32>> {
            (bytes.is_empty() || bytes.len() == 4 * BUCKETS)
                .then(|| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let (Some(model), Some(change)) = (vector(&report.model), vector(&report.change)) else {
            tracing::warn!(from = from.id, "a report without sketches");
            return;
        };
        let correction = vector(&report.correction).filter(|sketch| !sketch.is_empty());
        let mass = Mass::from_units(report.mass.into());
        let account = Mass::from_units(report.account.into());
        // Nobody can make this peer remember rounds that are far from its own.
        let newest = self.own.keys().next_back().copied().or(self.written).unwrap_or(0);
        if report.round + KEPT < newest || report.round > newest + 4 * KEPT {
            return;
        }
        self.reports
            .entry(report.round)
            .or_default()
            .insert(from.id, Report { mass, account, model, change, correction });
    }

    /// Notes what this peer did.
    pub(super) fn done(&mut self, round: u64, own: Own) {
        self.own.insert(round, own);
    }

    /// Writes the rounds that everybody has reported, or that have waited long enough.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some((&round, own)) = self.own.first_key_value() {
            let known = self.reports.get(&round);
            let all = own.members.iter().all(|id| known.is_some_and(|known| known.contains_key(id)));
            let waited = now.duration_since(own.at) > PATIENCE;
            if !all && !waited {
                return;
            }
            let Some(own) = self.own.remove(&round) else { return };
            let line = self.line(round, &own);
            self.write(&line);
            self.written = Some(round);
            self.last = Some(line);
            let oldest = round.saturating_sub(KEPT);
            self.reports = self.reports.split_off(&oldest);
        }
    }

    fn line(&mut self, round: u64, own: &Own) -> Line {
        let none = BTreeMap::new();
        let reports = self.reports.get(&round).unwrap_or(&none);
        let live: Vec<&Report> =
            reports.iter().filter(|(id, _)| own.members.contains(id)).map(|(_, report)| report).collect();
        let models: Vec<Vec<f32>> = live.iter().map(|report| report.model.clone()).collect();
        let masses: Vec<f64> = live.iter().map(|report| report.mass.value()).collect();
        let sum = |part: fn(&Report) -> Mass| live.iter().map(|report| part(report)).sum::<Mass>().value();
        let (mass, mass_published) = (sum(|report| report.mass), sum(|report| report.account));
        let extreme = |start: f64, pick: fn(f64, f64) -> f64| masses.iter().copied().fold(start, pick);
        let scores = own.scores;
        Line {
            round,
            seconds: own.seconds,
            epoch: own.epoch,
            members: own.members.len(),
            reports: live.len(),
            train_loss: own.train_loss,
            eval_loss: scores.map(|scores| scores.loss_sum / scores.predictions as f64),
            eval_accuracy: scores.map(|scores| scores.correct as f64 / scores.predictions as f64),
            bytes_sent: own.bytes_sent,
            bytes_received: own.bytes_received,
            consensus_distance: models.iter().all(|model| !model.is_empty()).then(|| spread(&models)),
            mass,
            mass_published,
            w: own.w,
            w_min: extreme(own.w, f64::min),
            w_max: extreme(own.w, f64::max),
            epsilon: own.epsilon,
            model_digest: own.digest,
            tracking_error: tracking_error(&live, own.members.len()),
            consensus_predicted: self.predicted(round, &own.members),
        }
    }

    /// From the changes of the last rounds, if all of those who take part told of them.
    fn predicted(&mut self, round: u64, members: &BTreeSet<u64>) -> Option<f64> {
        let all = self.reports.get(&round).filter(|reports| reports.keys().eq(members.iter()));
        // Private runs tell none.
        let all = all.filter(|reports| reports.values().all(|report| !report.change.is_empty()));
        let changes = all.map(|reports| reports.values().map(|report| report.change.clone()).collect());
        if self.forecast.as_ref().is_none_or(|(of, _)| of != members) {
            let schedule = self.mixing.schedule().resized(members.len()).ok()?;
            self.forecast = Some((members.clone(), Forecast::new(schedule, self.mixing.repeats)));
        }
        let (_, forecast) = self.forecast.as_mut()?;
        forecast.after(round, changes, |round| self.spec.lr(round).into())
    }

    fn write(&self, line: &Line) {
        let written = serde_json::to_string(line).map_err(|error| error.to_string()).and_then(|text| {
            let file = OpenOptions::new().create(true).append(true).open(&self.file);
            file.and_then(|mut file| writeln!(file, "{text}")).map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), error, "a line of metrics was not written");
        }
    }
}

/// See [`Line::tracking_error`]; only where everybody told.
fn tracking_error(live: &[&Report], members: usize) -> Option<f64> {
    let told: Vec<&[f32]> = live.iter().filter_map(|report| report.correction.as_deref()).collect();
    (told.len() == members).then(|| gap(&told))
}
