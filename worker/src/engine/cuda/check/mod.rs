//! Does this GPU compute what the CPU does? Asked by the tests and by `starling bench train --check`.
//!
//! The CPU's operations are checked against f64 and finite differences; here each device operation is
//! compared with them over odd shapes, then whole models, whole local runs by every kind of plan, and what
//! has to be the same bytes.

mod local;
mod models;
mod ops;

use super::device::Device;
use super::placement::Precision;
use crate::engine::EngineError;
use algorithms::seed;
use std::sync::Arc;

/// What one check found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was compared.
    pub what: String,
    /// The largest relative error, ‖difference‖ / ‖CPU's‖.
    pub error: f64,
    /// The largest that passes.
    pub limit: f64,
    /// Why nothing could be compared.
    pub failure: Option<String>,
}

impl Finding {
    /// Whether it passes; what is not a number does not.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.error <= self.limit
    }
}

/// Compares everything on `device`; calls `tell` with each finding as it is made.
pub fn check(device: &Arc<Device>, tell: &mut dyn FnMut(Finding)) {
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        ops::check(device, precision, tell);
        models::check(device, precision, tell);
    }
    local::check(device, tell);
}

fn limit(precision: Precision, f32: f64) -> f64 {
    match precision {
        Precision::F32 => f32,
        Precision::Tf32 => 3e-2,
        Precision::Bf16 => 6e-2,
    }
}

/// A finding from the error of a comparison.
fn finding(what: String, limit: f64, error: Result<f64, EngineError>) -> Finding {
    match error {
        Ok(error) => Finding { what, error, limit, failure: None },
        Err(failure) => Finding { what, error: f64::NAN, limit, failure: Some(failure.to_string()) },
    }
}

/// ‖got − want‖ / ‖want‖, infinite where a value is none.
fn error(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() || got.iter().chain(want).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let size: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    if size == 0.0 { difference.sqrt() } else { (difference / size).sqrt() }
}

/// `n` numbers in [-1, 1) that look random.
fn numbers(n: usize, stream: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (2.0 * seed::unit(seed::mix(i ^ (stream << 40))) - 1.0) as f32).collect()
}

/// `n` indices below `limit`.
fn indices(n: usize, limit: usize, stream: u64) -> Vec<u32> {
    let unit = |i: u64| seed::unit(seed::mix(i ^ (stream << 40)));
    (0..n as u64).map(|i| (unit(i) * limit as f64) as u32).collect()
}
