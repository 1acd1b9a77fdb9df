//! The coordinator's view of models in tests: the engine's real models on procedural digits.

use coordinator::{Evaluation, HostedModel, ModelHost};
use proto::spec::{ModelSpec, RunSpec};
use worker::{
    data::{Source, Split},
    engine::Model,
};

/// Name of the one data set.
pub const DATA: &str = "digits";

/// A few hundred digits, the same for everybody.
pub fn digits() -> Source {
    Source::Digits { train: 240, test: 60, seed: 0 }
}

/// Opens and evaluates models on [`digits`]. A `flat` model starts as a ramp that depends on the seed,
/// so that two runs have two models.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

fn model(spec: &RunSpec) -> Result<Model, String> {
    let info = digits().info(spec.data.sequence).map_err(|error| error.to_string())?;
    Model::new(&spec.model, &info).map(|model| model.with_threads(1)).map_err(|error| error.to_string())
}

/// Two halves, so that there is something that can stay with its worker.
pub fn flat_tensors(parameters: usize) -> Vec<(String, Vec<usize>)> {
    let body = parameters / 2;
    vec![("body".to_owned(), vec![body]), ("head".to_owned(), vec![parameters - body])]
}

impl ModelHost for Host {
    fn open(&self, spec: &RunSpec) -> Result<HostedModel, String> {
        if let ModelSpec::Flat { parameters } = spec.model {
            let start = spec.seed as f32 + 1.0;
            let initial = (0..parameters).map(|i| start + (i % 1_000) as f32 * 1e-3).collect();
            return Ok(HostedModel { tensors: flat_tensors(parameters), initial });
        }
        let model = model(spec)?;
        Ok(HostedModel { tensors: model.named_shapes(), initial: model.initial(spec.seed) })
    }

    fn evaluate(&self, spec: &RunSpec, w: &[f32]) -> Result<Option<Evaluation>, String> {
        if spec.data.name != DATA || matches!(spec.model, ModelSpec::Flat { .. }) {
            return Ok(None);
        }
        let data = digits().load(Split::Test, spec.data.sequence).map_err(|error| error.to_string())?;
        let all: Vec<usize> = (0..data.len()).collect();
        let outcome = model(spec)?.evaluate(w, &data.batch(&all, None)).map_err(|error| error.to_string())?;
        let loss_sum = outcome.loss * outcome.predictions as f64;
        Ok(Some(Evaluation { loss_sum, correct: outcome.correct, predictions: outcome.predictions }))
    }
}
