//! The page of all workers.

use super::{frame, turn};
use crate::{describe::worker_state, view::Workers};
use maud::html;

/// Part of the workers.
pub fn workers(workers: &Workers) -> String {
    let (census, part) = (workers.census, &workers.part);
    let body = html! {
        nav { a href="/" { "runs" } a href="/workers.json" { "JSON" } }
        h1 { "Workers" }
        p { (census.connected) " online of " (census.known) " known, " (census.quarantined) " quarantined" }
        table {
            tr {
                @for name in ["worker", "state", "address", "data", "program"] { th { (name) } }
                @for name in ["silent", "applied", "rejected"] { th class="n" { (name) } }
            }
            @for worker in &part.items {
                tr {
                    td class="w" { (worker.name) }
                    td { @if worker.quarantined { span class="bad" { "quarantined" } } @else { (worker_state(worker)) } }
                    td { (worker.address) } td class="w" { (worker.datasets.join(", ")) } td class="w" { (worker.program) }
                    td class="n" { @if worker.connected { (format!("{:.1} s", worker.silent_ms as f64 / 1000.0)) } @else { "–" } }
                    td class="n" { (worker.applied) } td class="n" { (worker.rejected) }
                }
            }
        }
        (turn("/workers", part.page, part.pages))
    };
    frame("workers", true, &body)
}
