//! A decentralised algorithm: what nodes do alone in a round, and how they mix. One file of
//! [`crate::rules`] holds one algorithm.
//!
//! What a node does alone is [`Local`]: numbers, which whoever trains turns into steps (in this project a
//! local plan of the federated algorithms), so that SAM, momentum, a prox term and a relaxed start combine
//! with any mixing and no rule knows what a gradient is. How nodes mix is [`Rule::round`], for all nodes at
//! once in `f64`: the definition of the algorithm, against which tests and simulations hold what peers do
//! over a network ([`crate::machine`], by [`Rule::method`]).

mod average;
mod compressed;
mod local;
mod push;

use crate::{
    Params, Schedule,
    machine::{Barrier, Method},
    report::Mode,
    rules::RULES,
};
pub use average::Average;
pub use compressed::Compressed;
pub use local::Local;
pub use push::Push;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Vectors of all nodes: n of length d.
pub type Matrix = Vec<Vec<f64>>;

/// What nodes do without their neighbours. Lengths are d throughout.
pub trait Task {
    /// Where the local steps of `node` in `round` end that begin at `start`; `shift` is added to each
    /// gradient.
    fn train(&mut self, at: (usize, u64), start: &[f64], local: &Local, shift: Option<&[f64]>) -> Vec<f64>;

    /// A stochastic gradient of `node` at `point`, on the examples of `round`.
    fn gradient(&mut self, at: (usize, u64), point: &[f64]) -> Vec<f64>;

    /// What neighbours decode of `vector` after `node` compressed it in `round`.
    fn compress(&mut self, at: (usize, u64), vector: &[f64]) -> Vec<f64>;

    /// The learning rate of a round.
    fn step(&self, round: u64) -> f64;
}

/// A round that is to be done.
pub struct Round<'a> {
    /// Its number, from 0 on.
    pub number: u64,
    /// The matrices.
    pub schedule: &'a Schedule,
    /// The nodes' own part.
    pub task: &'a mut dyn Task,
}

impl Debug for Round<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Round({})", self.number)
    }
}

/// An algorithm with the state of all its nodes.
pub trait Rule: Send + Debug {
    /// Everybody starts with one of these models. Called once, first.
    fn begin(&mut self, models: Matrix);

    /// Does a round.
    fn round(&mut self, round: Round<'_>) -> Result<(), RuleError>;

    /// What is trained from, evaluated and published.
    fn models(&self) -> Matrix;

    /// All vectors by name, for tests and tools; a mass is a vector of length 1.
    fn vectors(&self) -> Vec<(&'static str, Matrix)>;

    /// Mixing steps in a round.
    fn repeats(&self) -> u64 {
        1
    }

    /// When peers may go on, if the algorithm says; else the run file does.
    fn barrier(&self) -> Option<Barrier> {
        None
    }

    /// What peers mix.
    fn method(&self) -> Method {
        Method::Average
    }

    /// How vectors are compressed, if they are, in the words of the compressors' crate.
    fn compressor(&self) -> Option<&serde_json::Value> {
        None
    }
}

/// Why a round cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The matrices do not average.
    #[error("topology `{0}`: plain averaging needs doubly stochastic matrices, expected push mode")]
    NotDoublyStochastic(&'static str),
    /// `RelaySum` off a tree.
    #[error(transparent)]
    Relay(#[from] crate::kernel::RelayError),
}

/// Builds a rule from its own keys and the local rule.
pub type Make = fn(&Params, Local) -> Result<Box<dyn Rule>, RuleParamError>;

/// One row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// `kind` in a run file.
    pub name: &'static str,
    /// The paper.
    pub citation: &'static str,
    /// How it mixes.
    pub mode: Mode,
    /// What it does alone, unless the run file says otherwise.
    pub local: Local,
    /// Builds it from its own keys, or says which one is wrong.
    pub make: Make,
    /// Its own keys with their defaults.
    pub defaults: fn() -> Params,
}

/// Why a rule cannot be built from a run file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleParamError {
    /// No rule of that name.
    #[error("unknown decentralised algorithm `{name}`, expected one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// A key is unknown or its value is wrong.
    #[error("algorithm `{rule}`: {detail}")]
    Key {
        /// The rule.
        rule: &'static str,
        /// What was found.
        detail: String,
    },
}

/// An algorithm as a run file asks for it.
#[derive(Debug)]
pub struct Chosen {
    /// Its row.
    pub row: &'static Row,
    /// What a node does alone.
    pub local: Local,
    /// How nodes mix.
    pub rule: Box<dyn Rule>,
}

/// Builds the algorithm of that name. The keys of [`Local`] go with every algorithm.
pub fn choose(name: &str, params: &Params) -> Result<Chosen, RuleParamError> {
    let Some(row) = RULES.iter().find(|row| row.name == name) else {
        let known = RULES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        return Err(RuleParamError::Unknown { name: name.to_owned(), known });
    };
    let wrong = |detail| RuleParamError::Key { rule: row.name, detail };
    let (local, own) = row.local.with(params).map_err(wrong)?;
    let rule = (row.make)(&own, local).map_err(|error| match error {
        RuleParamError::Key { detail, .. } => {
            wrong(detail.replace("expected", "expected rho, momentum, prox, relax or"))
        }
        other @ RuleParamError::Unknown { .. } => other,
    })?;
    Ok(Chosen { row, local, rule })
}

/// A rule's own keys; unknown ones are errors.
pub(crate) fn parse<C: DeserializeOwned>(params: &Params) -> Result<C, RuleParamError> {
    serde_json::from_value(serde_json::Value::Object(params.clone()))
        .map_err(|error| RuleParamError::Key { rule: "", detail: error.to_string() })
}

/// A value that is not possible.
pub(crate) fn refuse(key: &str, value: impl std::fmt::Display, expected: &str) -> RuleParamError {
    RuleParamError::Key { rule: "", detail: format!("`{key}` is {value}, must be {expected}") }
}

/// The keys of a configuration struct, for [`Row::defaults`].
pub(crate) fn params_of<C: Serialize>(config: &C) -> Params {
    crate::topology::params_of(config)
}

/// The configuration of a rule without keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoKeys {}

/// `a + factor · b` for all nodes.
pub(crate) fn plus(a: &[Vec<f64>], factor: f64, b: &[Vec<f64>]) -> Matrix {
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + factor * b).collect();
    a.iter().zip(b).map(row).collect()
}

/// Gradients of all nodes.
pub(crate) fn gradients(task: &mut dyn Task, round: u64, at: &[Vec<f64>]) -> Matrix {
    at.iter().enumerate().map(|(node, point)| task.gradient((node, round), point)).collect()
}

/// Refuses matrices whose rows do not sum to 1: plain averaging would find another optimum.
pub(crate) fn doubly_stochastic(round: &Round<'_>, number: u64) -> Result<(), RuleError> {
    let even = round.schedule.mixing(number).row_sums().iter().all(|sum| (sum - 1.0).abs() < 1e-9);
    if even { Ok(()) } else { Err(RuleError::NotDoublyStochastic(round.schedule.topology().name())) }
}
