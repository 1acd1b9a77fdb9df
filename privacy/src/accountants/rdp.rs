//! Rényi differential privacy (Mironov 2017): the accountant that needs no analysis of rounding, and
//! that decides when a run stops.
//!
//! The order is not taken from a list: `ε(α)` has one least point, and it is searched for.

use super::report::Refusal;
use crate::{
    Adjacency, Event, Ledger, Mechanism, Sampling, distributed, fixed_size,
    loss::Loss,
    moments::Direction,
    numeric::{
        search::minimise,
        special::{ln_binomial, ln_sum_exp},
    },
    strategy::correlated_mu,
};

/// Orders closer to 1 are not used: the conversion loses its digits there.
const LEAST_LESS_ONE: f64 = 0.01;
const MOST_LESS_ONE: f64 = 65_536.0;

/// An ε and the order that gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtOrder {
    /// ε.
    pub epsilon: f64,
    /// α.
    pub order: f64,
}

/// ε at one order (Canonne, Kamath and Steinke 2020, proposition 12): the divergence is that of the
/// whole ledger.
pub fn to_epsilon(divergence: f64, order: f64, delta: f64) -> f64 {
    // Pinsker's inequality for the total variation: then ε is 0.
    if delta * delta > -(-divergence).exp_m1() {
        return 0.0;
    }
    divergence + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0)
}

/// `ln δ` at one order, by the same proposition.
pub fn to_ln_delta(divergence: f64, order: f64, epsilon: f64) -> f64 {
    let pinsker = 0.5 * (-(-divergence).exp_m1()).ln();
    let at_order = (order - 1.0) * (divergence - epsilon + (-1.0 / order).ln_1p()) - order.ln();
    at_order.min(pinsker).min(0.0)
}

/// The divergence of order `order` of the whole ledger for groups of `group` units.
///
/// # Errors
/// If no bound is known for an event, or the order is not above 1.
pub fn divergence(ledger: &Ledger, order: f64, group: u32) -> Result<f64, Refusal> {
    Curve::of(ledger, group)?.at(order)
}

/// The least ε that the conversion gives, over all orders.
///
/// # Errors
/// If no bound is known for an event, or `delta` is 0.
pub fn epsilon(ledger: &Ledger, delta: f64, group: u32) -> Result<AtOrder, Refusal> {
    if delta <= 0.0 {
        return Err(Refusal::DeltaZero);
    }
    let curve = Curve::of(ledger, group)?;
    let (order, epsilon) = curve.least(|divergence, order| to_epsilon(divergence, order, delta));
    Ok(AtOrder { epsilon: epsilon.max(0.0), order })
}

/// The least ε over the orders of a list, all above 1: for comparison with accountants that use one.
///
/// # Errors
/// As [`epsilon`].
pub fn epsilon_of_orders(ledger: &Ledger, delta: f64, orders: &[f64]) -> Result<AtOrder, Refusal> {
    let curve = Curve::of(ledger, 1)?;
    let mut best = AtOrder { epsilon: f64::INFINITY, order: f64::NAN };
    for order in orders {
        let epsilon = to_epsilon(curve.at(*order)?, *order, delta).max(0.0);
        if epsilon < best.epsilon {
            best = AtOrder { epsilon, order: *order };
        }
    }
    Ok(best)
}

/// The least δ for an ε, over all orders.
///
/// # Errors
/// If no bound is known for an event.
pub fn delta(ledger: &Ledger, epsilon: f64, group: u32) -> Result<f64, Refusal> {
    let curve = Curve::of(ledger, group)?;
    Ok(curve.least(|divergence, order| to_ln_delta(divergence, order, epsilon)).1.exp())
}

/// Divergences of a ledger as a function of the order.
pub(crate) struct Curve {
    parts: Vec<(Source, f64)>,
}

/// Where the divergence of an event comes from.
enum Source {
    /// `rate·α`: every Gaussian mechanism.
    Linear(f64),
    /// A pair of distributions.
    Pair(Loss),
    /// `ln A_α` for integers α from 2, by interpolation in between.
    Integers(Box<dyn Fn(u32) -> f64>),
}

impl Curve {
    pub(crate) fn of(ledger: &Ledger, group: u32) -> Result<Self, Refusal> {
        let source = |(event, count)| Ok((Source::of(event, ledger.adjacency(), group)?, count));
        Ok(Self { parts: ledger.merged().into_iter().map(source).collect::<Result<_, Refusal>>()? })
    }

    pub(crate) fn at(&self, order: f64) -> Result<f64, Refusal> {
        if order.is_nan() || order <= 1.0 {
            return Err(Refusal::Order(order));
        }
        Ok(self.sum(order))
    }

    fn sum(&self, order: f64) -> f64 {
        self.parts.iter().map(|(source, count)| count * source.divergence(order)).sum()
    }

    /// The least value of a function of divergence and order that has one minimum in the order.
    fn least(&self, value: impl Fn(f64, f64) -> f64) -> (f64, f64) {
        let at = |ln_less: f64| {
            let order = 1.0 + ln_less.exp();
            let value = value(self.sum(order), order);
            if value.is_nan() { f64::INFINITY } else { value }
        };
        let (mut low, mut middle, mut high) = (LEAST_LESS_ONE.ln(), 0.0, std::f64::consts::LN_2);
        let (mut here, mut there) = (at(middle), at(high));
        while there < here && high < MOST_LESS_ONE.ln() {
            (low, middle, here) = (middle, high, there);
            high += std::f64::consts::LN_2;
            there = at(high);
        }
        let (ln_less, value) = minimise(low, high, 1e-4, at);
        let searched = (1.0 + ln_less.exp(), value);
        if !self.parts.iter().any(|(source, _)| matches!(source, Source::Integers(_))) {
            return searched;
        }
        // A minimum of several bounds at whole orders may have several minima.
        let whole = (2..=256).map(|order| (f64::from(order), at(f64::from(order - 1).ln())));
        whole.fold(searched, |best, next| if next.1 < best.1 { next } else { best })
    }
}

