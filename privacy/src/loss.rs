//! The privacy loss of one event as a weighted sum over points, from which all accountants but the
//! closed forms compute.
//!
//! An event is dominated by a pair of distributions `(P, Q)`: two mixtures of shifted copies of one
//! noise distribution. The loss is `L = ln dP/dQ`. Two kinds of points: smooth ones integrate
//! `E_Q[e^{tL}]` to full precision; cells are cut at the multiples of a spacing, so that each cell's
//! mass can be moved to the two ends of its interval.

mod quadrature;

use crate::{
    Adjacency, Event, Mechanism, Sampling,
    numeric::{
        search::bisect,
        special::{LN_SQRT_TAU, binomial_tail, ln_binomial, ln_sum_exp, normal_cdf},
    },
};

/// Standard deviations beyond which nothing is summed: a mass below 1e-43.
const REACH: f64 = 14.0;

/// The loss of one event.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    parts: Vec<Part>,
}

/// A pair of distributions and its share.
#[derive(Debug, Clone)]
struct Part {
    share: f64,
    noise: Noise,
    upper: Mixture,
    lower: Mixture,
}

#[derive(Debug, Clone, Copy)]
enum Noise {
    /// Standard deviation.
    Gaussian(f64),
    /// Standard deviation; integers only.
    DiscreteGaussian(f64),
    /// Scale.
    Laplace(f64),
    /// Scale; integers only.
    DiscreteLaplace(f64),
    /// ln of the odds of the true answer against another one, and the probability of another one.
    Response { ln_odds: f64, other: f64, rest: f64 },
}

/// Weights and shifts.
type Mixture = Vec<(f64, f64)>;

/// Points `x` with `ln(q(x)·dx)` and the loss at `x`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    pub(crate) ln_q: Vec<f64>,
    pub(crate) loss: Vec<f64>,
}

impl Points {
    fn push(&mut self, ln_q: f64, loss: f64) {
        self.ln_q.push(ln_q);
        self.loss.push(loss);
    }

    /// The least and the largest loss.
    pub(crate) fn range(&self) -> (f64, f64) {
        let least = self.loss.iter().copied().fold(f64::INFINITY, f64::min);
        (least, self.loss.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }
}

impl Loss {
    /// The dominating pair of an event for a group of `group` units, or `None` when only bounds of
    /// its moments are known.
    pub(crate) fn of(event: &Event, adjacency: Adjacency, group: u32) -> Option<Self> {
        let (noise, unit) = match event.mechanism {
            Mechanism::Gaussian { noise_multiplier } => (Noise::Gaussian(noise_multiplier.get()), 1.0),
            Mechanism::Laplace { noise_multiplier } => (Noise::Laplace(noise_multiplier.get()), 1.0),
            Mechanism::DiscreteGaussian { deviation, sensitivity, dimensions } if dimensions.get() == 1 => {
                (Noise::DiscreteGaussian(deviation.get()), sensitivity.get() as f64)
            }
            Mechanism::DiscreteLaplace { rate, sensitivity } => {
                (Noise::DiscreteLaplace(1.0 / rate.get()), sensitivity.get() as f64)
            }
            Mechanism::RandomizedResponse { noise, categories } if group == 1 => {
                let k = f64::from(u32::from(categories));
                let other = noise.get() / k;
                let ln_odds = (k * (1.0 - noise.get()) / noise.get()).ln_1p();
                let noise = Noise::Response { ln_odds, other, rest: noise.get() * (k - 2.0) / k };
                return Some(Self { parts: vec![Part::certain(noise, 1.0, 0.0)] });
            }
            _ => return None,
        };
        let replace = adjacency == Adjacency::ReplaceOne;
        let far = unit * f64::from(group);
        match event.sampling {
            Sampling::Everyone => {
                let low = if replace { -far } else { 0.0 };
                Some(Self { parts: vec![Part::certain(noise, far, low)] })
            }
            Sampling::Poisson { rate } => {
                let upper = binomial_mixture(group, rate.get(), unit);
                let lower =
                    if replace { binomial_mixture(group, rate.get(), -unit) } else { vec![(1.0, 0.0)] };
                // No dominating pair is known for several replaced units.
                (group == 1 || !replace)
                    .then(|| Self { parts: vec![Part { share: 1.0, noise, upper, lower }] })
            }
            Sampling::TruncatedPoisson { rate, population, most } if group == 1 => {
                Some(Self { parts: truncated(noise, rate.get(), population.get(), most.get()) })
            }
            _ => None,
        }
    }

