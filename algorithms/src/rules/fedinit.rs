//! FedInit: workers start a little away from the model, opposite to where they ended last time (Sun,
//! Shen and Tao, "Understanding How Consistency Works in Federated Learning via Stage-wise Relaxed
//! Initialization", 2023). A wrapper: `base` names any other algorithm, whose keys stand beside these.
//!
//! `w_{i,0} = w + β (w − w_i)` with `w_i` the worker's last local model; `w_{i,0}` is then the centre of
//! the base's prox term and the reference of its Δ_i. Official code starts `w_i` at the first model; here
//! a worker without a last model starts at w, which is also right after a lost state.
//!
//! * `server = "model"` (default): the mean of the local models, as in the paper, and in the code for
//!   FedDyn, FedSpeed and FedSMOO: the mean of `w_{i,0} − w` is added to what the base does.
//! * `server = "delta"`: what the base does, as in the code for FedAvg and the others.
//!
//! Traffic: the base's, and d up more for `model`. Client state: the base's and `w_i` (d), harmless to
//! lose. Server state: the base's. With `beta = 0` it is the base, exactly.

use crate::{
    Algorithm, Finished, LocalRun, MODEL, ParamError, Params, RoundFacts, Rule, Scalar, Vector, Vectors,
    axpy,
    fold::{Fold, Scale, Weighting},
    local::LocalPlan,
    make_as, params_of,
    parts::mean::{DELTA, move_model},
    personal::{Effort, PersonalPlan},
    rule::{non_negative, parse},
    rules::RULES,
    scale,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The registry's row.
pub const RULE: Rule = Rule {
    name: NAME,
    citation: "Sun, Shen and Tao, NeurIPS 2023, arXiv:2306.05706",
    make: build::<f32>,
    make_f64: build::<f64>,
    defaults,
};

const NAME: &str = "fedinit";
/// Where a worker started, from the model; an uploaded vector.
const OFFSET: &str = "offset";
/// The name of `w_i`; the base must not have one of that name.
const LAST: &str = "last";

/// The wrapper's own keys under `[algorithm]`; the base's stand beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The algorithm that is wrapped.
    pub base: String,
    /// Relaxation β.
    pub beta: f64,
    /// What the server averages: `model` or `delta`.
    pub server: Server,
}

/// What the server averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// Local models.
    #[default]
    Model,
    /// Local changes.
    Delta,
}

impl Default for Config {
    fn default() -> Self {
        Self { base: "fedavg".into(), beta: 0.1, server: Server::Model }
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
    let is_own = |key: &str| matches!(key, "base" | "beta" | "server");
    let (own, rest): (Params, Params) =
        params.iter().map(|(key, value)| (key.clone(), value.clone())).partition(|(key, _)| is_own(key));
    let Config { base, beta, server } = parse(NAME, &own)?;
    non_negative(NAME, "beta", beta)?;
    if base == NAME {
        let expected = "an algorithm that is no wrapper itself";
        return Err(ParamError::Range { rule: NAME, key: "base", value: base, expected });
    }
    let base: Box<dyn Algorithm<S>> = make_as(&base, &rest)
        .map_err(|error| ParamError::Key { rule: NAME, detail: format!("`base`: {error}") })?;
    Ok(Box::new(FedInit { base, beta: S::of(beta), server }))
}

#[derive(Debug)]
struct FedInit<S: Scalar> {
    base: Box<dyn Algorithm<S>>,
    beta: S,
    server: Server,
}

impl<S: Scalar> Algorithm<S> for FedInit<S> {
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
        let mut shapes = self.base.upload(d);
        if self.server == Server::Model {
            shapes.push((OFFSET, d));
            shapes.sort_unstable();
        }
        shapes
    }

    fn folds(&self) -> Vec<Fold> {
        let mut folds = self.base.folds();
        if self.server == Server::Model {
            let of_base = folds.iter().find(|fold| fold.from == DELTA).map(|fold| fold.weighting);
            let weighting = of_base.unwrap_or(Weighting::Uniform);
            folds.push(Fold { into: OFFSET, from: OFFSET, weighting, scale: Scale::One });
        }
        folds
    }

    fn plan(&self, down: &Vectors<S>, state: &Vectors<S>) -> LocalPlan<S> {
        let mut plan = self.base.plan(down, state);
        plan.offset = state.get(LAST).filter(|_| self.beta > S::ZERO).map(|last| {
            let mut offset = down[MODEL].as_ref().clone();
            axpy(&mut offset, -S::ONE, last);
            scale(&mut offset, self.beta);
            Arc::new(offset)
        });
        plan
    }

    fn personal(&self, down: &Vectors<S>, state: &Vectors<S>) -> Option<PersonalPlan<S>> {
        self.base.personal(down, state)
    }

    fn effort(&self) -> Option<Effort> {
        self.base.effort()
    }

    fn personal_model(&self, model: &Vector<S>, state: &Vectors<S>) -> Option<Vector<S>> {
        self.base.personal_model(model, state)
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

    fn finish(&self, run: LocalRun<S>, down: &Vectors<S>, state: &Vectors<S>) -> Finished<S> {
        let last = Arc::new(run.end.clone());
        let offset = (self.server == Server::Model).then(|| {
            let mut offset = run.start.as_ref().clone();
            axpy(&mut offset, -S::ONE, &down[MODEL]);
            Arc::new(offset)
        });
        let mut finished = self.base.finish(run, down, state);
        finished.upload.extend(offset.map(|offset| (OFFSET.to_owned(), offset)));
        finished.next.insert(LAST.to_owned(), last);
        finished
    }

    fn realign(&self, next: &mut Vectors<S>, error: &Vectors<S>, run: (u32, S)) {
        self.base.realign(next, error, run);
    }

    fn apply(&self, server: &mut Vectors<S>, mean: &Vectors<S>, facts: &RoundFacts) {
        self.base.apply(server, mean, facts);
        if self.server == Server::Model {
            move_model(server, S::ONE, &mean[OFFSET]);
        }
    }
}
