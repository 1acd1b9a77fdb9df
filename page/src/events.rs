//! Events of a run as lines that a person reads while it trains.

use crate::table::{bytes, percent};
use proto::event::{Metrics, RunEvent};

/// One line for an event.
pub fn line(event: &RunEvent) -> String {
    match event {
        RunEvent::Submitted { name } => format!("submitted: {name}"),
        RunEvent::Waiting { eligible, needed } => {
            format!("waiting for workers: {eligible} of {needed} connected that hold the data")
        }
        RunEvent::Quarantined { worker, rejections } => format!(
            "{worker} quarantined after {rejections} rejected updates in a row; `starling worker release \
             {worker}` lets it back"
        ),
        RunEvent::Paused {} => "paused".into(),
        RunEvent::Resumed { round } => format!("round {round}: resumed"),
        RunEvent::RoundMetrics { metrics } => metrics_line(metrics),
        RunEvent::Finished { rounds, model_digest } => {
            format!("finished: {} committed, model {model_digest}", count(*rounds as usize, "round"))
        }
        RunEvent::Cancelled {} => "cancelled".into(),
        RunEvent::Exhausted { rounds, reason, model_digest } => format!(
            "privacy budget spent: stopped after {}, model {model_digest}: {reason}",
            count(*rounds as usize, "round")
        ),
        RunEvent::Failed { reason } => format!("failed: {reason}"),
        _ => round_line(event),
    }
}

/// Whether an event is part of every healthy round, so that a bar may stand for it.
pub fn is_routine(event: &RunEvent) -> bool {
    matches!(
        event,
        RunEvent::Submitted { .. }
            | RunEvent::Waiting { .. }
            | RunEvent::RoundOpened { .. }
            | RunEvent::UpdateApplied { .. }
            | RunEvent::UpdateBuffered { .. }
            | RunEvent::RoundCommitted { .. }
            | RunEvent::Finished { .. }
    )
}

/// What happens within a round.
fn round_line(event: &RunEvent) -> String {
    match event {
        RunEvent::RoundOpened { round, cohort, deadline_s } => {
            format!(
                "round {round}: {} ({}), deadline {deadline_s} s",
                count(cohort.len(), "worker"),
                names(cohort)
            )
        }
        RunEvent::UpdateApplied { round, worker, examples, train_loss, seconds } => {
            let loss = train_loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            format!(
                "round {round}: {worker} counted: {}{loss}, {seconds:.1} s",
                count(*examples as usize, "example")
            )
        }
        RunEvent::UpdateBuffered {
            round,
            worker,
            version,
            staleness,
            weight,
            buffered,
            buffer_size,
            seconds,
            ..
        } => format!(
            "version {round}: {worker} buffered ({buffered} of {buffer_size}): trained on version {version}, \
             staleness {staleness}, weight {weight:.3}, {seconds:.1} s"
        ),
        RunEvent::UpdateRejected { round, worker, reason, detail } => {
            format!("round {round}: {worker} rejected: {}", because(reason, detail))
        }
        RunEvent::WorkerDeclined { round, worker, reason, detail } => {
            format!("round {round}: {worker} declined: {}", because(reason, detail))
        }
        RunEvent::WorkerLost { round, worker } => format!("round {round}: {worker} lost: no sign of life"),
        RunEvent::WorkerReturned { round, worker } => format!("round {round}: {worker} is back"),
        RunEvent::WorkerStuck { round, worker, seconds } => {
            format!("round {round}: {worker} is connected but has made no progress for {seconds} s")
        }
        RunEvent::Late { round, workers, stuck } => {
            let still = if stuck.is_empty() {
                String::new()
            } else {
                format!(" (without progress: {})", names(stuck))
            };
            format!("round {round}: its deadline passed without {}{still}", names(workers))
        }
        RunEvent::RoundShort { round, updates, needed, substitutes } => {
            let more = if substitutes.is_empty() {
                "nobody else can be asked".into()
            } else {
                format!("asked in addition: {}", names(substitutes))
            };
            format!("round {round}: deadline passed with {updates} of {needed} updates; {more}")
        }
        RunEvent::RoundCommitted { round, participants, model_digest } => {
            let digest: String = model_digest.to_string().chars().take(12).collect();
            format!("round {round}: committed with {}, model {digest}", count(*participants, "update"))
        }
        // `line` has the others; a new kind is shown rather than lost.
        other => format!("{other:?}"),
    }
}

