//! Pages for a browser, rendered here: no script, nothing from elsewhere, and every text escaped by the
//! template (maud), since names and reasons come from strangers. A page asks for itself again every few
//! seconds while what it shows can change.

mod peers;
mod run;
mod runs;
mod workers;

pub use peers::peers;
pub use run::{detail, log};
pub use runs::overview;
pub use workers::workers;

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Seconds between two looks at what can change.
const REFRESH_S: u32 = 5;

const STYLE: &str = "
body{font:15px/1.45 system-ui,sans-serif;color:#3c4048;max-width:1100px;margin:1.2rem auto;padding:0 1rem}
h1{font-size:1.35rem;margin:.2rem 0 .8rem}h2{font-size:1.05rem;margin:1.4rem 0 .4rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e2e4e8;vertical-align:top}
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.w{overflow-wrap:anywhere}a{color:#1f64b4}nav{margin-bottom:.8rem}nav a{margin-right:1rem}
.bad{color:#a3211a}.good{color:#1e8454}.dim{color:#7a7f88}svg{max-width:100%;height:auto}
.bar{background:#e2e4e8;height:8px;width:9rem;border-radius:4px;overflow:hidden}.bar i{display:block;height:8px;background:#1f64b4}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}dt{color:#7a7f88}dd{margin:0;overflow-wrap:anywhere}
pre{overflow:auto;background:#f6f7f8;padding:.6rem;font-size:13px}
";

/// A whole page.
pub(crate) fn frame(title: &str, refresh: bool, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                @if refresh { meta http-equiv="refresh" content=(REFRESH_S); }
                title { (title) " · Starling" }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A page that says what went wrong.
pub fn wrong(title: &str, why: &str) -> String {
    frame(title, false, &html! { h1 { (title) } p { (why) } p { a href="/" { "to the start" } } })
}

/// A bar that is filled to `done` of `due`.
pub(crate) fn bar(done: u64, due: u64) -> Markup {
    let percent = (done as f64 / due.max(1) as f64 * 100.0).clamp(0.0, 100.0);
    html! { div class="bar" title=(format!("{done} of {due}")) { i style=(format!("width:{percent:.0}%")) {} } }
}

/// Links to the other parts of a list under `path`.
pub(crate) fn turn(path: &str, page: usize, pages: usize) -> Markup {
    html! {
        @if pages > 1 {
            nav {
                @if page > 1 { a href=(format!("{path}?page={}", page - 1)) { "newer" } }
                span class="dim" { "part " (page) " of " (pages) }
                @if page < pages { " " a href=(format!("{path}?page={}", page + 1)) { "older" } }
            }
        }
    }
}

/// A picture that was drawn by this crate.
pub(crate) fn picture(svg: &str) -> PreEscaped<&str> {
    PreEscaped(svg)
}
