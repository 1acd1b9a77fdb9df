//! Bounds for long runs of Noisy-FedAvg and Noisy-FedProx, in which each client adds Gaussian noise to
//! its upload and one record of one client differs.
//!
//! Composition ([`Run::composition`]) always holds, for everyone who sees every model. The others hold
//! against who sees the last model only, and each under its own assumptions: where these are not
//! given, the bound is refused.
//!
//! The bounds published as theorems 3(a), 3(b) and 4 of "Convergent Differential Privacy Analysis for
//! General Federated Learning: the f-DP Perspective" (2024) are not bounds: two rounds with linear losses
//! already exceed them, since the proof's interpolation needs a negative distance. They are in
//! [`published`] for comparison, and no other part of the crate uses them.

use crate::{Mu, ParameterError, Positive, numeric::search::bisect, parameters::require};

pub mod published;

/// What happens in a round, seen from the two runs that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Round {
    /// γ: how far the record moves the average of the clients' models.
    pub moved: f64,
    /// ρ: by which factor a distance between the two runs' models grows at most.
    pub growth: f64,
}

/// Step sizes of round `t` (from 0) and local step `k` (from 0), from a base μ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// μ.
    Constant,
    /// μ/(k + 1), the same in every round.
    Cyclic,
    /// μ/(t + 1).
    Stage,
    /// μ/(tK + k + 1).
    Continuous,
}

/// Local training: per-step gradients are clipped to `clip`, so that a record changes each by up to
/// twice that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Local {
    /// V: largest norm of a clipped gradient.
    pub clip: Positive,
    /// m: number of clients, all of which take part in every round.
    pub clients: u32,
    /// K: local steps.
    pub steps: u32,
    /// μ: base step size.
    pub learning_rate: Positive,
    /// L: every local loss has an L-Lipschitz gradient.
    pub smoothness: Positive,
}

impl Local {
    fn step_sizes(self, schedule: Schedule, round: u32) -> impl Iterator<Item = f64> {
        let (base, steps, t) = (self.learning_rate.get(), f64::from(self.steps), f64::from(round));
        (0..self.steps).map(move |k| match schedule {
            Schedule::Constant => base,
            Schedule::Cyclic => base / f64::from(k + 1),
            Schedule::Stage => base / (t + 1.0),
            Schedule::Continuous => base / (t * steps + f64::from(k) + 1.0),
        })
    }

    /// Noisy-FedAvg: `γ = (2V/m) Σ η`, `ρ = Π (1 + ηL)` (theorem 2 with exact sums; clipping is a
    /// projection and keeps the Lipschitz constant).
    pub fn fed_avg(self, schedule: Schedule, rounds: u32) -> Vec<Round> {
        let round = |t| {
            let sum: f64 = self.step_sizes(schedule, t).sum();
            let ln_growth = self.step_sizes(schedule, t).map(|eta| (eta * self.smoothness.get()).ln_1p());
            let moved = 2.0 * self.clip.get() / f64::from(self.clients) * sum;
            Round { moved, growth: ln_growth.sum::<f64>().exp() }
        };
        (0..rounds).map(round).collect()
    }

    /// Noisy-FedProx with a constant step size and the proximal weight α:
    /// `γ = (2V/m)(1 − (1 − ηα)^K)/α`, `ρ = α/(α − L)`.
    ///
    /// # Errors
    /// If α is not above L, or the step size not below `1/(α − L)` and `1/α`.
    pub fn fed_prox(self, alpha: Positive, rounds: u32) -> Result<Vec<Round>, ParameterError> {
        let (eta, smoothness, alpha) = (self.learning_rate.get(), self.smoothness.get(), alpha.get());
        require(alpha > smoothness, "alpha", alpha, "a proximal weight above the smoothness")?;
        require(eta * alpha <= 1.0, "learning_rate", eta, "at most 1 over the proximal weight")?;
        let shrunk = -(f64::from(self.steps) * (-eta * alpha).ln_1p()).exp_m1();
        let moved = 2.0 * self.clip.get() / f64::from(self.clients) * shrunk / alpha;
        Ok(vec![Round { moved, growth: alpha / (alpha - smoothness) }; rounds as usize])
    }

