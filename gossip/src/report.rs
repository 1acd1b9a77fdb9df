//! The topology report: what to expect of a schedule before the run starts, with errors that forbid it
//! and warnings that say what to change. A plain data structure; [`std::fmt::Display`] is its text.

use crate::{
    Schedule,
    analysis::{Analysis, analyse},
    predict::{Pilot, consensus_distance, rounds_to, rounds_until_loss_diverges, safe_step, topology_factor},
};
use serde::{Deserialize, Serialize};
use std::fmt;

mod findings;
mod text;

pub use findings::{Finding, Level};

/// How peers mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Pairs of peers exchange models and move towards each other; needs symmetric matrices.
    Symmetric,
    /// Peers push shares of model and mass; any strongly connected graph.
    Push,
}

/// What is known of the run. What is not known leaves its lines out of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How peers mix.
    pub mode: Mode,
    /// Mixing steps a round (multiple gossip), at least 1.
    pub repeats: u64,
    /// Rounds of the run.
    pub rounds: Option<u64>,
    /// Learning rate, as the change of a model per unit of gradient in a round.
    pub step: Option<f64>,
    /// Largest curvature of the objective, `L`.
    pub smoothness: Option<f64>,
    /// Probability that a message is lost.
    pub loss: f64,
    /// Whether the ledger keeps the mass of lost messages. False only to show what happens.
    pub ledger: bool,
    /// What the first rounds told.
    pub pilot: Option<Pilot>,
    /// One message, without the mass.
    pub message: Bytes,
}

impl Plan {
    /// Nothing known but the mode: one mixing step a round, no loss, with ledger.
    pub fn new(mode: Mode) -> Self {
        let (rounds, step, smoothness, pilot) = (None, None, None, None);
        let message = Bytes { per_parameter: 4.0, fixed: 0.0 };
        Self { mode, repeats: 1, rounds, step, smoothness, loss: 0.0, ledger: true, pilot, message }
    }
}

/// The report of §C8 of the design.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `kind` of the topology.
    pub topology: String,
    /// What is known of the run.
    pub plan: Plan,
    /// Facts of the schedule; rates are per mixing step.
    pub analysis: Analysis,
    /// `λ^Q`: factor by which disagreement shrinks in a round.
    pub lambda_round: f64,
    /// `1 − λ^Q`, the spectral gap of a round.
    pub gap: f64,
    /// The constant of the consensus lemma; `None` when it is infinite.
    pub kappa: Option<f64>,
    /// Rounds until disagreement is down to 1 %.
    pub rounds_to_1e2: Option<u64>,
    /// Rounds until disagreement is down to 0.1 %.
    pub rounds_to_1e3: Option<u64>,
    /// Bytes that a node sends in a round, for f32 models: `parameters` of them times d, and `fixed`.
    pub bytes: Bytes,
    /// Predicted `(1/n) Σ‖x_i − x̄‖²`, given a pilot.
    pub consensus_distance: Option<f64>,
    /// Largest safe step, given the smoothness.
    pub safe_step: Option<f64>,
    /// `(1 + 6 √m κ)/m`; `None` when it is infinite.
    pub topology_factor: Option<f64>,
    /// That factor over twice as many nodes, relative to this one; `None` where there is no such graph.
    pub doubling: Option<f64>,
    /// Errors first.
    pub findings: Vec<Finding>,
}

/// Bytes per node and round as a line in the number of parameters d: mean over nodes and rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// Bytes for each parameter.
    pub per_parameter: f64,
    /// Bytes beside (the mass).
    pub fixed: f64,
}

impl Report {
    /// The report of a schedule under a plan. `O(n³)` in time, for twice the nodes as well.
    pub fn new(schedule: &Schedule, plan: Plan) -> Self {
        let analysis = analyse(schedule);
        let repeats = plan.repeats.max(1);
        let lambda_round = libm::pow(analysis.lambda, repeats as f64);
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let factor = finite(topology_factor(analysis.nodes, lambda_round));
        let messages = analysis.messages_mean * repeats as f64;
        let mass = if plan.mode == Mode::Push { 8.0 } else { 0.0 };
        // After the rounds of an exact schedule nothing is left, however large the factor.
        let rounds_to = |factor| match analysis.exact_after {
            Some(rounds) => Some(rounds.div_ceil(repeats)),
            None => rounds_to(factor, lambda_round),
        };
        let mut report = Self {
            topology: schedule.topology().name().to_owned(),
            lambda_round,
            gap: 1.0 - lambda_round,
            kappa: finite(crate::predict::kappa(lambda_round)),
            rounds_to_1e2: rounds_to(1e-2),
            rounds_to_1e3: rounds_to(1e-3),
            bytes: Bytes {
                per_parameter: plan.message.per_parameter * messages,
                fixed: (plan.message.fixed + mass) * messages,
            },
            consensus_distance: plan.pilot.as_ref().and_then(|p| consensus_distance(schedule, repeats, p)),
            safe_step: plan.smoothness.map(|smoothness| safe_step(analysis.delta.inf_w, smoothness)),
            topology_factor: factor,
            doubling: factor.and_then(|factor| Some(doubled(schedule, repeats)? / factor)),
            findings: Vec::new(),
            analysis,
            plan,
        };
        report.findings = findings::find(&report);
        report
    }

    /// Whether the run may start.
    pub fn accepted(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Error)
    }

    /// Rounds until loss without a ledger makes the run diverge, if that is what is planned.
    fn loss_horizon(&self) -> Option<u64> {
        let Plan { loss, ledger, step, smoothness, mode, .. } = &self.plan;
        if *ledger || *mode != Mode::Push {
            return None;
        }
        let step_times_smoothness =
            step.zip(*smoothness).map_or(0.04, |(step, smoothness)| step * smoothness);
        rounds_until_loss_diverges(*loss, self.analysis.messages_mean, step_times_smoothness)
    }
}

fn doubled(schedule: &Schedule, repeats: u64) -> Option<f64> {
    let doubled = schedule.resized(2 * schedule.nodes()).ok()?;
    let lambda = libm::pow(analyse(&doubled).lambda, repeats as f64);
    Some(topology_factor(doubled.nodes(), lambda)).filter(|factor| factor.is_finite())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(self, f)
    }
}