    /// Points for the whole of `E_Q[e^{tL}]` at a real `t`.
    pub(crate) fn points(&self, t: f64) -> Points {
        let mut points = Points::default();
        for part in &self.parts {
            part.whole(t, &mut points);
        }
        points
    }

    /// Points for `E_Q[e^{tL}]` without the tails: `P` has at most the mass `tail` above them and `Q`
    /// below them. `t` is the largest real part in size, `oscillation` the largest imaginary part.
    pub(crate) fn without_tails(&self, tail: f64, t: f64, oscillation: f64) -> Points {
        let mut points = Points::default();
        for part in &self.parts {
            part.bounded(tail, (t, oscillation), &mut points);
        }
        points
    }

    /// Points of cells that do not cross a multiple of `spacing`, without the same tails.
    pub(crate) fn cells(&self, tail: f64, spacing: f64) -> Points {
        let mut points = Points::default();
        for part in &self.parts {
            part.cells(tail, spacing, &mut points);
        }
        points
    }

    /// Whether `(Q, P)` has the same loss as `(P, Q)`.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.parts.iter().all(|part| {
            let mirrored = |a: &Mixture, b: &Mixture| a.iter().zip(b).all(|(a, b)| a.0 == b.0 && a.1 == -b.1);
            let single = part.upper.len() == 1 && part.lower.len() == 1;
            single || (part.upper.len() == part.lower.len() && mirrored(&part.upper, &part.lower))
        })
    }

    /// Whether single values of the loss have a mass of their own, so that its Fourier transform does not
    /// decay.
    pub(crate) fn has_atoms(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part.noise, Noise::Gaussian(_)))
    }
}

/// `Binomial(group, rate)` copies of `unit`; without the copies of no weight when `rate` is 1.
fn binomial_mixture(group: u32, rate: f64, unit: f64) -> Mixture {
    if rate >= 1.0 {
        return vec![(1.0, f64::from(group) * unit)];
    }
    let n = f64::from(group);
    let weight = |k: f64| (ln_binomial(n, k) + k * rate.ln() + (n - k) * (-rate).ln_1p()).exp();
    (0..=group).map(|k| (weight(f64::from(k)), f64::from(k) * unit)).collect()
}

/// Poisson sampling with a largest cohort (Ganesh 2025, as in dp-accounting 0.6): when the cohort is
/// cut, a unit's presence drives out another one, a replacement with sensitivity 2.
fn truncated(noise: Noise, rate: f64, population: u64, most: u64) -> Vec<Part> {
    let cut = binomial_tail(population - 1, rate, most - 1);
    let poisson =
        Part { share: 1.0 - cut, noise, upper: binomial_mixture(1, rate, 1.0), lower: vec![(1.0, 0.0)] };
    if cut == 0.0 {
        return vec![poisson];
    }
    let kept = binomial_tail(population, rate, most) * most as f64 / (cut * population as f64);
    let kept = kept.min(1.0);
    let side = |unit| binomial_mixture(1, kept, unit);
    vec![poisson, Part { share: cut, noise, upper: side(2.0), lower: side(-2.0) }]
}

impl Part {
    fn certain(noise: Noise, upper: f64, lower: f64) -> Self {
        Self { share: 1.0, noise, upper: vec![(1.0, upper)], lower: vec![(1.0, lower)] }
    }

