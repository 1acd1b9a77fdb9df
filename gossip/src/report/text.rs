//! The report as text.

use super::{Bytes, Mode, Report};
use std::fmt;

pub(super) fn write(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let facts = &report.analysis;
    let mode = if report.plan.mode == Mode::Push { "push" } else { "symmetric" };
    let period = if facts.periodic { format!("period {}", facts.rounds) } else { "no period".to_owned() };
    writeln!(f, "nodes {}   mode {mode}   topology {} ({period})", facts.nodes, report.topology)?;
    let doubly = match facts.row_error {
        error if error < 1e-12 => "yes (w = 1)".to_owned(),
        error => format!("no (row sums off by {error:.3})"),
    };
    let connected = yes(facts.components.len() <= 1);
    let aperiodic = yes(facts.cycle_period == 1);
    writeln!(f, "strongly connected: {connected}   aperiodic: {aperiodic}   doubly stochastic: {doubly}")?;
    let exact = facts.exact_after.map(|rounds| format!(" (exact every {rounds} rounds)")).unwrap_or_default();
    let sample = if facts.periodic { "" } else { " (of a sample)" };
    let (lambda, gap, kappa) = (report.lambda_round, report.gap, maybe(report.kappa, 3));
    writeln!(
        f,
        "lambda {lambda:.6}{exact}{sample}   gap {gap:.6}   kappa {kappa}   transient {:.3}",
        facts.transient
    )?;
    let delta = facts.delta;
    writeln!(
        f,
        "delta: n·min pi {:.4}   min pi {:.4}   inf w {:.4}",
        delta.n_min_pi, delta.min_pi, delta.inf_w
    )?;
    let count = |rounds: Option<u64>| rounds.map_or_else(|| "never".to_owned(), |rounds| rounds.to_string());
    let (hundredth, thousandth) = (count(report.rounds_to_1e2), count(report.rounds_to_1e3));
    let path = facts.diameter.map_or_else(|| "none".to_owned(), |hops| hops.to_string());
    let Bytes { per_parameter, fixed } = report.bytes;
    writeln!(f, "rounds to 1e-2: {hundredth}   to 1e-3: {thousandth}   longest path: {path}")?;
    writeln!(
        f,
        "bytes/node/round: {per_parameter:.2}d + {fixed:.0}   messages at most {}",
        facts.messages_max
    )?;
    let (distance, step) = (maybe(report.consensus_distance, 6), maybe(report.safe_step, 4));
    writeln!(f, "predicted consensus distance: {distance} (needs a pilot)   safe step: {step} (needs L)")?;
    let (factor, doubling) = (maybe(report.topology_factor, 3), maybe(report.doubling, 2));
    writeln!(f, "topology factor (1 + 6·sqrt(n)·kappa)/n: {factor}; with twice the nodes: x{doubling}")?;
    report.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn maybe(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.digits$}"))
}