impl Source {
    fn of(event: &Event, adjacency: Adjacency, group: u32) -> Result<Self, Refusal> {
        let far = adjacency.moves() * f64::from(group);
        let mechanism = &event.mechanism;
        if event.sampling == Sampling::Everyone {
            let gaussian = match mechanism {
                Mechanism::Gaussian { noise_multiplier } => Some(1.0 / noise_multiplier.get()),
                Mechanism::DiscreteGaussian { deviation, sensitivity, dimensions }
                    if dimensions.get() > 1 =>
                {
                    Some(sensitivity.get() as f64 / deviation.get())
                }
                mechanism => correlated_mu(mechanism),
            };
            if let Some(mu) = gaussian {
                return Ok(Self::Linear(0.5 * (mu * far).powi(2)));
            }
        }
        if let (Sampling::FixedSize { population, sample }, Mechanism::Gaussian { noise_multiplier }) =
            (event.sampling, mechanism)
        {
            if group > 1 {
                return Err(Refusal::Group);
            }
            let rate = sample.get() as f64 / population.get() as f64;
            return Ok(Self::Integers(fixed_size::ln_moments(rate, noise_multiplier.get() / far)));
        }
        if let Some(loss) = Loss::of(event, adjacency, group) {
            return Ok(Self::Pair(loss));
        }
        Self::bounded(event, far, group)
    }

    /// Mechanisms of which bounds are known, not pairs.
    fn bounded(event: &Event, far: f64, group: u32) -> Result<Self, Refusal> {
        let whole = match event.mechanism.clone() {
            Mechanism::DiscreteGaussian { deviation, sensitivity, .. } => {
                let rate = 0.5 * (far * sensitivity.get() as f64 / deviation.get()).powi(2);
                Box::new(move |order: u32| rate * f64::from(order)) as Box<dyn Fn(u32) -> f64>
            }
            mechanism @ (Mechanism::Skellam { .. } | Mechanism::DistributedDiscreteGaussian { .. }) => {
                distributed::divergence(&mechanism, far).ok_or(Refusal::NoDominatingPair)?
            }
            _ => return Err(Refusal::Group),
        };
        match event.sampling {
            Sampling::Everyone => {
                Ok(Self::Integers(Box::new(move |order| f64::from(order - 1) * whole(order))))
            }
            Sampling::Poisson { .. } if group > 1 => Err(Refusal::Group),
            Sampling::Poisson { rate } => {
                let tight = matches!(event.mechanism, Mechanism::DiscreteGaussian { .. });
                Ok(Self::Integers(Box::new(move |order| amplified(rate.get(), order, &whole, tight))))
            }
            _ => Err(Refusal::NoDominatingPair),
        }
    }

    fn divergence(&self, order: f64) -> f64 {
        match self {
            Self::Linear(rate) => rate * order,
            Self::Pair(loss) => {
                let at = |direction: Direction| {
                    let t = direction.exponent(order - 1.0);
                    loss.points(t).ln_moment(t)
                };
                let forward = at(Direction::Remove);
                let moment = if loss.is_symmetric() { forward } else { forward.max(at(Direction::Add)) };
                moment.max(0.0) / (order - 1.0)
            }
            Self::Integers(ln_moment) => {
                // (α − 1)·D_α is convex in α and 0 at 1 (Wang, Balle and Kasiviswanathan 2019, corollary 10).
                let below = order.floor();
                let at = |order: f64| if order < 2.0 { 0.0 } else { ln_moment(order as u32) };
                let part = order - below;
                let above = if part > 0.0 { part * at(below + 1.0) } else { 0.0 };
                ((1.0 - part) * at(below) + above) / (order - 1.0)
            }
        }
    }
}

/// `ln A_α` of a Poisson-sampled mechanism with the divergences `whole` (Zhu and Wang 2019, theorems 5
/// and 8): `tight` says that exchanging the pair changes nothing, as a reflection does for Gaussian
/// noise on integers.
fn amplified(rate: f64, order: u32, whole: impl Fn(u32) -> f64, tight: bool) -> f64 {
    let alpha = f64::from(order);
    let unamplified = (alpha - 1.0) * whole(order);
    if rate >= 1.0 || order > 4096 {
        return unamplified;
    }
    // The terms 0 and 1 sum to 1 less than what the expansion of 1 = ((1 − q) + q)^α leaves to others.
    let mut terms = Vec::with_capacity(order as usize);
    for l in 2..=order {
        let factor = if l > 2 && !tight { 3.0_f64 } else { 1.0 };
        let k = f64::from(l);
        let weight = ln_binomial(alpha, k) + k * rate.ln() + (alpha - k) * (-rate).ln_1p();
        let exponent = (k - 1.0) * whole(l) + factor.ln();
        let ln_excess = if exponent > 30.0 { exponent } else { exponent.exp_m1().ln() };
        terms.push(weight + ln_excess);
    }
    let ln_excess = ln_sum_exp(&terms);
    let ln_moment = if ln_excess > 30.0 { ln_excess } else { ln_excess.exp().ln_1p() };
    ln_moment.min(unamplified)
}
