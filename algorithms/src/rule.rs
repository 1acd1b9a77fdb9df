//! What a federated algorithm is: a plan for the local step, an upload and a next client state from
//! a finished local run, and a move of the server state by the aggregate. One file of
//! [`crate::rules`] holds both sides of one algorithm, so that they cannot disagree.

use crate::{
    MODEL, Vector, Vectors,
    fold::Fold,
    local::LocalPlan,
    personal::{Effort, PersonalPlan},
    rules::RULES,
    scalar::{Maker, Scalar},
};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

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
    pub make: Maker<f32>,
    /// The same in `f64`.
    pub make_f64: Maker<f64>,
    /// The documented defaults, as a run file would give them.
    pub defaults: fn() -> Params,
}

impl Rule {
    /// The row of an algorithm that is its own configuration; it lacks the citation.
    pub const fn of<A: Settings + Algorithm<f32> + Algorithm<f64> + 'static>() -> Self {
        Self {
            name: A::NAME,
            citation: "",
            make: build::<A, f32>,
            make_f64: build::<A, f64>,
            defaults: || params_of(&A::default()),
        }
    }
}

/// The keys of an algorithm under `[algorithm]`, with their defaults.
pub trait Settings: Default + Serialize + DeserializeOwned {
    /// `kind` in a run file.
    const NAME: &'static str;

    /// Checks the range of every key.
    fn check(&self) -> Result<(), ParamError>;
}

fn build<A: Settings + Algorithm<S> + 'static, S: Scalar>(
    params: &Params,
) -> Result<Box<dyn Algorithm<S>>, ParamError> {
    let settings: A = parse(A::NAME, params)?;
    settings.check()?;
    Ok(Box::new(settings))
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
    make_as(name, params)
}

/// As [`make`], for vectors of any number type.
pub fn make_as<S: Scalar>(name: &str, params: &Params) -> Result<Box<dyn Algorithm<S>>, ParamError> {
    RULES.iter().find(|rule| rule.name == name).map_or_else(
        || {
            let known = RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ");
            Err(ParamError::Unknown { name: name.to_owned(), known })
        },
        |rule| S::maker(rule)(params),
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

/// Checks that a hyper-parameter, as an `f32`, is finite and at least 0.
pub fn non_negative(rule: &'static str, key: &'static str, value: f64) -> Result<(), ParamError> {
    within((rule, key), value, |value| value >= 0.0, "a finite number of at least 0")
}

/// Checks that a hyper-parameter, as an `f32`, is finite and above 0.
pub fn positive(rule: &'static str, key: &'static str, value: f64) -> Result<(), ParamError> {
    within((rule, key), value, |value| value > 0.0, "a finite number above 0")
}

/// Checks that a hyper-parameter, as an `f32`, is a factor of an exponential average.
pub fn decay(rule: &'static str, key: &'static str, value: f64) -> Result<(), ParamError> {
    within((rule, key), value, |value| (0.0..1.0).contains(&value), "at least 0 and below 1")
}

/// Checks that a hyper-parameter, as an `f32`, is finite and satisfies `holds`.
pub fn within(
    (rule, key): (&'static str, &'static str),
    value: f64,
    holds: impl Fn(f32) -> bool,
    expected: &'static str,
) -> Result<(), ParamError> {
    if (value as f32).is_finite() && holds(value as f32) {
        return Ok(());
    }
    Err(ParamError::Range { rule, key, value: value.to_string(), expected })
}

/// What happened on one worker in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRun<S = f32> {
    /// The weights before the first step, length `d`: the received model plus the plan's offset.
    pub start: Vector<S>,
    /// The weights after the last local step, length `d`.
    pub end: Vec<S>,
    /// Local steps taken, `K_i`.
    pub steps: u32,
    /// Learning rate of the round, `η_t`.
    pub lr: S,
    /// What the plan's probe and update end with, each of length `d`.
    pub carried: Vectors<S>,
    /// Mean loss over the worker's examples at `start`, if the plan asked for it.
    pub start_loss: Option<f64>,
    /// Where the personal run ended, if there was one; length `d`.
    pub personal: Option<Vector<S>>,
}

impl<S: Scalar> LocalRun<S> {
    /// A run by a plan that carries nothing.
    pub fn new(start: Vector<S>, end: Vec<S>, steps: u32, lr: S) -> Self {
        Self { start, end, steps, lr, carried: Vectors::new(), start_loss: None, personal: None }
    }

    /// `Δ_i = w_{i,K} − w_{i,0}`, in the place of the end model.
    pub fn into_delta(self) -> Vec<S> {
        let mut delta = self.end;
        crate::axpy(&mut delta, -S::ONE, &self.start);
        delta
    }
}

/// What a worker sends and what it will keep once the coordinator has confirmed the round.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished<S = f32> {
    /// Vectors to upload, of the names and lengths of [`Algorithm::upload`].
    pub upload: Vectors<S>,
    /// The whole next client state.
    pub next: Vectors<S>,
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
    pub fn share<S: Scalar>(&self) -> S {
        S::of(self.included as f64) / S::of(self.population.max(1) as f64)
    }

    /// `N_before / N`, the factor on means over all clients when newcomers joined.
    pub fn growth<S: Scalar>(&self) -> S {
        S::of(self.population_before.min(self.population) as f64) / S::of(self.population.max(1) as f64)
    }
}

