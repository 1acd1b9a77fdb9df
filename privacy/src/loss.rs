//! The privacy loss of one event as a weighted sum over points, from which all accountants but the
//! closed forms compute.
//!
//! An event is dominated by a pair of distributions `(P, Q)`: two mixtures of shifted copies of one
//! noise distribution. The loss is `L = ln dP/dQ`. Two kinds of points: smooth ones integrate
//! `E_Q[e^{tL}]` to full precision; cells are cut at the multiples of a spacing, so that each cell's
//! mass can be moved to the two ends of its interval.

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

    /// Whether the loss takes isolated values only, so that its Fourier transform does not decay.
    pub(crate) fn is_discrete(&self) -> bool {
        self.parts.iter().all(|part| {
            matches!(
                part.noise,
                Noise::DiscreteGaussian(_) | Noise::DiscreteLaplace(_) | Noise::Response { .. }
            )
        })
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

    fn push(&self, ln_weight: f64, x: f64, points: &mut Points) {
        let (ln_q, loss) = self.at(x);
        points.push(self.share.ln() + ln_q + ln_weight, loss);
    }

    fn whole(&self, t: f64, points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                // The integrand is analytic up to the zeros of the mixtures at distance π·sd²/spread,
                // so that the trapezoid rule converges like e^{-2π·distance/step}.
                let (low, high) = self.gaussian_range(sd, t);
                let count = ((high - low) * (2.6 / sd).max(3.0 * self.spread() / (sd * sd))).ceil();
                let step = (high - low) / count;
                (0..=count as u64).for_each(|i| self.push(step.ln(), low + i as f64 * step, points));
            }
            Noise::Laplace(scale) => self.laplace_pieces(scale, t.abs(), points),
            _ => self.atoms(points),
        }
    }

    fn bounded(&self, tail: f64, (t, oscillation): (f64, f64), points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                let (low, high) = self.bounds(sd, tail);
                // The loss is steepest at the top, and bends most where both parts of a mixture weigh
                // the same.
                let slope = self.spread() / (sd * sd);
                let steepest = (self.at(high).1 - self.at(high - 1e-3 * sd).1) / (1e-3 * sd);
                let share = (steepest / slope).clamp(0.0, 0.5);
                let bend = t.abs() * slope * slope * share * (1.0 - share);
                let narrow = 2.5 / (1.0 / (sd * sd) + bend).sqrt();
                let widest = narrow.min(3.0 / slope).min(14.0 / (oscillation * steepest));
                let pieces = ((high - low) / widest).ceil();
                self.pieces((low, high), pieces, points);
            }
            Noise::Laplace(scale) => self.laplace_pieces(scale, t.abs() + oscillation, points),
            _ => self.atoms(points),
        }
    }

    fn cells(&self, tail: f64, spacing: f64, points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                let (low, high) = self.bounds(sd, tail);
                let widest = (0.25 * sd).min(0.25 * sd * sd / self.spread());
                self.cut(low, high, (spacing, widest), points);
            }
            Noise::Laplace(scale) => {
                let widest = 0.25 * scale;
                self.laplace(points, |part, from, to, points| part.cut(from, to, (spacing, widest), points));
            }
            _ => self.atoms(points),
        }
    }

    fn laplace_pieces(&self, scale: f64, exponent: f64, points: &mut Points) {
        let swing = (exponent + 4.0) * self.spread() / scale;
        self.laplace(points, |part, from, to, points| {
            part.pieces((from, to), (swing / 4.0 + 4.0).ceil(), points);
        });
    }

    fn pieces(&self, (low, high): (f64, f64), count: f64, points: &mut Points) {
        let width = (high - low) / count;
        for i in 0..count as u64 {
            let from = low + i as f64 * width;
            self.piece(from, from + width, &GAUSS_16, points);
        }
    }

    /// Laplace noise: the loss is constant outside all shifts, and smooth between two of them.
    fn laplace(&self, points: &mut Points, between: impl Fn(&Self, f64, f64, &mut Points)) {
        let Noise::Laplace(scale) = self.noise else { return };
        let mut corners: Vec<f64> = self.shifts().chain([0.0]).collect();
        corners.sort_by(f64::total_cmp);
        corners.dedup();
        // ∫ of q beyond the outermost corner: its density there times the scale.
        self.push(scale.ln(), corners[0], points);
        self.push(scale.ln(), corners[corners.len() - 1], points);
        for pair in corners.windows(2) {
            between(self, pair[0], pair[1], points);
        }
    }

    /// Cells between `from` and `to` that are at most `widest` wide and cross no multiple of `spacing`.
    fn cut(&self, from: f64, to: f64, (spacing, widest): (f64, f64), points: &mut Points) {
        let mut x = from;
        // An index, since a rounded quotient could ask for the same edge again.
        let mut edge_index = (self.at(x).1 / spacing).floor() + 1.0;
        let mut stride = widest;
        while x < to {
            let end = (x + widest).min(to);
            let edge = edge_index * spacing;
            let tolerance = 1e-9 * spacing + 4.0 * f64::EPSILON * edge.abs();
            let crosses = self.at(end).1 >= edge;
            let next = if crosses { self.crossing((x, end), edge, (stride, tolerance)) } else { end };
            if next > x {
                let narrow = next - x < widest / 16.0;
                self.piece(x, next, if narrow { &GAUSS_3 } else { &GAUSS_6 }, points);
                stride = next - x;
            }
            edge_index += f64::from(u8::from(crosses));
            x = next;
        }
    }

    /// Where the loss, which rises, reaches `edge` in the interval, by secant steps from a guess.
    fn crossing(&self, (mut low, mut high): (f64, f64), edge: f64, (guess, tolerance): (f64, f64)) -> f64 {
        let (mut x0, mut f0) = (low, self.at(low).1 - edge);
        let mut x = (low + guess).min(high);
        for _ in 0..60 {
            let f = self.at(x).1 - edge;
            if f.abs() <= tolerance || high - low <= 4.0 * f64::EPSILON * high.abs() {
                break;
            }
            if f < 0.0 {
                low = x;
            } else {
                high = x;
            }
            let secant = x - f * (x - x0) / (f - f0);
            (x0, f0) = (x, f);
            x = if secant > low && secant < high { secant } else { f64::midpoint(low, high) };
        }
        x
    }

    fn piece(&self, from: f64, to: f64, rule: &[(f64, f64)], points: &mut Points) {
        let (middle, half) = (f64::midpoint(from, to), 0.5 * (to - from));
        for (node, weight) in rule {
            self.push((half * weight).ln(), middle + half * node, points);
        }
    }

    /// Distributions on integers and answers.
    fn atoms(&self, points: &mut Points) {
        let (low, high, ln_norm) = match self.noise {
            Noise::DiscreteGaussian(sd) => {
                // Far enough for orders up to a thousand deviations.
                let far = (REACH * sd).max(2.0 * self.spread()) + 2.0;
                let (low, high) = (-far - self.spread(), far + self.spread());
                let reach = (12.0 * sd + 12.0).ceil() as i64;
                let norm: f64 = (1..=reach).map(|x| (-0.5 * (x as f64 / sd).powi(2)).exp()).sum();
                (low, high, (2.0 * norm).ln_1p())
            }
            Noise::DiscreteLaplace(scale) => {
                let reach = 90.0 * scale + self.spread();
                (-reach, reach, 0.0)
            }
            Noise::Response { ln_odds, other, rest } => {
                points.push(other.ln(), ln_odds);
                points.push(other.ln() + ln_odds, -ln_odds);
                if rest > 0.0 {
                    points.push(rest.ln(), 0.0);
                }
                return;
            }
            Noise::Gaussian(_) | Noise::Laplace(_) => return,
        };
        for x in low.floor() as i64..=high.ceil() as i64 {
            self.push(-ln_norm, x as f64, points);
        }
    }
}

