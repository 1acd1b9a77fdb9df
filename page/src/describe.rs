//! Runs and workers in words and as JSON: the documented output of `--json`.

use crate::table::{self, or_dash, percent};
use proto::{
    event::Metrics,
    v1::{RunDetail, RunState, RunSummary, WorkerSummary},
};
use serde_json::{Value, json};

/// A state in one word.
pub fn state(state: i32) -> &'static str {
    match RunState::try_from(state) {
        Ok(RunState::Waiting) => "waiting",
        Ok(RunState::Running) => "running",
        Ok(RunState::Paused) => "paused",
        Ok(RunState::Finished) => "finished",
        Ok(RunState::Cancelled) => "cancelled",
        Ok(RunState::Failed) => "failed",
        Ok(RunState::Exhausted) => "exhausted",
        Ok(RunState::Unspecified) | Err(_) => "unknown",
    }
}

/// A worker's state in one word.
pub fn worker_state(worker: &WorkerSummary) -> &'static str {
    match (worker.quarantined, worker.connected) {
        (true, _) => "quarantined",
        (false, true) => "connected",
        (false, false) => "away",
    }
}

/// A run, as `run list --json` and others print it.
pub fn run_json(run: &RunSummary) -> Value {
    json!({
        "id": run.id, "name": run.name, "state": state(run.state), "committed": run.committed,
        "rounds": run.rounds, "algorithm": run.algorithm, "model": run.model, "data": run.data,
        "reason": run.reason, "model_digest": run.model_digest,
    })
}

/// A worker, as `worker list --json` prints it.
pub fn worker_json(worker: &WorkerSummary) -> Value {
    json!({
        "name": worker.name, "connected": worker.connected, "quarantined": worker.quarantined,
        "program": worker.program, "datasets": worker.datasets, "silent_ms": worker.silent_ms,
        "applied": worker.applied, "rejected": worker.rejected, "address": worker.address,
    })
}

/// Everything about a run, as `run show --json` prints it.
pub fn detail_json(detail: &RunDetail) -> Value {
    let text = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let mut all = run_json(&detail.summary.clone().unwrap_or_default());
    all["spec"] = text(&detail.spec);
    all["metrics"] = detail.metrics.iter().map(|line| text(line)).collect();
    all["cohort"] = detail
        .cohort
        .iter()
        .map(|member| json!({"worker": member.worker, "state": member.state, "progress": member.progress}))
        .collect();
    all["rejections"] = detail
        .rejections
        .iter()
        .map(|count| json!({"reason": count.reason().label(), "count": count.count}))
        .collect();
    all
}

/// Runs as a table.
pub fn run_table(runs: &[RunSummary]) -> String {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.id.clone(),
                state(run.state).into(),
                format!("{}/{}", run.committed, run.rounds),
                run.algorithm.clone(),
                run.model.clone(),
                run.data.clone(),
                run.reason.clone(),
            ]
        })
        .collect();
    table::table(&["run", "state", "rounds", "algorithm", "model", "data", "reason"], &rows)
}

/// Rounds as a table.
pub fn metrics_table(metrics: &[Metrics]) -> String {
    let rows: Vec<Vec<String>> = metrics
        .iter()
        .map(|line| {
            vec![
                line.round.to_string(),
                or_dash(line.eval_accuracy.or(line.federated_accuracy), percent),
                or_dash(line.clients.as_ref(), |clients| percent(clients.accuracy.worst_decile)),
                or_dash(line.eval_loss.or(line.federated_loss), |loss| format!("{loss:.4}")),
                or_dash(line.train_loss, |loss| format!("{loss:.4}")),
                or_dash(line.epsilon, |epsilon| format!("{epsilon:.4}")),
                line.participants.to_string(),
                line.rejected.to_string(),
                format!("{:.2}", line.seconds),
                table::bytes(line.bytes_down),
                table::bytes(line.bytes_up),
            ]
        })
        .collect();
    let heading = [
        "round",
        "accuracy",
        "worst 10 %",
        "loss",
        "train loss",
        "ε",
        "updates",
        "rejected",
        "seconds",
        "down",
        "up",
    ];
    table::table(&heading, &rows)
}

/// Everything about a run, for people.
pub fn detail_text(detail: &RunDetail) -> String {
    let run = detail.summary.clone().unwrap_or_default();
    let digest = if run.model_digest.is_empty() { "–".into() } else { run.model_digest.clone() };
    let mut text = table::pairs(&[
        ("run", run.id),
        ("state", state(run.state).into()),
        ("reason", if run.reason.is_empty() { "–".into() } else { run.reason }),
        ("rounds", format!("{} of {} committed", run.committed, run.rounds)),
        ("algorithm", run.algorithm),
        ("model", run.model),
        ("data", run.data),
        ("digest", digest),
    ]);
    let mut section = |body: String| {
        text.push_str("\n\n");
        text.push_str(&body);
    };
    if !detail.cohort.is_empty() {
        let members = detail.cohort.iter().cloned().map(|m| vec![m.worker, m.state, m.progress]);
        section(table::table(&["worker", "this round", "progress"], &members.collect::<Vec<_>>()));
    }
    if !detail.rejections.is_empty() {
        let counts = detail.rejections.iter().map(|c| vec![c.reason().label().into(), c.count.to_string()]);
        section(table::table(&["rejected because", "updates"], &counts.collect::<Vec<_>>()));
    }
    let metrics = parse_metrics(&detail.metrics);
    if !metrics.is_empty() {
        section(metrics_table(&metrics));
    }
    text
}

/// The lines that this version understands.
pub fn parse_metrics(lines: &[String]) -> Vec<Metrics> {
    lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{CohortMember, ReasonCount, RejectReason};

    #[test]
    fn a_run_in_words_and_as_json() {
        let summary = RunSummary {
            id: "a-1".into(),
            state: RunState::Running.into(),
            committed: 2,
            rounds: 9,
            ..RunSummary::default()
        };
        let member = CohortMember { worker: "w1".into(), state: "late".into(), progress: "3/9 steps".into() };
        let reason = ReasonCount { reason: RejectReason::NotFinite.into(), count: 4 };
        let detail = RunDetail {
            summary: Some(summary),
            spec: "{\"rounds\":9}".into(),
            metrics: vec![],
            cohort: vec![member],
            rejections: vec![reason],
        };
        let text = detail_text(&detail);
        for want in ["a-1", "running", "2 of 9", "w1", "late", "3/9 steps", "not finite"] {
            assert!(text.contains(want), "{want}: {text}");
        }
        let json = detail_json(&detail);
        assert_eq!(json["state"], "running");
        assert_eq!(json["spec"]["rounds"], 9);
        assert_eq!(json["rejections"][0]["count"], 4);
    }
}
