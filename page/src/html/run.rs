//! The page of one run, and of its log.

use super::{
    bar, frame, picture,
    runs::{present, word},
};
use crate::{
    plot,
    table::{bytes, instant, percent},
    view::{Detail, Line, Privacy, Run},
};
use maud::{Markup, html};
use proto::{event::Metrics, v1::RunState};

/// Everything about one run.
pub fn detail(detail: &Detail) -> String {
    let run = &detail.run;
    let id = &run.summary.id;
    let drawn = plot::of_points(id, &run.points);
    let body = html! {
        nav {
            a href="/" { "runs" } a href="/workers" { "workers" } a href=(format!("/runs/{id}/log")) { "events" }
            a href="/metrics" { "metrics" } a href=(format!("/runs/{id}.json")) { "JSON" }
        }
        h1 { (id) }
        (facts(run))
        @if let Some(privacy) = &run.privacy { (promise(privacy)) }
        @if let Ok(svg) = &drawn { h2 { "Curves" } (picture(svg)) }
        (members(run))
        @if !run.rejections.is_empty() {
            h2 { "Rejected updates" }
            p class="dim" { "Since the coordinator started." }
            table {
                tr { th { "reason" } th class="n" { "updates" } }
                @for (reason, count) in &run.rejections { tr { td { (reason) } td class="n" { (count) } } }
            }
        }
        @if !detail.metrics.is_empty() { h2 { "Newest rounds" } (rounds(&detail.metrics)) }
        h2 { "Newest events" }
        (lines(&detail.events))
        h2 { "Run file" }
        pre { (serde_json::to_string_pretty(&detail.spec).unwrap_or_default()) }
    };
    frame(id, goes_on(run), &body)
}

/// Part of a run's log, from event `from` on.
pub fn log(run: &Run, events: &[Line], from: u64, size: u64) -> String {
    let id = &run.summary.id;
    let path = format!("/runs/{id}/log");
    let body = html! {
        nav {
            a href="/" { "runs" } a href=(format!("/runs/{id}")) { (id) }
            @if from > 0 { a href=(format!("{path}?from={}", from.saturating_sub(size))) { "older" } }
            @if from + size < run.events { a href=(format!("{path}?from={}", from + size)) { "newer" } }
        }
        h1 { "Events of " (id) }
        p class="dim" { (run.events) " so far" }
        (lines(events))
    };
    frame(&format!("events of {id}"), false, &body)
}

fn goes_on(run: &Run) -> bool {
    matches!(run.summary.state(), RunState::Waiting | RunState::Running | RunState::Paused)
}

fn facts(run: &Run) -> Markup {
    let summary = &run.summary;
    html! {
        dl {
            dt { "state" } dd { (word(summary.state)) @if !summary.reason.is_empty() { ": " (summary.reason) } }
            dt { "rounds" } dd { (summary.committed) " of " (summary.rounds) " committed" (bar(summary.committed, summary.rounds)) }
            @if let Some(round) = run.cohort.round { dt { "round" } dd { (round) " is open" } }
            @if !run.cohort.states.is_empty() || run.cohort.hidden { dt { "cohort" } dd { (present(run)) } }
            @if let Some(last) = &run.last {
                dt { "last line" } dd { "round " (last.round) ", " (scores(last)) }
            }
            dt { "bytes" } dd { (bytes(run.totals.bytes_down)) " down, " (bytes(run.totals.bytes_up)) " up" }
            dt { "rejected" } dd { (run.totals.rejected) " updates" }
            dt { "algorithm" } dd { (summary.algorithm) ", model " (summary.model) ", data " (summary.data) }
            dt { "model digest" } dd { (if summary.model_digest.is_empty() { "–" } else { &summary.model_digest }) }
        }
    }
}

fn scores(line: &Metrics) -> String {
    let known = [
        ("accuracy", line.eval_accuracy.map(percent)),
        ("loss", line.eval_loss.map(|loss| format!("{loss:.4}"))),
        ("workers' accuracy", line.federated_accuracy.map(percent)),
        ("workers' loss", line.federated_loss.map(|loss| format!("{loss:.4}"))),
        ("train loss", line.train_loss.map(|loss| format!("{loss:.4}"))),
        ("ε", line.epsilon.map(|epsilon| format!("{epsilon:.4}"))),
    ];
    let mut parts: Vec<String> =
        known.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))).collect();
    parts.push(format!("{:.1} s", line.seconds));
    parts.join(", ")
}

fn promise(privacy: &Privacy) -> Markup {
    html! {
        h2 { "Privacy" }
        dl {
            dt { "ε spent" }
            dd {
                @match privacy.epsilon {
                    Some(epsilon) => { (format!("{epsilon:.6}")) }
                    None => { span class="bad" { "not finite" } }
                }
                @match privacy.budget {
                    Some(budget) => { " of " (budget) @if let Some(epsilon) = privacy.epsilon { (bar((epsilon * 1e6) as u64, (budget * 1e6) as u64)) } }
                    None => { span class="dim" { ", without a budget" } }
                }
            }
            dt { "at δ" } dd { (format!("{:e}", privacy.delta)) }
            dt { "unit" } dd { (plain(privacy.unit)) }
            dt { "adjacency" } dd { (plain(privacy.adjacency)) }
            dt { "mechanism" } dd { (privacy.mechanism) ", noise multiplier " (format!("{:.6}", privacy.noise_multiplier)) }
            dt { "sampling" } dd { (privacy.sampling.to_string()) }
            dt { "accountant" } dd { (privacy.accountant) }
            dt { "ledger" } dd { (privacy.dataset) ": " (privacy.releases) " releases since the last of " (privacy.resets) " resets" }
        }
        p class="dim" { "ε of all that was released from the data set, over all runs." }
    }
}

/// The name that a value has in run files.
fn plain(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn members(run: &Run) -> Markup {
    let cohort = &run.cohort;
    html! {
        @if !cohort.members.is_empty() {
            h2 { "This round" }
            table {
                tr { th { "worker" } th { "state" } th { "progress" } }
                @for member in &cohort.members {
                    tr { td class="w" { (member.worker) } td { (member.state) } td { (member.progress) } }
                }
            }
            @if cohort.size() > cohort.members.len() {
                p class="dim" { "and " (cohort.size() - cohort.members.len()) " more" }
            }
        }
    }
}

fn rounds(lines: &[Metrics]) -> Markup {
    html! {
        table {
            tr { th class="n" { "round" } th { "scores" } @for name in ["updates", "rejected", "down", "up"] { th class="n" { (name) } } }
            @for line in lines.iter().rev() {
                tr {
                    td class="n" { (line.round) } td { (scores(line)) }
                    td class="n" { (line.participants) } td class="n" { (line.rejected) }
                    td class="n" { (bytes(line.bytes_down)) } td class="n" { (bytes(line.bytes_up)) }
                }
            }
        }
    }
}

fn lines(events: &[Line]) -> Markup {
    html! {
        table {
            tr { th class="n" { "event" } th { "time" } th { "what" } }
            @for event in events.iter().rev() {
                tr {
                    td class="n" { (event.sequence) } td { (instant(event.time_ms / 1000)) }
                    td class="w" { (event.text) }
                }
            }
        }
    }
}
