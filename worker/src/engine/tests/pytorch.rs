//! Names, shapes, losses, logits and gradients against what `record_pytorch.py` got from PyTorch.

use super::{batch, gradient, weights};
use crate::data::DataInfo;
use crate::engine::Model;
use proto::spec::ModelSpec;
use serde::Deserialize;

#[derive(Deserialize)]
struct Recording {
    models: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    spec: ModelSpec,
    info: DataInfo,
    batch: usize,
    loss: f64,
    correct: u64,
    logits: Vec<f64>,
    logits_norm: f64,
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    norm: f64,
    entries: Vec<f64>,
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// `count` places spread over `length`, first and last included, as in the script.
fn places(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |j| j * (length - 1) / (count - 1))
}

#[track_caller]
fn close(what: &str, got: f64, want: f64, scale: f64) {
    assert!((got - want).abs() <= 1e-4 * scale, "{what}: got {got}, PyTorch {want}");
}

#[test]
fn every_model_agrees_with_pytorch() {
    let recording: Recording =
        serde_json::from_str(include_str!("../../../tests/fixtures/pytorch.json")).unwrap();
    assert_eq!(recording.models.len(), 14);
    for r in recording.models {
        let model = Model::new(&r.spec, &r.info).unwrap();
        let id = format!("{:?} on {:?}", r.spec, r.info);
        let names: Vec<_> = model.tensors().iter().map(|t| (&t.name, &t.shape)).collect();
        let theirs: Vec<_> = r.tensors.iter().map(|t| (&t.name, &t.shape)).collect();
        assert_eq!(names, theirs, "{id}");

        let (w, batch) = (weights(&model), batch(&r.info, r.batch));
        let (outcome, grad) = gradient(&model, &w, &batch);
        close(&id, outcome.loss, r.loss, r.loss);
        assert_eq!(outcome.correct, r.correct, "{id}");
        assert_eq!(outcome.predictions, batch.labels.len() as u64);
        assert_eq!(model.evaluate(&w, &batch).unwrap(), outcome, "{id}");

        let logits = model.logits(&w, &batch).unwrap();
        close(&id, norm(&logits), r.logits_norm, r.logits_norm);
        let typical = r.logits_norm / (logits.len() as f64).sqrt();
        for (place, want) in places(logits.len(), 16).zip(r.logits) {
            close(&id, f64::from(logits[place]), want, want.abs() + typical);
        }

        let mut rest = &grad[..];
        for t in r.tensors {
            let (g, tail) = rest.split_at(t.shape.iter().product());
            rest = tail;
            let id = format!("{id}, gradient of {}", t.name);
            assert!(t.norm > 0.0, "{id}: nothing to compare");
            close(&id, norm(g), t.norm, t.norm);
            let typical = t.norm / (g.len() as f64).sqrt();
            for (place, want) in places(g.len(), 4).zip(t.entries) {
                close(&id, f64::from(g[place]), want, want.abs() + typical);
            }
        }
    }
}
