//! What theory lets one say before and during a run: the topology's part of generalisation bounds, how
//! far nodes will be apart, how large a step may be, how fast loss would kill a run without a ledger.

mod course;

use crate::{Schedule, analysis::dense::Dense};
pub use course::{Forecast, KEPT};
use serde::{Deserialize, Serialize};

/// `κ_λ = sup_{t ≥ 1} t · Σ_{s<t} λ^(t−1−s)/(s+1)`, the constant of the consensus lemma for steps that
/// fall like 1/t; 1 for λ = 0, and infinite from λ = 1 on. λ within 1e-6 of 1 is bounded by the first
/// fifty million terms.
pub fn kappa(lambda: f64) -> f64 {
    if lambda >= 1.0 {
        return f64::INFINITY;
    }
    let terms = (50.0 / (1.0 - lambda)).clamp(1_000.0, 5e7) as u64;
    let (mut sum, mut largest) = (0.0, 1.0_f64);
    for t in 1..=terms {
        sum = lambda * sum + 1.0 / t as f64;
        largest = largest.max(t as f64 * sum);
    }
    largest
}

/// `(1 + 6 √m κ_λ)/m`, the factor by which the topology enters the generalisation bound of Sun, Shen and
/// Tao (arXiv:2310.03461, recalled). Its trend in m is what counts, not its value.
pub fn topology_factor(nodes: usize, lambda: f64) -> f64 {
    let m = nodes as f64;
    (1.0 + 6.0 * m.sqrt() * kappa(lambda)) / m
}

/// Rounds in which disagreement shrinks by `factor` (below 1), `⌈ln factor / ln λ⌉`; `None` from λ = 1 on.
pub fn rounds_to(factor: f64, lambda: f64) -> Option<u64> {
    if lambda >= 1.0 {
        return None;
    }
    Some(libm::ceil((libm::log(factor) / libm::log(lambda)).max(1.0)) as u64)
}

/// The largest step that stays stable on an `L`-smooth objective when mass may fall to `delta`
/// (`inf_w` of the analysis): `2δ/L`.
pub fn safe_step(delta: f64, smoothness: f64) -> f64 {
    2.0 * delta / smoothness
}

/// Rounds until push-sum training without a ledger diverges when messages are lost with probability
/// `loss`: the mass falls by `1 − p·deg/(deg + 1)` a round until `η n/W > 2/L`. `None` without loss.
pub fn rounds_until_loss_diverges(loss: f64, degree: f64, step_times_smoothness: f64) -> Option<u64> {
    let kept = 1.0 - loss * degree / (degree + 1.0);
    if kept >= 1.0 {
        return None;
    }
    Some(libm::ceil((libm::log(step_times_smoothness / 2.0) / libm::log(kept)).max(0.0)) as u64)
}

/// What the first rounds tell about the changes that nodes make in a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    /// `n × n`: inner products of the nodes' mean changes after the mean over nodes is taken out, `D Dᵀ`.
    pub gram: Vec<Vec<f64>>,
    /// Squared length of the random part of one node's change in a round (`η²σ²d` for SGD).
    pub noise: f64,
}

impl Pilot {
    /// Changes that differ in no special direction: `heterogeneity` is the mean over nodes of the squared
    /// distance between a node's mean change and the mean over nodes.
    pub fn isotropic(nodes: usize, heterogeneity: f64, noise: f64) -> Self {
        let n = nodes as f64;
        let scale = heterogeneity * n / (n - 1.0).max(1.0);
        let entry = |i, j| scale * (f64::from(u8::from(i == j)) - 1.0 / n);
        Self { gram: (0..nodes).map(|i| (0..nodes).map(|j| entry(i, j)).collect()).collect(), noise }
    }
}

/// The stationary mean of `(1/n) Σ‖x_i − x̄‖²` after mixing, for adapt-then-combine with `repeats` mixing
/// steps a round (multiple gossip), averaged over the phases of the schedule. `None` when the matrices
/// are not doubly stochastic or never repeat, when they do not contract, or for a pilot of another size.
///
/// For a symmetric matrix it is `(1/n) Σ_{k≥2} [(λ^Q/(1−λ^Q))²‖u_kᵀD‖² + λ^{2Q}/(1−λ^{2Q}) noise]`.
pub fn consensus_distance(schedule: &Schedule, repeats: u64, pilot: &Pilot) -> Option<f64> {
    let n = schedule.nodes();
    let square = pilot.gram.len() == n && pilot.gram.iter().all(|row| row.len() == n);
    let (rounds, repeats) = (schedule.period()?, repeats.max(1));
    let even = (0..schedule.period()?)
        .all(|round| schedule.mixing(round).row_sums().iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    if !square || !even || n == 0 {
        return None;
    }
    let step = |round: u64, m: &Dense| {
        (0..repeats).fold(m.clone(), |m, at| m.mixed(&schedule.mixing(round * repeats + at)))
    };
    let centred = |m: Dense| {
        let means: Vec<f64> = m.rows().map(|row| row.iter().sum::<f64>() / n as f64).collect();
        m.minus_limit(&means)
    };
    let identity = centred(Dense::identity(n));
    // Deviation after a round is `step(deviation + change)`; over one cycle an affine map.
    let (mut map, mut drift, mut noise) = (identity.clone(), Dense::zeros(n), Dense::zeros(n));
    for round in 0..rounds {
        map = step(round, &map);
        drift = step(round, &drift.plus(&identity));
        let half = step(round, &noise.plus(&identity));
        noise = step(round, &half.transposed());
    }
    for _ in 0..60 {
        if map.norm() < 1e-14 {
            return Some(mean_over_phases(rounds, &step, (drift, noise), (&identity, pilot)));
        }
        drift = map.times(&drift).plus(&drift);
        noise = map.times(&noise).times(&map.transposed()).plus(&noise);
        map = map.times(&map);
    }
    None
}

fn mean_over_phases(
    rounds: u64,
    step: &impl Fn(u64, &Dense) -> Dense,
    start: (Dense, Dense),
    (identity, pilot): (&Dense, &Pilot),
) -> f64 {
    let gram = Dense { n: identity.n, data: pilot.gram.concat() };
    let (mut drift, mut noise) = start;
    let mut sum = 0.0;
    for round in 0..rounds {
        drift = step(round, &drift.plus(identity));
        let half = step(round, &noise.plus(identity));
        noise = step(round, &half.transposed());
        sum += drift.times(&gram).times(&drift.transposed()).trace() + pilot.noise * noise.trace();
    }
    sum / rounds as f64 / identity.n as f64
}
