//! The first page: is the coordinator well, who is there, which runs are there.

use super::{bar, frame, turn};
use crate::{
    describe::state,
    plot::Point,
    table::{bytes, percent},
    view::{Part, Run, Site},
};
use maud::{Markup, html};

/// The page of all runs.
pub fn overview(site: &Site, runs: &Part<Run>) -> String {
    let body = html! {
        nav {
            a href="/" { "runs" } a href="/workers" { "workers" } a href="/metrics" { "metrics" }
            a href="/runs.json" { "JSON" }
        }
        h1 { "Coordinator" }
        (health(site))
        h2 { "Runs" }
        @if runs.items.is_empty() {
            p class="dim" { "No runs yet: " code { "starling run submit FILE" } }
        } @else {
            (table(&runs.items))
            (turn("/", runs.page, runs.pages))
        }
    };
    frame("runs", true, &body)
}

fn health(site: &Site) -> Markup {
    html! {
        dl {
            dt { "state" }
            dd {
                @if site.serving { span class="good" { "serving" } } @else { span class="bad" { "not serving" } }
                @for why in &site.trouble { " · " span class="bad" { (why) } }
            }
            dt { "workers" }
            dd {
                (site.fleet.connected) " online of " (site.fleet.known) " known, "
                a href="/workers" { (site.fleet.quarantined) " quarantined" }
            }
            dt { "runs" } dd { (site.runs) }
            dt { "version" } dd { (site.version) }
        }
    }
}

fn table(runs: &[Run]) -> Markup {
    html! {
        table {
            tr {
                @for name in ["run", "state", "rounds", "", "cohort"] { th { (name) } }
                @for name in ["accuracy", "loss", "ε", "rejected", "down", "up"] { th class="n" { (name) } }
                th { "accuracy over rounds" }
            }
            @for run in runs { (row(run)) }
        }
    }
}

fn row(run: &Run) -> Markup {
    let summary = &run.summary;
    let last = run.last.as_ref();
    let shown = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let newest = |of: fn(&Point) -> Option<f64>| run.points.iter().rev().find_map(of);
    let accuracy = newest(|point| point.eval_accuracy.or(point.federated_accuracy)).map(percent);
    let loss = newest(|point| point.eval_loss.or(point.federated_loss).or(point.train_loss));
    let epsilon = run.privacy.as_ref().map_or(last.and_then(|line| line.epsilon), |privacy| privacy.epsilon);
    html! {
        tr {
            td { a href=(format!("/runs/{}", summary.id)) { (summary.id) } br; span class="dim" { (summary.algorithm) " · " (summary.model) " · " (summary.data) } }
            td { (word(summary.state)) @if !summary.reason.is_empty() { br; span class="dim" { (summary.reason) } } }
            td { (summary.committed) " of " (summary.rounds) }
            td { (bar(summary.committed, summary.rounds)) }
            td { (present(run)) }
            td class="n" { (shown(accuracy)) }
            td class="n" { (shown(loss.map(|loss| format!("{loss:.4}")))) }
            td class="n" { (shown(epsilon.map(|epsilon| format!("{epsilon:.4}")))) }
            td class="n" { (run.totals.rejected) }
            td class="n" { (bytes(run.totals.bytes_down)) }
            td class="n" { (bytes(run.totals.bytes_up)) }
            td { (spark(&run.points)) }
        }
    }
}

/// A state, coloured.
pub(super) fn word(code: i32) -> Markup {
    let word = state(code);
    let class = match word {
        "failed" | "exhausted" => "bad",
        "finished" | "running" => "good",
        _ => "dim",
    };
    html! { span class=(class) { (word) } }
}

/// The present round's cohort in a few words.
pub(super) fn present(run: &Run) -> Markup {
    let cohort = &run.cohort;
    html! {
        @if cohort.hidden {
            span class="dim" { "secret" }
        } @else {
            @for (at, (state, count)) in cohort.states.iter().enumerate() {
                @if at > 0 { ", " } (count) " " (state)
            }
        }
    }
}

/// A curve as small as a word.
fn spark(points: &[Point]) -> Markup {
    let values: Vec<(f64, f64)> = points
        .iter()
        .filter_map(|point| Some((point.round as f64, point.eval_accuracy.or(point.federated_accuracy)?)))
        .collect();
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return html! {} };
    let width = (last.0 - first.0).max(1.0);
    let text: Vec<String> = values
        .iter()
        .map(|(x, y)| format!("{:.1},{:.1}", (x - first.0) / width * 118.0 + 1.0, 23.0 - y * 22.0))
        .collect();
    html! {
        svg width="120" height="24" viewBox="0 0 120 24" role="img" {
            polyline points=(text.join(" ")) fill="none" stroke="#1f64b4" stroke-width="1.5" {}
        }
    }
}
