//! What pages, JSON and metrics make of what they are given: whatever a stranger may have written appears as
//! text, and a long run is as short as any other.

use page::{
    History,
    html::{detail, log, overview, workers, wrong},
    metrics,
    view::{Cohort, Detail, Line, Part, Privacy, Run, Site, Workers},
};
use proto::{
    digest::Digest,
    event::Metrics,
    v1::{CohortMember, RunState, RunSummary, WorkerSummary},
};
use std::collections::BTreeMap;

/// The metrics of a round that went well.
fn line(round: u64, accuracy: f64) -> Metrics {
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
    let privacy = Privacy {
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
    let mut history = History::default();
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
    let middle =
        workers(&Workers { part: Part { page: 2, pages: 3, ..Part::default() }, ..Workers::default() });
    assert!(middle.contains("/workers?page=1") && middle.contains("/workers?page=3"), "{middle}");
}

/// Points of a curve.
const MOST: usize = 256;

#[test]
fn a_long_run_is_a_short_curve_and_exact_sums() {
    let mut history = History::default();
    let rounds = 10_000;
    for round in 0..rounds {
        // Evaluated now and then, as most runs are.
        let mut one = line(round, round as f64 / rounds as f64);
        one.eval_accuracy = one.eval_accuracy.filter(|_| (round + 1).is_multiple_of(10));
        history.push(&one);
        history.push(&one);
    }
    let totals = history.totals();
    let sums = (totals.bytes_down, totals.bytes_up, totals.rejected, history.next());
    assert_eq!(sums, (1_740_000 * rounds, 999 * rounds, rounds, rounds));
    let points = history.points();
    assert!((MOST / 2..=MOST).contains(&points.len()), "{}", points.len());
    assert!(points.is_sorted_by(|a, b| a.round < b.round));
    assert_eq!(points.last().map(|point| point.round), Some(rounds - 1));
    assert!(points.iter().all(|point| point.eval_accuracy.is_some() && point.train_loss.is_some()));
    // Each point is no further from the truth than the rounds that it stands for.
    let stride = rounds as f64 / points.len() as f64;
    for point in points {
        let off = (point.eval_accuracy.unwrap() * rounds as f64 - point.round as f64).abs();
        assert!(off <= 2.0 * stride + 10.0, "{point:?}");
    }
}

#[test]
fn few_rounds_are_all_there() {
    let mut history = History::default();
    (0..MOST as u64).for_each(|round| history.push(&line(round, 0.5)));
    assert_eq!(history.points().len(), MOST);
    assert_eq!(history.last().map(|line| line.round), Some(MOST as u64 - 1));
    history.push(&line(MOST as u64, 0.5));
    assert_eq!(history.points().len(), MOST / 2 + 1);
    assert_eq!(history.points().iter().map(|point| point.round).take(3).collect::<Vec<_>>(), [1, 3, 5]);
}
