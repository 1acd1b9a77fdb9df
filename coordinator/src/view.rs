//! How runs look to people and programs: summaries, details, log lines.

use crate::{
    machine::{End, Machine, Member, Phase},
    run::Look,
    store::{RunRecord, Stored},
};
use proto::{
    event::{Metrics, RunEvent},
    v1::{self, RejectReason, RunState},
};
use std::collections::BTreeMap;

/// Members of a cohort that a page names.
const NAMED: usize = 200;

/// A run in a list.
pub(crate) fn summary(record: &RunRecord, machine: &Machine) -> v1::RunSummary {
    let (state, reason) = match &record.state {
        Stored::Finished {} => (RunState::Finished, String::new()),
        Stored::Cancelled {} => (RunState::Cancelled, String::new()),
        Stored::Failed { reason } => (RunState::Failed, reason.clone()),
        Stored::Exhausted { reason } => (RunState::Exhausted, reason.clone()),
        Stored::Paused {} => (RunState::Paused, "paused by an operator".to_owned()),
        Stored::Active {} => match machine.phase() {
            Phase::Waiting => (RunState::Waiting, "not enough eligible workers are connected".to_owned()),
            Phase::Ended(_) => (RunState::Running, "the last round is being evaluated".to_owned()),
            _ => (RunState::Running, String::new()),
        },
    };
    v1::RunSummary {
        id: record.id.clone(),
        name: record.spec.name.clone(),
        state: state.into(),
        committed: record.round,
        rounds: record.spec.rounds,
        algorithm: record.spec.algorithm.kind.clone(),
        model: model_name(record),
        data: record.spec.data.name.clone(),
        reason,
        model_digest: record.vectors.get(algorithms::MODEL).map(ToString::to_string).unwrap_or_default(),
    }
}

fn model_name(record: &RunRecord) -> String {
    let value = serde_json::to_value(&record.spec.model).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}

/// How a stored run ended.
pub(crate) fn end_of(state: &Stored) -> End {
    match state {
        Stored::Cancelled {} => End::Cancelled,
        Stored::Failed { reason } => End::Failed(reason.clone()),
        Stored::Exhausted { reason } => End::Exhausted(reason.clone()),
        Stored::Active {} | Stored::Paused {} | Stored::Finished {} => End::Finished,
    }
}

/// Everything about a run; `seen` is the workers' progress and the rejections by reason.
pub(crate) fn detail(
    summary: v1::RunSummary,
    record: &RunRecord,
    machine: &Machine,
    metrics: &[Metrics],
    seen: (&BTreeMap<String, String>, &BTreeMap<String, u64>),
) -> v1::RunDetail {
    let (progress, rejections) = seen;
    let all = (1..).map_while(|code| RejectReason::try_from(code).ok());
    let counts = all.filter_map(|reason| {
        let count = *rejections.get(reason.label())?;
        Some(v1::ReasonCount { reason: reason.into(), count })
    });
    v1::RunDetail {
        summary: Some(summary),
        spec: record.spec.to_json(),
        metrics: metrics.iter().filter_map(|line| serde_json::to_string(line).ok()).collect(),
        cohort: members(machine, progress).collect(),
        rejections: counts.collect(),
    }
}

/// What a page tells of the present round: everybody by state, and some by name.
pub(crate) fn look(
    machine: &Machine,
    (progress, rejections): (&BTreeMap<String, String>, &BTreeMap<String, u64>),
    hidden: bool,
) -> Look {
    let mut cohort = page::view::Cohort { hidden, ..page::view::Cohort::default() };
    for member in members(machine, progress).filter(|_| !hidden) {
        *cohort.states.entry(member.state.clone()).or_default() += 1;
        if cohort.members.len() < NAMED {
            cohort.members.push(member);
        }
    }
    let open = matches!(machine.phase(), Phase::Training | Phase::Committing);
    cohort.round = open.then(|| machine.round());
    (cohort, rejections.clone())
}

fn members(machine: &Machine, progress: &BTreeMap<String, String>) -> impl Iterator<Item = v1::CohortMember> {
    let cohort = machine.cohort().iter().map(|(worker, member)| v1::CohortMember {
        worker: worker.clone(),
        state: if machine.is_stuck(worker) {
            "stuck".to_owned()
        } else {
            member_label(*member, machine.is_connected(worker)).to_owned()
        },
        progress: on_version(machine, worker, progress.get(worker).map_or("", String::as_str)),
    });
    cohort.chain(buffered(machine))
}

/// A worker's progress, and without rounds the version that it trains.
fn on_version(machine: &Machine, worker: &str, progress: &str) -> String {
    match machine.ongoing().and_then(|ongoing| ongoing.tasks.get(worker)) {
        Some(version) if progress.is_empty() => format!("version {version}"),
        Some(version) => format!("version {version}, {progress}"),
        None => progress.to_owned(),
    }
}

/// Without rounds, the updates that wait for a version; their workers may train again.
fn buffered(machine: &Machine) -> impl Iterator<Item = v1::CohortMember> {
    let buffer = machine.ongoing().map(|ongoing| ongoing.buffer.as_slice()).unwrap_or_default();
    buffer.iter().map(|update| v1::CohortMember {
        worker: update.worker.clone(),
        state: "buffered".to_owned(),
        progress: format!("version {}, staleness {}", update.version, update.staleness),
    })
}

fn member_label(member: Member, connected: bool) -> &'static str {
    match member {
        Member::Training if connected => "training",
        Member::Training | Member::Lost => "lost",
        Member::Counted(_) => "applied",
        Member::Declined => "declined",
        Member::Rejected(_) => "rejected",
    }
}

/// A worker's progress in words.
pub(crate) fn progress(progress: &v1::Progress) -> String {
    let phase = match progress.phase() {
        v1::Phase::Fetching => "fetching",
        v1::Phase::Training => "training",
        v1::Phase::Uploading => "uploading",
        v1::Phase::Unspecified => "working",
    };
    format!("{phase} {} of {}", progress.done, progress.due)
}

/// One log line for an event: what an operator must act on is a warning.
pub(crate) fn log_event(run: &str, event: &RunEvent) {
    let body = serde_json::to_string(event).unwrap_or_default();
    match event {
        RunEvent::UpdateRejected { .. }
        | RunEvent::WorkerDeclined { .. }
        | RunEvent::WorkerLost { .. }
        | RunEvent::WorkerStuck { .. }
        | RunEvent::Late { .. }
        | RunEvent::RoundShort { .. }
        | RunEvent::Quarantined { .. }
        | RunEvent::Exhausted { .. }
        | RunEvent::Failed { .. } => tracing::warn!(run, "{body}"),
        RunEvent::UpdateApplied { .. } | RunEvent::UpdateBuffered { .. } => tracing::debug!(run, "{body}"),
        _ => tracing::info!(run, "{body}"),
    }
}
