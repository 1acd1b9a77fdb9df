//! What is wrong with a schedule, and what would be better.

use super::{Mode, Report};
use crate::{Params, make, schedule::Schedule};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The run cannot reach consensus, or not with these settings.
    Error,
    /// It can, but badly, or with something to spare.
    Warning,
}

/// One thing to know before the run starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A short name that stays: E1 not strongly connected, E2 periodic, E3 not symmetric; W1 slow, W2 below
    /// the size requirement, W3 unbalanced, W4 mass not needed, W5 loss without ledger, W6 not a power of
    /// two.
    pub code: String,
    /// What was found and what would help.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.level == Level::Error { "error" } else { "warning" };
        write!(f, "{level} {}: {}", self.code, self.text)
    }
}

/// What it complains about, if it does.
type Check = fn(&Report) -> Option<String>;

pub(super) fn find(report: &Report) -> Vec<Finding> {
    let checks: [(Level, &str, Check); 9] = [
        (Level::Error, "E1", disconnected),
        (Level::Error, "E2", periodic),
        (Level::Error, "E3", not_symmetric),
        (Level::Warning, "W1", slow),
        (Level::Warning, "W2", too_many_nodes),
        (Level::Warning, "W3", unbalanced),
        (Level::Warning, "W4", mass_not_needed),
        (Level::Warning, "W5", loss_without_ledger),
        (Level::Warning, "W6", not_a_power_of_two),
    ];
    let found = |(level, code, check): (Level, &str, Check)| {
        Some(Finding { level, code: code.to_owned(), text: check(report)? })
    };
    checks.into_iter().filter_map(found).collect()
}

fn disconnected(report: &Report) -> Option<String> {
    let components = &report.analysis.components;
    if components.len() <= 1 {
        return None;
    }
    let some: Vec<String> = components.iter().take(8).map(|nodes| format!("{nodes:?}")).collect();
    let more = if components.len() > 8 { ", …" } else { "" };
    let (count, some) = (components.len(), some.join(", "));
    Some(format!("not strongly connected: {count} components {some}{more}; add the edges of a ring"))
}

fn periodic(report: &Report) -> Option<String> {
    let period = report.analysis.cycle_period;
    let single = report.analysis.nodes <= 1 || report.analysis.components.len() > 1;
    (period != 1 && !single).then(|| {
        format!(
            "all cycles are multiples of {period}: mass moves in circles; let some node keep a part of it"
        )
    })
}

fn not_symmetric(report: &Report) -> Option<String> {
    let symmetric = report.plan.mode == Mode::Push || report.analysis.symmetric;
    (!symmetric).then(|| {
        let off = report.analysis.row_error;
        format!("symmetric mode needs symmetric matrices (a row sum is off by {off:.3}); expected push mode")
    })
}

/// Mixing steps a round that bring `λ^Q` to a tenth.
fn enough_repeats(report: &Report) -> String {
    let lambda = report.analysis.lambda;
    if let Some(rounds) = report.analysis.exact_after {
        return format!("repeats = {rounds}, which is exact");
    }
    let repeats = libm::ceil(libm::log(0.1) / libm::log(lambda));
    if lambda < 1.0 { format!("repeats = {repeats}") } else { "another topology".to_owned() }
}

fn slow(report: &Report) -> Option<String> {
    let (rounds, planned) = (report.rounds_to_1e2?, report.plan.rounds?);
    (rounds as f64 > planned as f64 / 10.0).then(|| {
        let repeats = enough_repeats(report);
        format!("disagreement takes {rounds} rounds to fall to 1 %, the run has {planned}; try {repeats}")
    })
}

fn too_many_nodes(report: &Report) -> Option<String> {
    let limit = (report.analysis.nodes as f64).sqrt();
    let kappa = report.kappa.filter(|kappa| *kappa > limit)?;
    let repeats = enough_repeats(report);
    Some(format!(
        "kappa {kappa:.2} is above √n = {limit:.2}: the topology is below the size requirement, expect collapse as nodes are added; \
         try an exponential graph, base-graph or {repeats}"
    ))
}

fn unbalanced(report: &Report) -> Option<String> {
    if report.plan.mode == Mode::Symmetric {
        return None;
    }
    let delta = report.analysis.delta.inf_w;
    let bold = report.plan.step.zip(report.safe_step).filter(|(step, safe)| step > safe);
    let advice = "balance the weights (edges with weights = \"sinkhorn\") or keep the starvation guard on";
    match bold {
        Some((step, safe)) => Some(format!("step {step} is above the safe {safe:.3}: lower it, {advice}")),
        None => (delta < 0.2).then(|| format!("mass of a node falls to {delta:.3}: {advice}")),
    }
}

fn mass_not_needed(report: &Report) -> Option<String> {
    let needless = report.plan.mode == Mode::Push && report.analysis.symmetric && report.plan.loss == 0.0;
    needless.then(|| "the matrices are symmetric: without faults symmetric mode does the same".to_owned())
}

fn loss_without_ledger(report: &Report) -> Option<String> {
    let rounds = report.loss_horizon()?;
    let loss = report.plan.loss;
    Some(format!(
        "messages are lost with probability {loss} and no ledger keeps their mass: expect divergence after about {rounds} rounds"
    ))
}

fn not_a_power_of_two(report: &Report) -> Option<String> {
    let nodes = report.analysis.nodes;
    if report.topology != "one-peer-exponential" || nodes.is_power_of_two() {
        return None;
    }
    let base = Arc::from(make("base-graph", &Params::new()).ok()?);
    let rounds = Schedule::new(base, nodes, 0).ok()?.period()?;
    Some(format!(
        "{nodes} is not a power of two: never exact; base-graph with degree 1 is exact in {rounds} rounds"
    ))
}
