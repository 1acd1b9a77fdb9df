//! What a worker does with its engine in a round: the personal tensors' part where they are trained first, the
//! personal model's run, the shared run. Daemons and simulation call this and nothing else, so that both train
//! the same.

use super::{LocalResult, Private, TrainError, TrainJob, steps_due};
use algorithms::{
    Algorithm, MODEL, Vector, Vectors,
    local::LocalPlan,
    personal::{Effort, OWN, Own},
};
use proto::spec::RunSpec;
use std::sync::Arc;

/// A worker's part of a round.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Model, data and local training.
    pub spec: &'a Arc<RunSpec>,
    /// The rule.
    pub algorithm: &'a dyn Algorithm,
    /// Which parts of the model are the worker's own.
    pub own: Option<&'a Own>,
    /// The round.
    pub round: u64,
    /// Its learning rate.
    pub lr: f32,
    /// What the worker does itself for a promise of privacy.
    pub private: Option<Private>,
}

/// What came of it.
#[derive(Debug)]
pub struct Trained {
    /// The shared run; what is personal was taken out of it.
    pub result: Result<LocalResult, TrainError>,
    /// What was received, with the worker's own parts in the model: what the rule's `finish` takes.
    pub down: Vectors,
    /// Personal parts, to be added to the next client state.
    pub kept: Vectors,
}

/// How a local run is done.
pub type Engine<'a> = &'a mut dyn FnMut(&TrainJob) -> Result<LocalResult, TrainError>;

impl Turn<'_> {
    /// Does it, from what was received and the client state.
    pub fn train(&self, mut down: Vectors, state: &Vectors, engine: Engine<'_>) -> Trained {
        let done = self.runs(&mut down, state, engine);
        let (result, kept) = match done {
            Ok((result, kept)) => (Ok(result), kept),
            Err(error) => (Err(error), Vectors::new()),
        };
        Trained { result, down, kept }
    }

    fn runs(
        &self,
        down: &mut Vectors,
        state: &Vectors,
        engine: Engine<'_>,
    ) -> Result<(LocalResult, Vectors), TrainError> {
        let mut frozen = None;
        if let Some(own) = self.own {
            let mut model = own.merge(&down[MODEL], state);
            if let Some(first) = self.spec.first_part() {
                let run = engine(&self.extra(&first.effort(), (model, first.first(own))))?.run;
                model = Arc::new(run.end);
                frozen = Some(own.own().clone());
            }
            down.insert(MODEL.to_owned(), model);
        }
        let personal = match self.algorithm.personal(down, state) {
            None => None,
            Some(personal) => {
                let effort = self.algorithm.effort().unwrap_or_default();
                Some(Arc::new(engine(&self.extra(&effort, (personal.start, personal.plan)))?.run.end))
            }
        };
        let mut plan = self.algorithm.plan(down, state);
        plan.frozen = plan.frozen.or(frozen);
        let mut result = engine(&self.job(Arc::clone(self.spec), self.lr, (Arc::clone(&down[MODEL]), plan)))?;
        result.run.personal = personal;
        let mut kept = Vectors::new();
        if let Some(own) = self.own {
            kept.insert(OWN.to_owned(), own.take(&mut result.run));
        }
        Ok((result, kept))
    }

    /// A run beside the shared one.
    fn extra(&self, effort: &Effort, work: (Vector, LocalPlan)) -> TrainJob {
        let spec = Arc::new(self.spec.for_effort(effort));
        self.job(spec, effort.lr.unwrap_or(self.lr), work)
    }

    fn job(&self, spec: Arc<RunSpec>, lr: f32, (model, plan): (Vector, LocalPlan)) -> TrainJob {
        TrainJob { spec, round: self.round, lr, model, plan, private: self.private.clone() }
    }
}

/// Steps of a round of a worker with so many examples, those of personal runs included.
pub fn steps_of_round(spec: &RunSpec, algorithm: &dyn Algorithm, (round, examples): (u64, usize)) -> u32 {
    let extra = |effort: Effort| steps_due(&spec.for_effort(&effort), round, examples);
    let first = spec.first_part().map(|first| extra(first.effort()));
    let personal = algorithm.effort().map(extra);
    [first, personal].into_iter().flatten().fold(steps_due(spec, round, examples), u32::saturating_add)
}

/// The model that a worker uses itself, from a shared one and its client state; `None`: the run has no personal
/// models.
pub fn personal_model(
    spec: &RunSpec,
    algorithm: &dyn Algorithm,
    own: Option<&Own>,
    (model, state): (&Vector, &Vectors),
) -> Option<Vector> {
    if !spec.has_personal_models(algorithm) {
        return None;
    }
    let merged = own.map_or_else(|| Arc::clone(model), |own| own.merge(model, state));
    // Who was in no round yet has the shared one.
    Some(algorithm.personal_model(&merged, state).unwrap_or(merged))
}
