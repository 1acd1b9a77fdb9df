//! What the coordinator needs of models: names, shapes and initial weights, and how good a model is on
//! held-out data.
//!
//! The coordinator itself knows vectors only; here the engine and the loaders of the worker crate are
//! lent to it. Data sets are loaded once and shared by all runs.

use ::coordinator::{Evaluation, HostedModel, ModelHost};
use proto::spec::{ModelSpec, RunSpec};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use worker::{
    data::{DataInfo, Dataset, Source, Split},
    engine::Model,
};

/// Examples in one evaluation step.
const BATCH: usize = 256;

/// Data set name and characters in a sequence.
type Key = (String, usize);

/// Opens and evaluates models with this machine's engine.
#[derive(Debug)]
pub(crate) struct Host {
    sources: BTreeMap<String, Source>,
    shapes: BTreeMap<String, DataInfo>,
    threads: usize,
    infos: Mutex<BTreeMap<Key, DataInfo>>,
    held_out: Mutex<BTreeMap<Key, Arc<Dataset>>>,
}

impl Host {
    /// `sources`: data sets with a held-out split here; `shapes`: of data sets that only workers have.
    pub(crate) fn new(
        sources: BTreeMap<String, Source>,
        shapes: BTreeMap<String, DataInfo>,
        threads: usize,
    ) -> Self {
        Self { sources, shapes, threads, infos: Mutex::default(), held_out: Mutex::default() }
    }

    fn info(&self, spec: &RunSpec) -> Result<DataInfo, String> {
        let name = &spec.data.name;
        if let Some(source) = self.sources.get(name) {
            let load =
                || source.info(spec.data.sequence).map_err(|error| format!("data set `{name}`: {error}"));
            return cached(&self.infos, (name.clone(), spec.data.sequence), load);
        }
        if let Some(info) = self.shapes.get(name) {
            return Ok(with_sequence(info, spec.data.sequence));
        }
        if let ModelSpec::Flat { .. } = spec.model {
            // A bare vector has no input; any shape will do.
            return Ok(DataInfo::Features { dimension: 1, classes: 2 });
        }
        let known: Vec<&str> = self.sources.keys().chain(self.shapes.keys()).map(String::as_str).collect();
        Err(format!(
            "the coordinator does not know the data set `{name}`; known: {}. Add [data.{name}] (with a held-out \
             set) or [shapes.{name}] (the shape of an input only) to its configuration",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        ))
    }

    fn model(&self, spec: &RunSpec) -> Result<Model, String> {
        let model = Model::new(&spec.model, &self.info(spec)?).map_err(|error| error.to_string())?;
        Ok(model.with_threads(self.threads))
    }

    fn held_out(&self, spec: &RunSpec) -> Result<Option<Arc<Dataset>>, String> {
        let name = &spec.data.name;
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        let load = || {
            let data = source.load(Split::Test, spec.data.sequence);
            data.map(Arc::new).map_err(|error| format!("data set `{name}`: {error}"))
        };
        cached(&self.held_out, (name.clone(), spec.data.sequence), load).map(Some)
    }
}

impl ModelHost for Host {
    fn open(&self, spec: &RunSpec) -> Result<HostedModel, String> {
        let model = self.model(spec)?;
        Ok(HostedModel { tensors: model.named_shapes(), initial: model.initial(spec.seed) })
    }

    /// Batches one after another, so that the sums do not depend on the number of threads.
    fn evaluate(&self, spec: &RunSpec, w: &[f32]) -> Result<Option<Evaluation>, String> {
        if let ModelSpec::Flat { .. } = spec.model {
            return Ok(None);
        }
        let Some(data) = self.held_out(spec)?.filter(|data| !data.is_empty()) else { return Ok(None) };
        let model = self.model(spec)?;
        let mut sum = Evaluation { loss_sum: 0.0, correct: 0, predictions: 0 };
        let all: Vec<usize> = (0..data.len()).collect();
        for indices in all.chunks(BATCH) {
            let outcome = model.evaluate(w, &data.batch(indices, None)).map_err(|error| error.to_string())?;
            sum.loss_sum += outcome.loss * outcome.predictions as f64;
            sum.correct += outcome.correct;
            sum.predictions += outcome.predictions;
        }
        Ok(Some(sum))
    }
}

/// Loads once; a failure is not remembered, so that a repaired file is found.
fn cached<T: Clone>(
    cache: &Mutex<BTreeMap<Key, T>>,
    key: Key,
    load: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = cache.get(&key) {
        return Ok(found.clone());
    }
    let loaded = load()?;
    cache.insert(key, loaded.clone());
    Ok(loaded)
}

/// The run decides the length of a text's sequences.
fn with_sequence(info: &DataInfo, sequence: usize) -> DataInfo {
    match info {
        DataInfo::Text { vocabulary, .. } => DataInfo::Text { vocabulary: *vocabulary, sequence },
        other => other.clone(),
    }
}
