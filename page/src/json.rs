//! The same as JSON, with the names that the command line's `--json` uses.

use crate::{
    describe::{run_json, worker_json},
    view::{Cohort, Detail, Line, Part, Run, Workers},
};
use serde_json::{Value, json};

/// Part of the runs: an object with runs, page, pages.
pub fn runs(part: &Part<Run>) -> Value {
    json!({ "runs": part.items.iter().map(run).collect::<Vec<_>>(), "page": part.page, "pages": part.pages })
}

/// A run as `starling run list --json` prints it, and last (its newest line of metrics), bytes_down,
/// bytes_up, rejected (over all rounds), cohort (how many are in which state), rejections, privacy, events.
pub fn run(run: &Run) -> Value {
    let mut all = run_json(&run.summary);
    all["last"] = json!(run.last);
    all["bytes_down"] = run.totals.bytes_down.into();
    all["bytes_up"] = run.totals.bytes_up.into();
    all["rejected"] = run.totals.rejected.into();
    all["cohort"] = cohort(&run.cohort);
    all["rejections"] =
        run.rejections.iter().map(|(reason, count)| json!({"reason": reason, "count": count})).collect();
    all["privacy"] = json!(run.privacy);
    all["events"] = run.events.into();
    all
}

fn cohort(cohort: &Cohort) -> Value {
    let member = |member: &proto::v1::CohortMember| json!({"worker": member.worker, "state": member.state, "progress": member.progress});
    json!({
        "hidden": cohort.hidden, "round": cohort.round, "states": cohort.states,
        "members": cohort.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// A run with spec, metrics (the newest lines), curve (all rounds, thinned) and log (its newest events).
pub fn detail(detail: &Detail) -> Value {
    let mut all = run(&detail.run);
    all["spec"] = detail.spec.clone();
    all["metrics"] = json!(detail.metrics);
    all["curve"] = json!(detail.run.points);
    all["log"] = detail.events.iter().map(line).collect();
    all
}

/// An event as `starling run watch --json` prints it.
pub fn line(line: &Line) -> Value {
    let mut all = match &line.body {
        Value::Object(map) => map.clone(),
        other => serde_json::Map::from_iter([("body".to_owned(), other.clone())]),
    };
    all.insert("sequence".into(), line.sequence.into());
    all.insert("time_ms".into(), line.time_ms.into());
    Value::Object(all)
}

/// Part of the workers: an object with known, connected, quarantined, workers, page, pages.
pub fn workers(workers: &Workers) -> Value {
    let mut all = json!(workers.census);
    all["workers"] = workers.part.items.iter().map(worker_json).collect();
    all["page"] = workers.part.page.into();
    all["pages"] = workers.part.pages.into();
    all
}
