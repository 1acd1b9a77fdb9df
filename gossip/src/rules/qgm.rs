//! Quasi-global momentum: the momentum follows what a node's model did over the whole round, mixing
//! included, instead of its own gradients, so that skewed data do not drive the nodes apart. Traffic: d to
//! each neighbour; state: d.

use crate::{
    kernel::mix,
    machine::Method,
    report::Mode,
    rule::{Local, Matrix, Round, Row, Rule, RuleError, doubly_stochastic, params_of, parse, refuse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "qg-dsgdm",
    citation: "Lin et al., ICML 2021, arXiv:2102.04761",
    mode: Mode::Symmetric,
    local: Local::SGD,
    make: |params, local| {
        let config: Config = parse(params)?;
        if !(0.0..1.0).contains(&config.theta) {
            return Err(refuse("theta", config.theta, "at least 0 and below 1"));
        }
        Ok(Box::new(QuasiGlobal { local, theta: config.theta, x: Matrix::new(), m: Matrix::new() }))
    },
    defaults: || params_of(&Config::default()),
};

/// Keys under `[algorithm]`, beside those of the local rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Momentum θ.
    pub theta: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { theta: 0.9 }
    }
}

/// `y = x − η (g + θ m)` for each local step, `x⁺ = W y`, `m⁺ = θ m + (1 − θ) (x − x⁺)/η`.
#[derive(Debug, Clone)]
pub struct QuasiGlobal {
    local: Local,
    theta: f64,
    x: Matrix,
    m: Matrix,
}

impl Rule for QuasiGlobal {
    fn begin(&mut self, models: Matrix) {
        self.m = models.iter().map(|model| vec![0.0; model.len()]).collect();
        self.x = models;
    }

    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError> {
        doubly_stochastic(&round, round.number)?;
        let mut ends = Matrix::new();
        for (node, (x, m)) in self.x.iter().zip(&self.m).enumerate() {
            let shift: Vec<f64> = m.iter().map(|m| self.theta * m).collect();
            ends.push(round.task.train((node, round.number), x, &self.local, Some(&shift)));
        }
        let next = mix(&round.schedule.mixing(round.number), &ends);
        let step = round.task.step(round.number);
        for ((m, x), next) in self.m.iter_mut().zip(&self.x).zip(&next) {
            for ((m, x), next) in m.iter_mut().zip(x).zip(next) {
                *m = self.theta * *m + (1.0 - self.theta) * (x - next) / step;
            }
        }
        self.x = next;
        Ok(())
    }

    fn models(&self) -> Matrix {
        self.x.clone()
    }

    fn method(&self) -> Method {
        Method::Momentum { theta: self.theta }
    }

    fn vectors(&self) -> Vec<(&'static str, Matrix)> {
        vec![("x", self.x.clone()), ("m", self.m.clone())]
    }
}
