//! Ditto: beside the shared model each worker trains one of its own, which is pulled towards the shared one
//! (Li, Hu, Beirami and Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", 2021,
//! Algorithm 1). A wrapper: `base` names the algorithm of the shared model, whose keys stand beside these.
//!
//! `v_i ← v_i − η (∇F_i(v_i) + λ (v_i − w))` for the worker's local steps, on the mini-batches of the shared
//! run, from the received w on. `v_i` starts at the first w that the worker receives, where the paper starts at
//! the first model. With `lambda = 0` it is local training and nothing else, exactly; the shared model is the
//! base's, exactly, whatever λ is.
//!
//! `lambda`: the paper searches it for each task; 0.1 is what the authors of FedSLR compare with.
//!
//! Traffic: the base's. Client state: the base's and `v_i` (d), which never leaves the worker; lost, it begins
//! anew. Server state: the base's. Gradients: the base's and one for each step of the personal run.

use crate::{
    Algorithm, Finished, LocalRun, MODEL, ParamError, Params, RoundFacts, Rule, Scalar, Vector, Vectors,
    axpy,
    fold::Fold,
    local::LocalPlan,
    make_as, params_of,
    personal::{Effort, PERSONAL, PersonalPlan},
    rule::{non_negative, parse, positive, within},
    rules::RULES,
    scale,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule {
    name: NAME,
    citation: "Li, Hu, Beirami and Smith, ICML 2021, arXiv:2012.04221",
    make: build::<f32>,
    make_f64: build::<f64>,
    defaults,
};

const NAME: &str = "ditto";
const OWN_KEYS: [&str; 5] = ["base", "lambda", "personal_epochs", "personal_steps", "personal_lr"];

/// The wrapper's own keys under `[algorithm]`; the base's stand beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The algorithm of the shared model.
    pub base: String,
    /// Pull λ of the personal model towards the shared one; 0: none.
    pub lambda: f64,
    /// Passes over the data in a personal run; absent: as in the shared run.
    pub personal_epochs: Option<u32>,
    /// Steps of a personal run; absent: by epochs, or as in the shared run.
    pub personal_steps: Option<u32>,
    /// Learning rate of a personal run; absent: that of the round.
    pub personal_lr: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base: "fedavg".into(),
            lambda: 0.1,
            personal_epochs: None,
            personal_steps: None,
            personal_lr: None,
        }
    }
}

fn defaults() -> Params {
    let config = Config::default();
    let base = RULES.iter().find(|rule| rule.name == config.base);
    let mut params = base.map_or_else(Params::new, |rule| (rule.defaults)());
    params.extend(params_of(&config));
    params
}

fn build<S: Scalar>(params: &Params) -> Result<Box<dyn Algorithm<S>>, ParamError> {
    let (own, rest): (Params, Params) = params
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| OWN_KEYS.contains(&key.as_str()));
    let Config { base, lambda, personal_epochs, personal_steps, personal_lr } = parse(NAME, &own)?;
    non_negative(NAME, "lambda", lambda)?;
    for (key, count) in [("personal_epochs", personal_epochs), ("personal_steps", personal_steps)] {
        let counted = f64::from(count.unwrap_or(1));
        within((NAME, key), counted, |count| count >= 1.0, "at least 1; leave the key out for the shared run's")?;
    }
    positive(NAME, "personal_lr", personal_lr.unwrap_or(1.0))?;
    let base: Box<dyn Algorithm<S>> = make_as(&base, &rest)
        .map_err(|error| ParamError::Key { rule: NAME, detail: format!("`base`: {error}") })?;
    if base.effort().is_some() {
        let expected = "an algorithm without personal models of its own";
        return Err(ParamError::Range { rule: NAME, key: "base", value: params["base"].to_string(), expected });
    }
    let effort =
        Effort { epochs: personal_epochs, steps: personal_steps, lr: personal_lr.map(|lr| lr as f32) };
    Ok(Box::new(Ditto { base, lambda: S::of(lambda), effort }))
}

#[derive(Debug)]
struct Ditto<S: Scalar> {
    base: Box<dyn Algorithm<S>>,
    lambda: S,
    effort: Effort,
}

impl<S: Scalar> Algorithm<S> for Ditto<S> {
    fn server_vectors(&self) -> &'static [&'static str] {
        self.base.server_vectors()
    }

    fn initial(&self, name: &str) -> S {
        self.base.initial(name)
    }

    fn down(&self) -> &'static [&'static str] {
        self.base.down()
    }

    fn recalled(&self) -> &'static [(&'static str, &'static str)] {
        self.base.recalled()
    }

    fn has_client_state(&self) -> bool {
        true
    }

    fn mirrored(&self) -> &'static [&'static str] {
        self.base.mirrored()
    }

    fn needs_everyone(&self) -> bool {
        self.base.needs_everyone()
    }

    fn upload(&self, d: usize) -> Vec<(&'static str, usize)> {
        self.base.upload(d)
    }

    fn folds(&self) -> Vec<Fold> {
        self.base.folds()
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        self.base.plan(down, state)
    }

    fn personal(&self, down: &Vectors<S>, state: &Vectors<S>) -> Option<PersonalPlan<S>> {
        let start = Arc::clone(state.get(PERSONAL).unwrap_or(&down[MODEL]));
        // λ (v − w) = λ (v − v₀) + λ (v₀ − w).
        let shift = (self.lambda > S::ZERO && state.contains_key(PERSONAL)).then(|| {
            let mut shift = start.as_ref().clone();
            axpy(&mut shift, -S::ONE, &down[MODEL]);
            scale(&mut shift, self.lambda);
            Arc::new(shift)
        });
        Some(PersonalPlan { start, plan: LocalPlan { shift, prox: self.lambda, ..LocalPlan::default() } })
    }

    fn effort(&self) -> Option<Effort> {
        Some(self.effort)
    }

    fn personal_model(&self, _model: &Vector<S>, state: &Vectors<S>) -> Option<Vector<S>> {
        state.get(PERSONAL).cloned()
    }

    fn lay_out(&mut self, shapes: &[Vec<usize>]) {
        self.base.lay_out(shapes);
    }

    fn packed(&self) -> Option<&'static str> {
        self.base.packed()
    }

    fn unpack(&self, packed: &[S], shapes: &[Vec<usize>]) -> Option<Vec<S>> {
        self.base.unpack(packed, shapes)
    }

    fn finish(&self, mut run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        let own = run.personal.take().or_else(|| state.get(PERSONAL).cloned());
        let own = own.unwrap_or_else(|| Arc::clone(&down[MODEL]));
        let mut finished = self.base.finish(run, down, state);
        finished.next.insert(PERSONAL.to_owned(), own);
        finished
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, run: (u32, S)) {
        self.base.realign(next, error, run);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        self.base.apply(server, mean, facts);
    }
}