fn metrics_line(metrics: &Metrics) -> String {
    let mut parts = Vec::new();
    let mut add =
        |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name} {value}")));
    let loss = |loss: f64| format!("{loss:.4}");
    add("accuracy", metrics.eval_accuracy.map(percent));
    add("loss", metrics.eval_loss.map(loss));
    for (name, scores) in &metrics.averages {
        add(&format!("{name} accuracy"), scores.eval_accuracy.map(percent));
        add(&format!("{name} loss"), scores.eval_loss.map(loss));
    }
    add("workers' accuracy", metrics.federated_accuracy.map(percent));
    add("workers' loss", metrics.federated_loss.map(loss));
    if let Some(clients) = &metrics.clients {
        add("worst tenth", Some(percent(clients.accuracy.worst_decile)));
        add("personal accuracy", clients.personal.as_ref().map(|own| percent(own.mean_accuracy)));
        add("calibration error", clients.calibration.map(|c| format!("{:.4}", c.ece)));
    }
    add("train loss", metrics.train_loss.map(loss));
    add("ε", metrics.epsilon.map(|epsilon| format!("{epsilon:.4}")));
    parts.push(count(metrics.participants, "update"));
    if let Some(flow) = &metrics.asynchronous {
        let (mean, most) = (flow.mean_staleness, flow.max_staleness);
        parts.push(format!("staleness {mean:.1} (at most {most}), {:.2} updates/s", flow.updates_per_s));
    }
    if metrics.rejected > 0 {
        parts.push(format!("{} rejected", metrics.rejected));
    }
    parts.push(format!("{:.1} s", metrics.seconds));
    parts.push(format!("{} down, {} up", bytes(metrics.bytes_down), bytes(metrics.bytes_up)));
    format!("round {}: {}", metrics.round, parts.join(", "))
}

fn because(reason: &str, detail: &str) -> String {
    if detail.is_empty() { reason.to_owned() } else { format!("{reason} ({detail})") }
}