/// Gauss–Legendre nodes and weights on [−1, 1].
const GAUSS_3: [(f64, f64); 3] = [
    (-0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
    (0.0, 0.888_888_888_888_889),
    (0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
];
const GAUSS_6: [(f64, f64); 6] = [
    (-0.932_469_514_203_152, 0.171_324_492_379_170_35),
    (-0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (-0.238_619_186_083_196_9, 0.467_913_934_572_691),
    (0.238_619_186_083_196_9, 0.467_913_934_572_691),
    (0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (0.932_469_514_203_152, 0.171_324_492_379_170_35),
];
const GAUSS_16: [(f64, f64); 16] = {
    let half = [
        (0.095_012_509_837_637_44, 0.189_450_610_455_068_5),
        (0.281_603_550_779_258_9, 0.182_603_415_044_923_6),
        (0.458_016_777_657_227_4, 0.169_156_519_395_002_54),
        (0.617_876_244_402_643_7, 0.149_595_988_816_576_73),
        (0.755_404_408_355_003, 0.124_628_971_255_533_87),
        (0.865_631_202_387_831_7, 0.095_158_511_682_492_78),
        (0.944_575_023_073_232_6, 0.062_253_523_938_647_89),
        (0.989_400_934_991_649_9, 0.027_152_459_411_754_095),
    ];
    let mut all = [(0.0, 0.0); 16];
    let mut i = 0;
    while i < 8 {
        all[i] = (-half[i].0, half[i].1);
        all[i + 8] = half[i];
        i += 1;
    }
    all
};
