//! Compressed gossip: everybody keeps the same public copies, and only compressed differences travel.

use super::{Local, Matrix, Round, Rule, RuleError, doubly_stochastic, local::Ends, plus};
use crate::{kernel::mix, machine::Method};
use serde_json::Value;

/// `q = C(y(x) − x̂)`, `x̂ ← x̂ + q`, `x ← y(x) + γ (W x̂ − x̂)` (Koloskova, Stich and Jaggi 2019), with `x̂`
/// starting at 0.
#[derive(Debug, Clone)]
pub struct Compressed {
    local: Local,
    gamma: f64,
    compressor: Value,
    x: Matrix,
    copies: Matrix,
    ends: Ends,
}

impl Compressed {
    /// With consensus step γ; `compressor` is passed on as it is.
    pub fn new(local: Local, gamma: f64, compressor: Value) -> Self {
        Self { local, gamma, compressor, x: Matrix::new(), copies: Matrix::new(), ends: Ends::default() }
    }
}

impl Rule for Compressed {
    fn begin(&mut self, models: Matrix) {
        self.copies = models.iter().map(|model| vec![0.0; model.len()]).collect();
        self.x = models;
    }

    fn round(&mut self, mut round: Round<'_>) -> Result<(), RuleError> {
        doubly_stochastic(&round, round.number)?;
        let ends = self.ends.train(&mut round, &self.local, &self.x);
        for (node, (copy, end)) in self.copies.iter_mut().zip(&ends).enumerate() {
            let off: Vec<f64> = end.iter().zip(&*copy).map(|(end, copy)| end - copy).collect();
            let decoded = round.task.compress((node, round.number), &off);
            copy.iter_mut().zip(decoded).for_each(|(copy, q)| *copy += q);
        }
        let mixed = mix(&round.schedule.mixing(round.number), &self.copies);
        self.x = plus(&ends, self.gamma, &plus(&mixed, -1.0, &self.copies));
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        vec![("x", self.x.clone()), ("xhat", self.copies.clone())]
    }

    fn method(&self) -> Method {
        Method::Compressed { gamma: self.gamma }
    }

    fn compressor(&self) -> Option<&Value> {
        Some(&self.compressor)
    }
}
