//! How runs, workers and peers look, to whoever shows them: words and JSON for the command line, pictures,
//! pages for a browser, metrics for Prometheus, and the small HTTP server that hands them out.
//!
//! Nothing here asks anybody anything: who serves a page collects what it shows ([`view`]) and calls
//! [`html`], [`metrics`] or [`json`] on it, which are functions of that alone. [`http`] knows no page.

pub mod describe;
pub mod events;
mod history;
pub mod html;
pub mod http;
pub mod json;
pub mod metrics;
pub mod peers;
pub mod plot;
pub mod table;
pub mod view;

pub use history::History;
