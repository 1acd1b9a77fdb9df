//! Moments of the privacy loss of a ledger: `ln E_Q[e^{tL}]`, real and complex.
//!
//! `E_Q[e^L] = 1`, so that `E_Q[e^{tL}] − 1 = E_Q[e^{tL} − 1 − t(e^L − 1)]`. Summed in that form
//! nothing cancels, and a loss of 1e-9 per round keeps its digits over a million rounds.

mod vertical;

pub(crate) use vertical::Vertical;

use crate::{
    Ledger, Refusal,
    loss::{Loss, Points},
};

/// Which of two neighbouring data sets the loss is taken under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `ln dP/dQ` under `P`: the unit is there.
    Remove,
    /// `ln dQ/dP` under `Q`.
    Add,
}

impl Direction {
    /// The exponent `t` for which `E_Q[e^{t ln dP/dQ}]` is `E[e^{sL}]` of this direction.
    pub(crate) fn exponent(self, s: f64) -> f64 {
        match self {
            Self::Remove => s + 1.0,
            Self::Add => -s,
        }
    }
}

/// The losses of a ledger's distinct events, with their counts, without the tails.
///
/// A very unlikely, very large loss would dominate the moments and say nothing about δ: its mass is
/// added to δ instead.
#[derive(Debug, Clone)]
pub(crate) struct Composition {
    pub(crate) parts: Vec<(Loss, f64)>,
    /// Mass that one application may lose at either end.
    pub(crate) tail: f64,
    /// Mass that all applications lose together.
    pub(crate) lost: f64,
}

impl Composition {
    /// With tails of a mass of `lost` together; `None` when an event has no dominating pair.
    pub(crate) fn of(ledger: &Ledger, group: u32, lost: f64) -> Option<Self> {
        let part = |(event, count)| Some((Loss::of(event, ledger.adjacency(), group)?, count));
        let parts: Vec<(Loss, f64)> = ledger.merged().into_iter().map(part).collect::<Option<_>>()?;
        let count: f64 = parts.iter().map(|(_, count)| count).sum();
        let tail = (0.5 * lost / count.max(1.0)).max(1e-250);
        Some(Self { parts, tail, lost: 2.0 * tail * count })
    }

    /// By how much the losses of one event differ, at most.
    pub(crate) fn widest(&self) -> f64 {
        let one = |points: &Points| points.range().1 - points.range().0;
        self.points(1.0, 0.0).iter().map(one).fold(0.0, f64::max)
    }

    /// What is left of δ for losses that were not cut off.
    ///
    /// # Errors
    /// If hardly anything is.
    pub(crate) fn rest(&self, delta: f64) -> Result<f64, Refusal> {
        let rest = delta - self.lost;
        if rest > 0.5 * delta { Ok(rest) } else { Err(Refusal::TooSmall) }
    }

    /// The points of each part for exponents up to `t` and this much oscillation.
    pub(crate) fn points(&self, t: f64, oscillation: f64) -> Vec<Points> {
        self.parts.iter().map(|(loss, _)| loss.without_tails(self.tail, t, oscillation)).collect()
    }

    /// The least and the largest loss of the whole ledger.
    pub(crate) fn range(&self, direction: Direction) -> (f64, f64) {
        let (mut low, mut high) = (0.0, 0.0);
        for (points, (_, count)) in self.points(1.0, 0.0).iter().zip(&self.parts) {
            let (least, most) = points.range();
            (low, high) = (low + count * least, high + count * most);
        }
        if direction == Direction::Remove { (low, high) } else { (-high, -low) }
    }

    pub(crate) fn directions(&self) -> &'static [Direction] {
        let symmetric = self.parts.iter().all(|(loss, _)| loss.is_symmetric());
        if symmetric { &[Direction::Remove] } else { &[Direction::Remove, Direction::Add] }
    }

    /// `F`, `F'` and `F''` at a real `s`.
    pub(crate) fn derivatives(&self, direction: Direction, s: f64) -> [f64; 3] {
        let t = direction.exponent(s);
        let sign = if direction == Direction::Remove { 1.0 } else { -1.0 };
        let mut sum = [0.0; 3];
        for (points, (_, count)) in self.points(t, 0.0).iter().zip(&self.parts) {
            let [value, first, second] = points.derivatives(t);
            sum[0] += count * value;
            sum[1] += count * sign * first;
            sum[2] += count * second;
        }
        sum
    }
}

impl Points {
    /// `ln E_Q[e^{tL}]`.
    pub(crate) fn ln_moment(&self, t: f64) -> f64 {
        let top = self.top(t);
        if top > 300.0 {
            let sum: f64 = self.iter().map(|(ln_q, loss)| (ln_q + t * loss - top).exp()).sum();
            return top + sum.ln();
        }
        self.iter().map(|(ln_q, loss)| excess(ln_q, loss, t)).sum::<f64>().ln_1p()
    }

    /// `K = ln E_Q[e^{tL}]` and its first two derivatives in `t`.
    pub(crate) fn derivatives(&self, t: f64) -> [f64; 3] {
        let top = self.top(t).max(0.0);
        let [mut first, mut second, mut sum] = [0.0; 3];
        for (ln_q, loss) in self.iter() {
            let tilted = (ln_q + t * loss - top).exp();
            // E_Q[e^L − 1] = 0 is taken off so that E_Q[L] keeps its digits.
            let centred = if top < 300.0 { (ln_q - top).exp() * loss.exp_m1() } else { 0.0 };
            sum += tilted;
            first += tilted * loss - if centred.is_finite() { centred } else { 0.0 };
            second += tilted * loss * loss;
        }
        let (first, second) = (first / sum, second / sum);
        [self.ln_moment(t), first, second - first * first]
    }

    /// `E_Q[(e^L − 1)^n]` for an even `n`, in logarithms.
    pub(crate) fn ln_central(&self, n: i32) -> f64 {
        let terms = self.iter().map(|(ln_q, loss)| {
            let ln_size = if loss > 30.0 { loss } else { loss.exp_m1().abs().ln() };
            ln_q + f64::from(n) * ln_size
        });
        crate::numeric::special::ln_sum_exp(&terms.collect::<Vec<_>>())
    }

    fn iter(&self) -> impl Iterator<Item = (f64, f64)> {
        self.ln_q.iter().copied().zip(self.loss.iter().copied())
    }

    fn top(&self, t: f64) -> f64 {
        self.iter().map(|(ln_q, loss)| ln_q + t * loss).fold(f64::NEG_INFINITY, f64::max)
    }
}

/// `q·(e^{tL} − 1 − t(e^L − 1))`, never negative for a real `t` outside (0, 1).
fn excess(ln_q: f64, loss: f64, t: f64) -> f64 {
    let u = loss.exp_m1();
    if t.abs() * u.abs() < 0.05 && u.abs() < 0.05 {
        // Σ_{k≥2} (t choose k) u^k
        let mut tail = 1.0;
        for k in (3..=12).rev() {
            let k = f64::from(k);
            tail = 1.0 + (t - k + 1.0) / k * u * tail;
        }
        return ln_q.exp() * 0.5 * t * (t - 1.0) * u * u * tail;
    }
    if loss > 300.0 {
        return (ln_q + t * loss).exp() - t * (ln_q + loss).exp();
    }
    if (t * loss).abs() < 1.0 {
        return ln_q.exp() * ((t * loss).exp_m1() - t * u);
    }
    (ln_q + t * loss).exp() - ln_q.exp() * (1.0 + t * u)
}