/// A federated algorithm: both sides of it. Pure: equal input, equal output.
pub trait Algorithm<S: Scalar = f32>: Send + Sync + std::fmt::Debug {
    /// Server vectors besides the model, each of length `d`.
    fn server_vectors(&self) -> &'static [&'static str] {
        &[]
    }
    /// What every element of a server vector is before the first round.
    fn initial(&self, _server_vector: &str) -> S {
        S::ZERO
    }
    /// Those of the server vectors that workers receive with the model.
    fn down(&self) -> &'static [&'static str] {
        &[]
    }
    /// Server vectors that a worker that was counted before receives a second time, as they were after
    /// the last round that counted it: (server vector, name under which it is received).
    fn recalled(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    /// Whether workers keep state between rounds, which must then survive restarts.
    fn has_client_state(&self) -> bool {
        false
    }
    /// Names of server vectors that are, at any time, the mean of the client vectors of the same name
    /// over all members: an update counted on one side only would break that for ever.
    fn mirrored(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether the rule is right only when every worker takes part in every round.
    fn needs_everyone(&self) -> bool {
        false
    }
    /// Names and lengths of the vectors in an upload, in name order, for a model of `d` scalars. A
    /// scalar is a vector of length 1.
    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        vec![("delta", d)]
    }
    /// What the coordinator accumulates out of the uploads.
    fn folds(&self) -> Vec<Fold>;
    /// How a local step differs from plain SGD in this round.
    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S>;
    /// The run that a worker does for itself alone in a round, before the shared one; its end is handed to
    /// [`Self::finish`].
    fn personal(&self, _down: &Vectors<S>, _state: &Vectors<S>) -> Option<PersonalPlan<S>> {
        None
    }
    /// How long and how fast that run is; `None`: the rule knows no such run.
    fn effort(&self) -> Option<Effort> {
        None
    }
    /// The model that a worker uses itself, from the shared one and its client state; `None`: it has none yet,
    /// or the rule knows no personal models.
    fn personal_model(&self, _model: &Vector<S>, _state: &Vectors<S>) -> Option<Vector<S>> {
        None
    }
    /// Upload and next client state.
    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S>;
    /// Brings the next client state in line with what the coordinator reads where that is not what was
    /// uploaded: `error` is what it reads minus what [`Self::finish`] gave, by uploaded vector. Rules whose
    /// two sides must agree add it to what they keep of the upload. `(K_i, η_t)` are the local run's.
    fn realign(&self, _next: &mut Vectors<S>, _error: &Vectors<S>, _run: (u32, S)) {}
    /// Says how the model's vector is made of tensors; called once, where the server state is moved. Rules that
    /// treat a model as one vector have no use for it.
    fn lay_out(&mut self, _shapes: &[Vec<usize>]) {}
    /// Under which name [`Self::apply`] leaves, beside the model, a shorter vector from which the model can be made
    /// again; it does so where such a vector exists, and only if it knows the layout.
    fn packed(&self) -> Option<&'static str> {
        None
    }
    /// The model from that vector, to the bit; `None` if it is not of this layout.
    fn unpack(&self, _packed: &[S], _shapes: &[Vec<usize>]) -> Option<Vec<S>> {
        None
    }
    /// Moves the server state by the means of the folds.
    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts);
}

/// The server's vectors before the first round, from the initial model.
pub fn fresh_server<S: Scalar>(algorithm: &dyn Algorithm<S>, model: Vector<S>) -> Vectors<S> {
    let d = model.len();
    let fill = |name: &&'static str| ((*name).to_owned(), Arc::new(vec![algorithm.initial(name); d]));
    let vectors = algorithm.server_vectors().iter().map(fill);
    vectors.chain([(MODEL.to_owned(), model)]).collect()
}
