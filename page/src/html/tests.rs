//! Whatever a stranger may have written appears as text, on every page.

use super::*;
use crate::{
    events::tests::metrics as line,
    metrics,
    view::{Cohort, Detail, Line, Part, Run, Site, Workers},
};
use proto::v1::{CohortMember, RunState, RunSummary, WorkerSummary};
use std::collections::BTreeMap;

const EVIL: &str = "<script>alert(\"1\")</script>&'";

fn evil() -> String {
    EVIL.to_owned()
}

/// A run of which every text is evil.
fn run() -> Run {
    let summary = RunSummary {
        id: evil(),
        name: evil(),
        state: RunState::Running.into(),
        committed: 3,
        rounds: 9,
        algorithm: evil(),
        model: evil(),
        data: evil(),
        reason: evil(),
        model_digest: evil(),
    };
    let member = CohortMember { worker: evil(), state: evil(), progress: evil() };
    let cohort = Cohort {
        hidden: false,
        round: Some(3),
        states: BTreeMap::from([(evil(), 7)]),
        members: vec![member],
    };
    let privacy = crate::view::Privacy {
        dataset: evil(),
        unit: privacy::Unit::Client,
        adjacency: privacy::Adjacency::ZeroOut,
        mechanism: evil(),
        sampling: evil().into(),
        noise_multiplier: 1.0,
        delta: 1e-5,
        epsilon: Some(1.25),
        accountant: evil(),
        budget: Some(2.0),
        releases: 3,
        resets: 0,
    };
    let mut history = crate::History::default();
    (0..3).for_each(|round| history.push(&line(round, 0.5)));
    let rejections = BTreeMap::from([(evil(), 2)]);
    let mut run = Run { summary, cohort, rejections, privacy: Some(privacy), events: 9, ..Run::default() };
    run.remember(&history);
    run
}

fn pages() -> Vec<String> {
    let event = Line { sequence: 1, time_ms: 0, text: evil(), body: evil().into() };
    let run_detail = Detail {
        run: run(),
        spec: serde_json::json!({ evil(): evil() }),
        metrics: vec![line(2, 0.5)],
        events: vec![event.clone()],
    };
    let site = Site { trouble: vec![evil()], version: evil(), ..Site::default() };
    let worker = WorkerSummary {
        name: evil(),
        program: evil(),
        datasets: vec![evil()],
        address: evil(),
        ..WorkerSummary::default()
    };
    let part = Part { items: vec![worker], page: 2, pages: 3 };
    vec![
        overview(&site, &Part { items: vec![run()], page: 1, pages: 1 }),
        detail(&run_detail),
        log(&run(), &[event], 0, 1),
        workers(&Workers { part, ..Workers::default() }),
        wrong(EVIL, EVIL),
    ]
}

#[test]
fn what_strangers_write_is_never_markup() {
    for page in pages() {
        assert!(!page.contains("<script") && !page.contains("alert(\"1\")"), "{page}");
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    }
}

#[test]
fn a_run_under_way_says_how_far_it_is() {
    let page = detail(&Detail { run: run(), ..Detail::default() });
    for want in
        ["3 of 9 committed", "3 is open", "1.250000 of 2", "5.2 MB down", "3 updates", "<svg", "refresh"]
    {
        assert!(page.contains(want), "{want}: {page}");
    }
    let page = overview(&Site::default(), &Part { items: vec![run()], page: 1, pages: 1 });
    for want in ["50.00 %", "1.2500", "<polyline", "not serving", "7 &lt;script"] {
        assert!(page.contains(want), "{want}: {page}");
    }
    let empty = overview(&Site::default(), &Part::of(Vec::new(), 3, 5));
    assert!(empty.contains("No runs yet"), "{empty}");
}

#[test]
fn metrics_are_in_order_and_escaped() {
    let site = Site { serving: true, ..Site::default() };
    let text = metrics::of_site(&site, &[run(), Run::default()]);
    assert_eq!(text, metrics::of_site(&site, &[run(), Run::default()]));
    assert!(text.contains("starling_epsilon{run=\"<script>alert(\\\"1\\\")</script>&'\"} 1.25"), "{text}");
    for want in
        ["# TYPE starling_bytes_up counter", "starling_bytes_up_total{", "starling_serving 1.0", "# EOF\n"]
    {
        assert!(text.contains(want), "{want}: {text}");
    }
    // A value that is not there is no zero.
    assert_eq!(text.matches("\nstarling_epsilon{").count(), 1, "{text}");
}

#[test]
fn lists_come_in_parts() {
    let part = Part::of((0..23).collect(), 3, 10);
    assert_eq!((part.items, part.page, part.pages), (vec![20, 21, 22], 3, 3));
    assert_eq!(Part::of((0..23).collect(), 0, 10).items.len(), 10);
    assert_eq!(Part::of((0..23).collect(), usize::MAX, 10).page, 3);
    assert_eq!(Part::<u8>::of(Vec::new(), 9, 10).pages, 1);
    let links = turn("/x", 2, 3).into_string();
    assert!(links.contains("/x?page=1") && links.contains("/x?page=3"), "{links}");
}
