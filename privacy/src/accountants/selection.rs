//! Choosing the best of several private runs (Papernot and Steinke 2022): the choice itself leaks.

use super::{
    rdp::{self, AtOrder, Curve},
    report::Refusal,
};
use crate::{Ledger, ParameterError, Positive, numeric::search::bisect, parameters::require};

/// How many runs are made: a random number, so that it tells nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Repetitions {
    /// Truncated negative binomial with this shape; 1 is geometric, 0 logarithmic.
    NegativeBinomial {
        /// Shape from 0.
        shape: f64,
    },
    /// Poisson.
    Poisson,
}

/// Orders that the bounds are minimised over.
const ORDERS: std::ops::RangeInclusive<u32> = 1..=240;

/// ε of making `mean` runs with this ledger on average and publishing the best one only (theorems 2
/// and 6).
///
/// # Errors
/// If no bound is known for an event, or `delta` is 0.
pub fn epsilon(
    ledger: &Ledger,
    delta: f64,
    mean: Positive,
    repetitions: Repetitions,
) -> Result<AtOrder, SelectionError> {
    let mean = mean.get();
    require(mean >= 1.0, "mean", mean, "a number of runs from 1")?;
    require(delta > 0.0, "delta", delta, "a number above 0")?;
    let curve = Curve::of(ledger, 1)?;
    // 1.05, 1.1 … 11, then whole orders growing by a tenth.
    let order = |i: u32| {
        if i <= 200 { 1.0 + 0.05 * f64::from(i) } else { (11.0 * 1.1_f64.powi(i as i32 - 200)).floor() }
    };
    let runs: Vec<(f64, f64)> =
        ORDERS.map(|i| Ok((order(i), curve.at(order(i))?))).collect::<Result<_, Refusal>>()?;
    let added: Box<dyn Fn(f64) -> f64> = match repetitions {
        Repetitions::NegativeBinomial { shape } => {
            require(shape >= 0.0 && shape.is_finite(), "shape", shape, "a finite number from 0")?;
            let ln_gamma = gamma(shape, mean).ln();
            let least = runs.iter().map(|(order, run)| (1.0 - 1.0 / order) * run - ln_gamma / order);
            let constant = (1.0 + shape) * least.fold(f64::INFINITY, f64::min);
            Box::new(move |_| constant)
        }
        Repetitions::Poisson => {
            let runs = runs.clone();
            Box::new(move |order| {
                let epsilon = (1.0 / (order - 1.0)).ln_1p();
                let ln_delta = runs.iter().map(|(order, run)| rdp::to_ln_delta(*run, *order, epsilon));
                mean * ln_delta.fold(0.0, f64::min).exp()
            })
        }
    };
    let total = runs.iter().map(|(order, run)| {
        let divergence = run + mean.ln() / (order - 1.0) + added(*order);
        AtOrder { epsilon: rdp::to_epsilon(divergence, *order, delta).max(0.0), order: *order }
    });
    let none = AtOrder { epsilon: f64::INFINITY, order: f64::NAN };
    Ok(total.fold(none, |best, next| if next.epsilon < best.epsilon { next } else { best }))
}

/// Why there is no ε.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SelectionError {
    /// A number is out of bounds.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The runs have none.
    #[error(transparent)]
    Refusal(#[from] Refusal),
}

/// The parameter γ of a truncated negative binomial of this shape and mean (definition 1).
fn gamma(shape: f64, mean: f64) -> f64 {
    let mean_of = |gamma: f64| {
        let ln = gamma.ln();
        // ln γ/(γ − 1) and (γ^shape − 1)/(shape·ln γ), both 1 at their limits.
        let a = if gamma > 1.0 - 1e-9 { 1.0 } else { ln / (gamma - 1.0) };
        let x = shape * ln;
        let b = if x.abs() < 1e-9 { 1.0 } else { x.exp_m1() / x };
        1.0 / (gamma * a * b)
    };
    let most = (2.0 * (shape + 1.0) / mean).min(1.0);
    bisect(1e-300, most, 200, |gamma| mean_of(gamma) > mean).0
}
