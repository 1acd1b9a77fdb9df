//! What Prometheus reads: the fields of `metrics.jsonl` and of summaries under their own names, with the
//! prefix `starling_` and the run as a label. Equal state, equal bytes.

use crate::{
    describe,
    view::{Run, Site},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// The media type of what [`text`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names and values.
pub type Labels = Vec<(&'static str, String)>;

/// Whether a number may fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may.
    Gauge,
    /// It counts; its name ends in `_total`.
    Counter,
}

/// One metric with all of its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Labels, f64)>,
}

impl Series {
    /// A metric, whose help ends without a full stop.
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    /// With a sample, if there is a value.
    #[must_use]
    pub fn with(mut self, labels: Labels, value: Option<f64>) -> Self {
        self.samples.extend(value.map(|value| (labels, value)));
        self
    }
}

#[derive(Debug)]
struct All(Vec<Series>);

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for series in self.0.iter().filter(|series| !series.samples.is_empty()) {
            let kind = match series.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut metric = encoder.encode_descriptor(series.name, series.help, None, kind)?;
            for (labels, value) in &series.samples {
                let sample = metric.encode_family(labels)?;
                match series.kind {
                    Kind::Gauge => ConstGauge::new(*value).encode(sample)?,
                    Kind::Counter => ConstCounter::new(*value).encode(sample)?,
                }
            }
        }
        Ok(())
    }
}

/// Series as text.
pub fn text(series: Vec<Series>) -> String {
    let mut registry = Registry::with_prefix("starling");
    registry.register_collector(Box::new(All(series)));
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// A coordinator and some of its runs.
pub fn of_site(site: &Site, runs: &[Run]) -> String {
    let none = Vec::new;
    let worker = |state: &str| vec![("state", state.to_owned())];
    let count = |n: usize| Some(n as f64);
    let mut all = vec![
        Series::new("serving", Kind::Gauge, "Whether the coordinator can do its work right now")
            .with(none(), Some(f64::from(u8::from(site.serving)))),
        Series::new("workers", Kind::Gauge, "Workers by state")
            .with(worker("known"), count(site.fleet.known))
            .with(worker("connected"), count(site.fleet.connected))
            .with(worker("quarantined"), count(site.fleet.quarantined)),
        Series::new("runs", Kind::Gauge, "Runs that the coordinator knows").with(none(), count(site.runs)),
    ];
    all.extend(of_runs(runs));
    text(all)
}

type Of = fn(&Run) -> Option<f64>;

/// Everything that a run has one of.
const FIELDS: &[(&str, Kind, &str, Of)] = &[
    ("committed", Kind::Gauge, "Rounds committed", |run| Some(run.summary.committed as f64)),
    ("rounds", Kind::Gauge, "Rounds due", |run| Some(run.summary.rounds as f64)),
    ("round", Kind::Gauge, "Round of the newest line of metrics, from 0", |run| {
        Some(run.last.as_ref()?.round as f64)
    }),
    ("seconds", Kind::Gauge, "Seconds from opening to commit of that round", |run| {
        Some(run.last.as_ref()?.seconds)
    }),
    ("participants", Kind::Gauge, "Updates counted in that round", |run| {
        Some(run.last.as_ref()?.participants as f64)
    }),
    ("train_loss", Kind::Gauge, "Mean training loss of that round", |run| run.last.as_ref()?.train_loss),
    ("eval_loss", Kind::Gauge, "Newest loss on the coordinator's held-out set", |run| {
        run.points.iter().rev().find_map(|point| point.eval_loss)
    }),
    ("eval_accuracy", Kind::Gauge, "Newest accuracy on the coordinator's held-out set", |run| {
        run.points.iter().rev().find_map(|point| point.eval_accuracy)
    }),
    ("federated_loss", Kind::Gauge, "Newest loss on the workers' held-out sets", |run| {
        run.points.iter().rev().find_map(|point| point.federated_loss)
    }),
    ("federated_accuracy", Kind::Gauge, "Newest accuracy on the workers' held-out sets", |run| {
        run.points.iter().rev().find_map(|point| point.federated_accuracy)
    }),
    ("epsilon", Kind::Gauge, "Privacy spent, of all that was released from the run's data set", |run| {
        run.privacy.as_ref().map_or(run.last.as_ref()?.epsilon, |privacy| privacy.epsilon)
    }),
    ("epsilon_budget", Kind::Gauge, "Privacy that may be spent", |run| run.privacy.as_ref()?.budget),
    ("delta", Kind::Gauge, "δ at which ε is told", |run| Some(run.privacy.as_ref()?.delta)),
    ("bytes_down", Kind::Counter, "Payload bytes sent to workers", |run| Some(run.totals.bytes_down as f64)),
    ("bytes_up", Kind::Counter, "Payload bytes received from workers", |run| {
        Some(run.totals.bytes_up as f64)
    }),
    ("events", Kind::Counter, "Events in the run's log", |run| Some(run.events as f64)),
];

fn of_runs(runs: &[Run]) -> impl Iterator<Item = Series> + '_ {
    let label = |run: &Run| vec![("run", run.summary.id.clone())];
    let fields = FIELDS.iter().map(move |(name, kind, help, of)| {
        runs.iter().fold(Series::new(name, *kind, help), |series, run| series.with(label(run), of(run)))
    });
    let state = runs.iter().fold(
        Series::new("run_state", Kind::Gauge, "1 for the state that the run is in"),
        |series, run| {
            let with = |mut labels: Labels, name, value: &str| {
                labels.push((name, value.to_owned()));
                labels
            };
            let labels = with(label(run), "state", describe::state(run.summary.state));
            let labels = with(with(labels, "algorithm", &run.summary.algorithm), "model", &run.summary.model);
            series.with(with(labels, "data", &run.summary.data), Some(1.0))
        },
    );
    let by = |name, kind, help, key: &'static str, of: fn(&Run) -> Vec<(&str, f64)>| {
        runs.iter().fold(Series::new(name, kind, help), |series, run| {
            of(run).into_iter().fold(series, |series, (value, count)| {
                let mut labels = label(run);
                labels.push((key, value.to_owned()));
                series.with(labels, Some(count))
            })
        })
    };
    let cohort = by("cohort", Kind::Gauge, "Workers of the present round by state", "state", |run| {
        run.cohort.states.iter().map(|(state, count)| (state.as_str(), *count as f64)).collect()
    });
    let rejected = "Updates rejected since the coordinator started, by reason";
    let rejected = by("rejected", Kind::Counter, rejected, "reason", |run| {
        run.rejections.iter().map(|(reason, count)| (reason.as_str(), *count as f64)).collect()
    });
    std::iter::once(state).chain(fields).chain([cohort, rejected])
}
