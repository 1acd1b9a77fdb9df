//! What a schedule of mixing matrices promises: connectivity, period, stochasticity, stationary mass,
//! contraction. No linear-algebra library: everything is search and repeated squaring, `O(n³)`.

pub(crate) mod dense;
mod graph;
mod spectrum;

use crate::{Mixing, Schedule};
use dense::Dense;
pub use graph::{components, cycle_period};
use serde::{Deserialize, Serialize};

/// Facts of a schedule over one period, or over a window of rounds when it never repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// Number of nodes, `n`.
    pub nodes: usize,
    /// Rounds that were looked at: the period, or the window.
    pub rounds: u64,
    /// Whether the schedule repeats after these rounds. If not, rates are those of this sample.
    pub periodic: bool,
    /// Strongly connected components of the union of the graphs. One, or mixing has no common limit.
    pub components: Vec<Vec<usize>>,
    /// Greatest common divisor of the cycles of the union, self-loops included where a node always keeps
    /// something. 1, or the mass moves in circles.
    pub cycle_period: usize,
    /// Largest difference of a column sum from 1 in any round.
    pub column_error: f64,
    /// Largest difference of a row sum from 1 in any round: above 0, plain averaging is biased.
    pub row_error: f64,
    /// Whether each matrix equals its transpose.
    pub symmetric: bool,
    /// Stationary distribution of the product over the rounds, the share of the mass that each node
    /// ends with, at the start of a period.
    pub pi: Vec<f64>,
    /// Imbalance, in the variants that the literature may mean.
    pub delta: Delta,
    /// Factor by which disagreement shrinks in a round, `ρ(Π P − π1ᵀ)^(1/rounds)`; 0 when exact. For a
    /// sample, its mean over the later part of the window.
    pub lambda: f64,
    /// Rounds after which the product equals its limit within 1e-12, if it does.
    pub exact_after: Option<u64>,
    /// `‖Π P − π1ᵀ‖₂`: what disagreement may grow by at first when the product is not normal.
    pub transient: f64,
    /// Most hops between two nodes in the union of the graphs; `None` without a path.
    pub diameter: Option<usize>,
    /// Messages that a node sends in a round: mean over nodes and rounds.
    pub messages_mean: f64,
    /// The same for the busiest node and round.
    pub messages_max: usize,
}

/// Imbalance of the mass: 1, 1/n and 1 when it is even.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// `n · min π`.
    pub n_min_pi: f64,
    /// `min π`.
    pub min_pi: f64,
    /// `inf_t min_i w_i(t)` from `w = 1`: the transient may go below the limit.
    pub inf_w: f64,
}

/// Rounds of a schedule without a period that stand for it.
const WINDOW: u64 = 64;
/// Rounds in which the lowest mass is looked for.
const TRANSIENT_ROUNDS: u64 = 20_000;

/// Analyses a schedule.
pub fn analyse(schedule: &Schedule) -> Analysis {
    let nodes = schedule.nodes();
    let rounds = schedule.period().unwrap_or(WINDOW.max(4 * nodes as u64));
    let matrices: Vec<Mixing> = (0..rounds).map(|round| schedule.mixing(round).into_owned()).collect();
    let product = matrices.iter().fold(Dense::identity(nodes), |product, mixing| product.mixed(mixing));
    let union = union(&matrices, nodes);
    let components = components(&union);
    let cycle_period = cycle_period(&with_self_loops(&union, &matrices));
    let worst = |sums: fn(&Mixing) -> Vec<f64>| {
        let off = matrices.iter().flat_map(sums).map(|sum| (sum - 1.0).abs());
        off.fold(0.0, f64::max)
    };
    let row_error = worst(Mixing::row_sums);
    let primitive = components.len() == 1 && cycle_period == 1;
    let even = vec![1.0 / nodes.max(1) as f64; nodes];
    let pi = if row_error < spectrum::EXACT { even } else { spectrum::stationary(&product) };
    let rest = product.minus_limit(&pi);
    let periodic = schedule.period().is_some();
    let lambda = match primitive {
        true if periodic => libm::pow(spectrum::spectral_radius(&rest), 1.0 / rounds as f64),
        true => spectrum::growth(&matrices),
        false => f64::from(u8::from(nodes > 1)),
    };
    let min_pi = pi.iter().copied().fold(f64::INFINITY, f64::min);
    let sent = |mixing: &Mixing| mixing.graph().iter().map(Vec::len).collect::<Vec<_>>();
    let messages: Vec<usize> = matrices.iter().flat_map(sent).collect();
    Analysis {
        nodes,
        rounds,
        periodic,
        components,
        cycle_period,
        column_error: worst(Mixing::column_sums),
        row_error,
        symmetric: schedule.symmetric(),
        delta: Delta { n_min_pi: nodes as f64 * min_pi, min_pi, inf_w: lowest_mass(schedule, &pi) },
        lambda,
        exact_after: (periodic && rest.norm() < spectrum::EXACT).then_some(rounds),
        transient: spectrum::spectral_norm(&rest),
        diameter: graph::diameter(&union),
        messages_mean: messages.iter().sum::<usize>() as f64 / messages.len().max(1) as f64,
        messages_max: messages.iter().copied().max().unwrap_or(0),
        pi,
    }
}

fn union(matrices: &[Mixing], nodes: usize) -> Vec<Vec<usize>> {
    let mut union = vec![Vec::new(); nodes];
    for graph in matrices.iter().map(Mixing::graph) {
        union.iter_mut().zip(graph).for_each(|(all, to)| all.extend(to));
    }
    for to in &mut union {
        to.sort_unstable();
        to.dedup();
    }
    union
}

/// A node that keeps a part in every round breaks any period.
fn with_self_loops(union: &[Vec<usize>], matrices: &[Mixing]) -> Vec<Vec<usize>> {
    let keeps = |node: usize| {
        let own = |mixing: &Mixing| mixing.column(node).iter().any(|s| s.to == node && s.weight > 0.0);
        matrices.iter().all(own)
    };
    let looped = |(node, to): (usize, &Vec<usize>)| {
        to.iter().copied().chain(keeps(node).then_some(node)).collect::<Vec<_>>()
    };
    union.iter().enumerate().map(looped).collect()
}

fn lowest_mass(schedule: &Schedule, pi: &[f64]) -> f64 {
    let nodes = schedule.nodes() as f64;
    let mut w = vec![1.0; pi.len()];
    let mut lowest = f64::from(u8::from(!pi.is_empty()));
    let period = schedule.period().unwrap_or(1);
    for round in 0..TRANSIENT_ROUNDS {
        w = schedule.mixing(round).apply(&w);
        lowest = w.iter().copied().fold(lowest, f64::min);
        let settled = w.iter().zip(pi).all(|(w, pi)| (w - nodes * pi).abs() < 1e-14);
        if settled && (round + 1) % period == 0 {
            break;
        }
    }
    lowest
}