    /// `ln q(x)` and the loss at `x`.
    fn at(&self, x: f64) -> (f64, f64) {
        let (upper, lower) = (self.ln_mixture(&self.upper, x), self.ln_mixture(&self.lower, x));
        (self.ln_density(x) + lower, upper - lower)
    }

    fn ln_density(&self, x: f64) -> f64 {
        match self.noise {
            Noise::Gaussian(sd) => -0.5 * (x / sd).powi(2) - sd.ln() - LN_SQRT_TAU,
            Noise::Laplace(scale) => -x.abs() / scale - (2.0 * scale).ln(),
            Noise::DiscreteGaussian(sd) => -0.5 * (x / sd).powi(2),
            Noise::DiscreteLaplace(scale) => (0.5 / scale).tanh().ln() - x.abs() / scale,
            Noise::Response { .. } => 0.0,
        }
    }

    /// ln of the density of the mixture over that of the unshifted noise.
    fn ln_mixture(&self, mixture: &Mixture, x: f64) -> f64 {
        let ratio = |shift: f64| match self.noise {
            Noise::Gaussian(sd) | Noise::DiscreteGaussian(sd) => shift * (2.0 * x - shift) / (2.0 * sd * sd),
            Noise::Laplace(scale) | Noise::DiscreteLaplace(scale) => (x.abs() - (x - shift).abs()) / scale,
            Noise::Response { .. } => 0.0,
        };
        if let [(_, shift)] = mixture[..] {
            return ratio(shift);
        }
        let largest = mixture.iter().map(|(_, shift)| ratio(*shift)).fold(f64::NEG_INFINITY, f64::max);
        if largest < 30.0 {
            return mixture
                .iter()
                .map(|(weight, shift)| weight * ratio(*shift).exp_m1())
                .sum::<f64>()
                .ln_1p();
        }
        ln_sum_exp(&mixture.iter().map(|(weight, shift)| weight.ln() + ratio(*shift)).collect::<Vec<_>>())
    }

    fn shifts(&self) -> impl Iterator<Item = f64> {
        self.upper.iter().chain(&self.lower).map(|(_, shift)| *shift)
    }

    /// Distance of the outermost shifts.
    fn spread(&self) -> f64 {
        let low = self.shifts().fold(f64::INFINITY, f64::min);
        self.shifts().fold(f64::NEG_INFINITY, f64::max) - low
    }

    /// Where the weight of `q·e^{tL}` lies, for Gaussian noise.
    fn gaussian_range(&self, sd: f64, t: f64) -> (f64, f64) {
        let least = |mixture: &Mixture| mixture.iter().map(|(_, shift)| *shift).fold(f64::INFINITY, f64::min);
        let most =
            |mixture: &Mixture| mixture.iter().map(|(_, shift)| *shift).fold(f64::NEG_INFINITY, f64::max);
        let left = least(&self.lower) + (least(&self.upper) - least(&self.lower)) * t.min(0.0);
        let right = most(&self.lower) + (most(&self.upper) - most(&self.lower)) * t.max(1.0);
        (left.min(least(&self.upper)) - REACH * sd, right - -REACH * sd)
    }

    /// Outside of it `P` has at most the mass `tail` above and `Q` below, for Gaussian noise.
    fn bounds(&self, sd: f64, tail: f64) -> (f64, f64) {
        let beyond = |mixture: &Mixture, x: f64, sign: f64| -> f64 {
            mixture.iter().map(|(weight, shift)| weight * normal_cdf(sign * (shift - x) / sd)).sum()
        };
        let reach = 40.0 * sd + self.spread();
        let (_, high) = bisect(-reach, reach, 60, |x| beyond(&self.upper, x, 1.0) > tail);
        let (low, _) = bisect(-reach, reach, 60, |x| beyond(&self.lower, x, -1.0) <= tail);
        (low, high)
    }
}
