//! What a federated algorithm is: a plan for the local step, an upload and a next client state from
//! a finished local run, and a move of the server state by the aggregate. One file of
//! [`crate::rules`] holds both sides of one algorithm, so that they cannot disagree.

use crate::{Vector, Vectors, fold::Fold, local::LocalPlan, rules::RULES};
use serde::{Serialize, de::DeserializeOwned};

/// Hyper-parameters by name, as the run file gives them under `[algorithm]`.
pub type Params = serde_json::Map<String, serde_json::Value>;

/// One row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `kind` in a run file.
    pub name: &'static str,
    /// The paper.
    pub citation: &'static str,
    /// Builds the algorithm, or says which key is wrong.
    pub make: fn(&Params) -> Result<Box<dyn Algorithm>, ParamError>,
    /// The documented defaults, as a run file would give them.
    pub defaults: fn() -> Params,
}

/// Why an algorithm cannot be built from a run file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// No rule of that name.
    #[error("unknown algorithm `{name}`, expected one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// A key is unknown or its value has the wrong type.
    #[error("algorithm `{rule}`: {detail}")]
    Key {
        /// The rule.
        rule: &'static str,
        /// What serde found.
        detail: String,
    },
    /// A value is out of its range.
    #[error("algorithm `{rule}`: `{key}` is {value}, expected {expected}")]
    Range {
        /// The rule.
        rule: &'static str,
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// Builds the algorithm of that name.
pub fn make(name: &str, params: &Params) -> Result<Box<dyn Algorithm>, ParamError> {
    RULES.iter().find(|rule| rule.name == name).map_or_else(
        || {
            let known = RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ");
            Err(ParamError::Unknown { name: name.to_owned(), known })
        },
        |rule| (rule.make)(params),
    )
}

/// The rule's own configuration struct from the run file's keys; unknown keys are errors.
pub fn parse<C: DeserializeOwned>(rule: &'static str, params: &Params) -> Result<C, ParamError> {
    serde_json::from_value(serde_json::Value::Object(params.clone()))
        .map_err(|error| ParamError::Key { rule, detail: error.to_string() })
}

/// The keys of a configuration struct, for [`Rule::defaults`].
pub fn params_of<C: Serialize>(config: &C) -> Params {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => Params::new(),
    }
}

/// Checks that a hyper-parameter is finite and not negative.
pub fn non_negative(rule: &'static str, key: &'static str, value: f32) -> Result<(), ParamError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(ParamError::Range { rule, key, value: value.to_string(), expected: "a finite number of at least 0" })
}

/// What happened on one worker in one round.
#[derive(Debug, Clone)]
pub struct LocalRun {
    /// The model at the round's start, length `d`.
    pub start: Vector,
    /// The model after the last local step, length `d`.
    pub end: Vec<f32>,
    /// Local steps taken, `K_i`.
    pub steps: u32,
    /// Learning rate of the round, `η_t`.
    pub lr: f32,
}

impl LocalRun {
    /// `Δ_i = w_{i,K} − w_{i,0}`, in the place of the end model.
    pub fn into_delta(self) -> Vec<f32> {
        let mut delta = self.end;
        crate::axpy(&mut delta, -1.0, &self.start);
        delta
    }
}

/// What a worker sends and what it will keep once the coordinator has confirmed the round.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Vectors to upload, each of length `d`.
    pub upload: Vectors,
    /// The whole next client state.
    pub next: Vectors,
}

/// Facts of a closed round that a server rule may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundFacts {
    /// Updates counted, `|S_t|`.
    pub included: usize,
    /// Workers that have ever been members of the run, `N`, with this round's newcomers.
    pub population: usize,
    /// `N` at the end of the previous round; newcomers bring client state zero, so server vectors
    /// that are means over `N` shrink by the ratio.
    pub population_before: usize,
}

impl RoundFacts {
    /// `q = |S_t| / N`.
    pub fn share(&self) -> f32 {
        self.included as f32 / self.population.max(1) as f32
    }

    /// `N_before / N`, the factor on means over all clients when newcomers joined.
    pub fn growth(&self) -> f32 {
        self.population_before.min(self.population) as f32 / self.population.max(1) as f32
    }
}

/// A federated algorithm: both sides of it. Pure: equal input, equal output.
pub trait Algorithm: Send + Sync + std::fmt::Debug {
    /// Server vectors besides the model; they start at zero.
    fn server_vectors(&self) -> &'static [&'static str] {
        &[]
    }
    /// Those of the server vectors that workers receive with the model.
    fn down(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether workers keep state between rounds, which must then survive restarts.
    fn has_client_state(&self) -> bool {
        false
    }
    /// Names of the vectors in an upload.
    fn upload(&self) -> &'static [&'static str] {
        &["delta"]
    }
    /// What the coordinator accumulates out of the uploads.
    fn folds(&self) -> Vec<Fold>;
    /// How a local step differs from plain SGD in this round.
    fn plan(&self, down: &Vectors, state: &Vectors) -> LocalPlan;
    /// Upload and next client state.
    fn finish(&self, run: LocalRun, down: &Vectors, state: &Vectors) -> Finished;
    /// Moves the server state by the means of the folds.
    fn apply(&self, server: &mut Vectors, mean: &Vectors, facts: &RoundFacts);
}