    /// A smaller γ when the gradient of a step is the mean of `batch` gradients that are clipped one by
    /// one and the step size is constant: `min{(2V/m)Kη, (2V/(bm))·((1 + ηL)^K − 1)/L}`.
    pub fn per_record(self, batch: u32) -> Round {
        let (eta, smoothness) = (self.learning_rate.get(), self.smoothness.get());
        let steps = f64::from(self.steps);
        let growth = steps * (eta * smoothness).ln_1p();
        let whole = steps * eta;
        let direct = growth.exp_m1() / (smoothness * f64::from(batch));
        Round {
            moved: 2.0 * self.clip.get() / f64::from(self.clients) * whole.min(direct),
            growth: growth.exp(),
        }
    }
}

/// Who the guarantee is against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threat {
    /// Sees the averaged model of every round, as every client does.
    EveryModel,
    /// Sees every single upload, as a server without secure aggregation does.
    EveryUpload,
    /// Sees the last model only: a trusted aggregator publishes nothing else.
    LastModelOnly,
}

/// What is known of the local losses and of the server, beyond smoothness.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Assumption {
    /// Nothing.
    None,
    /// The server projects the model after the noise of each round onto a set of this diameter.
    Projected {
        /// Largest distance of two models in the set.
        diameter: Positive,
    },
    /// Every local loss is strongly convex with this constant, its gradients differ by at most twice the
    /// clip norm when a record changes, and clipping never acts.
    StronglyConvex {
        /// β.
        convexity: Positive,
        /// The proximal weight of FedProx; `None` for FedAvg.
        proximal: Option<Positive>,
    },
}

/// A run as the bounds see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Each round.
    pub rounds: Vec<Round>,
    /// Standard deviation of each client's noise, in units of the model (not a multiplier).
    pub noise: Positive,
    /// Number of clients, whose noise is averaged.
    pub clients: u32,
}

/// Why a bound is refused.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum LongRunError {
    /// Others than the last model are seen.
    #[error("the bound holds only where nobody sees a model before the last; composition holds here")]
    ModelsAreSeen,
    /// A number is out of bounds.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

impl Run {
    fn mu(&self, square: f64) -> Result<Mu, ParameterError> {
        Mu::new((square * f64::from(self.clients)).sqrt() / self.noise.get())
    }

    /// `√m/σ·√Σγ²`: every schedule, every loss. Tight, since linear losses reach it. Who sees single
    /// uploads faces the noise of one client only, on a move that is m times as large.
    ///
    /// # Errors
    /// If a number of the run is not finite.
    pub fn composition(&self, threat: Threat) -> Result<Mu, ParameterError> {
        let square = self.rounds.iter().map(|round| round.moved * round.moved).sum::<f64>();
        let seen = if threat == Threat::EveryUpload { f64::from(self.clients) } else { 1.0 };
        self.mu(square * seen)
    }

    /// The best bound for the last model: the optimum of shifted interpolation (Bok, Su and Altschuler
    /// 2024), with distances kept from becoming negative.
    ///
    /// # Errors
    /// If earlier models are seen, or a number of the run is out of bounds.
    pub fn last_model(&self, threat: Threat, assumption: Assumption) -> Result<Mu, LongRunError> {
        if threat != Threat::LastModelOnly {
            return Err(LongRunError::ModelsAreSeen);
        }
        let bad = self.rounds.iter().find(|round| !(round.growth > 0.0 && round.growth.is_finite()));
        require(bad.is_none(), "growth", bad.map_or(0.0, |round| round.growth), "a number above 0")?;
        let Assumption::Projected { diameter } = assumption else {
            return Ok(self.mu(interpolated(&self.rounds, 0.0))?);
        };
        // Restart where the two runs are at most the diameter apart. More rounds help, then hurt; a
        // start is tried at every power of two and then between its neighbours.
        let last = |count: usize| {
            let tail = &self.rounds[self.rounds.len() - count..];
            interpolated(tail, diameter.get())
        };
        let all = interpolated(&self.rounds, 0.0);
        let mut best = (all, self.rounds.len());
        let mut count = 1;
        while count <= self.rounds.len() {
            best = if last(count) < best.0 { (last(count), count) } else { best };
            count *= 2;
        }
        let (low, high) = (best.1 / 2, (2 * best.1).min(self.rounds.len()));
        let step = ((high - low) / 512).max(1);
        let near = (low.max(1)..=high).step_by(step).map(last).fold(best.0, f64::min);
        Ok(self.mu(near)?)
    }
}