/// At most eight names: a cohort may have thousands.
fn names(workers: &[String]) -> String {
    match workers {
        [first @ .., _] if first.len() >= 8 => {
            format!("{} and {} more", workers[..8].join(", "), workers.len() - 8)
        }
        _ => workers.join(", "),
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proto::{digest::Digest, event::AverageMetrics};
    use std::collections::BTreeMap;

    /// The metrics of a round that went well.
    pub(crate) fn metrics(round: u64, accuracy: f64) -> Metrics {
        Metrics {
            round,
            seconds: 12.34,
            participants: 4,
            rejected: 1,
            train_loss: Some(0.5),
            eval_loss: Some(1.0 - accuracy),
            eval_accuracy: Some(accuracy),
            federated_loss: None,
            federated_accuracy: None,
            clients: None,
            bytes_down: 1_740_000,
            bytes_up: 999,
            averages: BTreeMap::new(),
            epsilon: None,
            asynchronous: None,
            model_digest: Digest::of(b"m"),
        }
    }

    fn assert_lines(table: &[(RunEvent, &str)]) {
        for (event, want) in table {
            assert_eq!(line(event), *want);
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_happens_to_a_run() {
        let worker = "w2".to_owned();
        assert_lines(&[
            (RunEvent::Submitted { name: "a".into() }, "submitted: a"),
            (
                RunEvent::Waiting { eligible: 1, needed: 2 },
                "waiting for workers: 1 of 2 connected that hold the data",
            ),
            (
                RunEvent::Quarantined { worker, rejections: 3 },
                "w2 quarantined after 3 rejected updates in a row; `starling worker release w2` lets it back",
            ),
            (
                RunEvent::RoundMetrics { metrics: metrics(3, 0.931) },
                "round 3: accuracy 93.10 %, loss 0.0690, train loss 0.5000, 4 updates, 1 rejected, 12.3 s, \
                 1.7 MB down, 999 B up",
            ),
            (RunEvent::Paused {}, "paused"),
            (RunEvent::Resumed { round: 3 }, "round 3: resumed"),
            (RunEvent::Cancelled {}, "cancelled"),
            (RunEvent::Failed { reason: "no disk".into() }, "failed: no disk"),
        ]);
        let mut averaged = metrics(3, 0.931);
        let scores = AverageMetrics { eval_loss: Some(0.05), eval_accuracy: Some(0.95) };
        averaged.averages.insert("swa".into(), scores);
        let text = line(&RunEvent::RoundMetrics { metrics: averaged });
        assert!(text.contains("loss 0.0690, swa accuracy 95.00 %, swa loss 0.0500, train loss"), "{text}");
        let finished = line(&RunEvent::Finished { rounds: 1, model_digest: Digest::of(b"") });
        assert!(finished.starts_with("finished: 1 round committed, model af13"), "{finished}");
    }

    #[test]
    fn what_happens_to_a_worker() {
        let (worker, round) = ("w2".to_owned(), 3);
        let (reason, detail) = ("not finite".to_owned(), "element 7 is NaN".to_owned());
        let applied = |examples, train_loss| RunEvent::UpdateApplied {
            round,
            worker: "w2".into(),
            examples,
            train_loss,
            seconds: 4.06,
        };
        assert_lines(&[
            (applied(1, Some(0.25)), "round 3: w2 counted: 1 example, loss 0.2500, 4.1 s"),
            (applied(2, None), "round 3: w2 counted: 2 examples, 4.1 s"),
            (
                RunEvent::UpdateRejected { round, worker: worker.clone(), reason, detail },
                "round 3: w2 rejected: not finite (element 7 is NaN)",
            ),
            (
                RunEvent::WorkerDeclined {
                    round,
                    worker: worker.clone(),
                    reason: "data".into(),
                    detail: String::new(),
                },
                "round 3: w2 declined: data",
            ),
            (RunEvent::WorkerLost { round, worker: worker.clone() }, "round 3: w2 lost: no sign of life"),
            (RunEvent::WorkerReturned { round, worker }, "round 3: w2 is back"),
        ]);
    }

    #[test]
    fn what_happens_to_a_round() {
        let round = 3;
        let nine: Vec<String> = (0..9).map(|i| format!("w{i}")).collect();
        assert_lines(&[
            (
                RunEvent::RoundOpened { round, cohort: owned(&["a", "b"]), deadline_s: 60 },
                "round 3: 2 workers (a, b), deadline 60 s",
            ),
            (
                RunEvent::RoundOpened { round, cohort: nine, deadline_s: 60 },
                "round 3: 9 workers (w0, w1, w2, w3, w4, w5, w6, w7 and 1 more), deadline 60 s",
            ),
            (
                RunEvent::Late { round, workers: owned(&["a", "b"]), stuck: vec![] },
                "round 3: its deadline passed without a, b",
            ),
            (
                RunEvent::Late { round, workers: owned(&["a", "b"]), stuck: owned(&["b"]) },
                "round 3: its deadline passed without a, b (without progress: b)",
            ),
            (
                RunEvent::WorkerStuck { round, worker: "b".into(), seconds: 30 },
                "round 3: b is connected but has made no progress for 30 s",
            ),
            (
                RunEvent::RoundShort { round, updates: 1, needed: 3, substitutes: vec![] },
                "round 3: deadline passed with 1 of 3 updates; nobody else can be asked",
            ),
            (
                RunEvent::RoundShort { round, updates: 1, needed: 3, substitutes: owned(&["c"]) },
                "round 3: deadline passed with 1 of 3 updates; asked in addition: c",
            ),
            (
                RunEvent::RoundCommitted { round, participants: 2, model_digest: Digest::of(b"") },
                "round 3: committed with 2 updates, model af1349b9f5f9",
            ),
        ]);
    }
}