/// The run of a strongly convex federation, with its contraction per round: exact for quadratics.
///
/// # Errors
/// If the assumption is another, or the step size exceeds what the contraction needs: `2/(β + L)`, and
/// `1/(α + L)` with a proximal weight α.
pub fn strongly_convex(
    local: Local,
    assumption: Assumption,
    rounds: u32,
) -> Result<Vec<Round>, ParameterError> {
    let Assumption::StronglyConvex { convexity, proximal } = assumption else {
        return Err(ParameterError {
            parameter: "convexity",
            value: 0.0,
            expected: "strongly convex losses",
        });
    };
    let (eta, smoothness, beta) = (local.learning_rate.get(), local.smoothness.get(), convexity.get());
    require(beta <= smoothness, "convexity", beta, "at most the smoothness")?;
    let steps = f64::from(local.steps);
    let scale = 2.0 * local.clip.get() / f64::from(local.clients);
    let round = if let Some(alpha) = proximal.map(Positive::get) {
        require(
            eta * (alpha + smoothness) <= 1.0,
            "learning_rate",
            eta,
            "at most 1/(proximal + smoothness)",
        )?;
        let kept = (steps * (-eta * (alpha + beta)).ln_1p()).exp();
        let pull = alpha / (alpha + beta);
        Round { moved: scale * (1.0 - kept) / (alpha + beta), growth: kept + pull * (1.0 - kept) }
    } else {
        require(
            eta * (beta + smoothness) <= 2.0,
            "learning_rate",
            eta,
            "at most 2/(convexity + smoothness)",
        )?;
        let step = (1.0 - eta * beta).abs().max((1.0 - eta * smoothness).abs());
        let kept = step.powf(steps);
        Round { moved: scale * eta * (1.0 - kept) / (1.0 - step), growth: kept }
    };
    Ok(vec![round; rounds as usize])
}

/// A block of rounds over which the scaled steps are equal, in units of `e^{reference}`.
#[derive(Clone, Copy)]
struct Block {
    reference: f64,
    moved: f64,
    weight: f64,
}

impl Block {
    /// ln of the block's level.
    fn level(self) -> f64 {
        (self.moved / self.weight).ln() + self.reference
    }

    fn joined(self, next: Self) -> Self {
        let reference = self.reference.min(next.reference);
        let scaled = |block: Self| (reference - block.reference).exp();
        Self {
            reference,
            moved: self.moved * scaled(self) + next.moved * scaled(next),
            weight: self.weight * scaled(self).powi(2) + next.weight * scaled(next).powi(2),
        }
    }
}

/// The square of the shifted interpolation's optimum, in units of the model: `min Σ s²` subject to `z_{t+1} = ρ_t z_t + γ_t − s_t ≥ 0`, `s_t ≥ 0`, `z_0 = distance`, `z_T = 0`.
///
/// By its optimality conditions the steps, scaled by the growth so far, do not decrease and are constant
/// between the times at which the distance is 0: pooling adjacent violators finds them in linear time.
pub fn interpolated(rounds: &[Round], distance: f64) -> f64 {
    let mut ln_growth = 0.0;
    let mut blocks: Vec<Block> = Vec::new();
    for (t, round) in rounds.iter().enumerate() {
        ln_growth += round.growth.ln();
        let start = if t == 0 { round.growth * distance } else { 0.0 };
        let mut block = Block { reference: ln_growth, moved: round.moved + start, weight: 1.0 };
        while let Some(last) = blocks.pop_if(|last| last.level() > block.level()) {
            block = last.joined(block);
        }
        blocks.push(block);
    }
    blocks.iter().map(|block| block.moved * block.moved / block.weight).sum()
}

/// The most rounds of a constant kind that keep composition within `mu`.
pub fn rounds_within(round: Round, noise: Positive, clients: u32, mu: Mu) -> u64 {
    let one = round.moved * f64::from(clients).sqrt() / noise.get();
    let fits = |n: f64| one * n.floor().sqrt() <= mu.get();
    bisect(0.0, 9e15, 64, fits).0.floor() as u64
}
