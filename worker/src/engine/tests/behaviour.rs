//! What the engine promises about sizes, threads, errors and learning.

use super::{FEATURES, TEXT, batch, gradient, images, small, symmetric, weights};
use crate::data::{Batch, DataInfo, Inputs};
use crate::engine::{EngineError, Model, Outcome};
use proto::spec::{ModelSpec, Stem};

fn digits() -> DataInfo {
    DataInfo::Images { channels: 1, height: 28, width: 28, classes: 10 }
}

fn colours() -> DataInfo {
    DataInfo::Images { channels: 3, height: 32, width: 32, classes: 10 }
}

#[test]
fn parameter_counts_are_the_published_ones() {
    let cifar = ModelSpec::Resnet18Gn { stem: Stem::Cifar };
    let imagenet = ModelSpec::Resnet18Gn { stem: Stem::Imagenet };
    for (spec, info, expected) in [
        (ModelSpec::Linear {}, digits(), 7_850),
        (ModelSpec::Mlp { hidden: vec![200, 200] }, digits(), 199_210),
        (ModelSpec::Lenet {}, digits(), 61_706),
        (ModelSpec::Cnn {}, digits(), 1_663_370),
        (ModelSpec::Cnn {}, colours(), 2_156_490),
        (cifar, colours(), 11_173_952),
        (imagenet, colours(), 11_181_642),
        (ModelSpec::Flat { parameters: 12 }, digits(), 12),
    ] {
        assert_eq!(Model::new(&spec, &info).unwrap().parameters(), expected, "{spec:?}");
    }
}

#[test]
fn tensors_lie_in_sorted_order_and_fill_the_vector() {
    for (name, spec, info) in small() {
        let model = Model::new(&spec, &info).unwrap();
        assert!(model.tensors().is_sorted_by(|a, b| a.name < b.name), "{name}");
        let sum: usize = model.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(sum, model.parameters(), "{name}");
    }
}

#[test]
fn results_are_the_same_bytes_on_any_number_of_threads() {
    for (name, spec, info) in small() {
        // 60 examples make three shards; ResNet is slow, and 30 make two.
        let batch = batch(&info, if name.starts_with("resnet") { 30 } else { 60 });
        let results: Vec<_> = [1, 2, 4]
            .into_iter()
            .map(|threads| {
                let model = Model::new(&spec, &info).unwrap().with_threads(threads);
                let w = model.initial(5);
                let (outcome, grad) = gradient(&model, &w, &batch);
                let bits: Vec<u32> = grad.iter().map(|g| g.to_bits()).collect();
                let logits: Vec<u32> =
                    model.logits(&w, &batch).unwrap().iter().map(|g| g.to_bits()).collect();
                assert!(outcome.loss.is_finite() && bits.iter().any(|b| *b != 0), "{name}");
                (outcome.loss.to_bits(), model.evaluate(&w, &batch).unwrap(), bits, logits)
            })
            .collect();
        assert!(results[0] == results[1] && results[0] == results[2], "{name}");
    }
}

#[test]
fn a_batch_gives_the_mean_over_its_examples() {
    let model = Model::new(&ModelSpec::Mlp { hidden: vec![9] }, &FEATURES).unwrap();
    let (w, all) = (weights(&model), batch(&FEATURES, 53));
    let Inputs::Dense(x) = &all.inputs else { panic!("features are dense") };
    let (whole, grad) = gradient(&model, &w, &all);
    let mut sum = vec![0.0f64; grad.len()];
    let (mut loss, mut correct) = (0.0, 0);
    for i in 0..all.size {
        let inputs = Inputs::Dense(x[i * 6..(i + 1) * 6].to_vec());
        let one = Batch { size: 1, inputs, labels: vec![all.labels[i]] };
        let (outcome, g) = gradient(&model, &w, &one);
        loss += outcome.loss / 53.0;
        correct += outcome.correct;
        sum.iter_mut().zip(g).for_each(|(s, g)| *s += f64::from(g) / 53.0);
    }
    assert!((loss - whole.loss).abs() < 1e-6);
    assert_eq!((correct, whole.predictions), (whole.correct, 53));
    crate::engine::ops::testing::assert_close(&grad, &sum, 1e-6);
}

#[test]
fn initial_weights_follow_seed_and_name_alone() {
    let model =
        |hidden: &[usize]| Model::new(&ModelSpec::Mlp { hidden: hidden.to_vec() }, &FEATURES).unwrap();
    let (short, long) = (model(&[8]), model(&[8, 3]));
    assert_eq!(short.initial(1), short.initial(1));
    assert_ne!(short.initial(1), short.initial(2));
    // fc1.bias and fc1.weight come first in both and do not care what follows.
    assert_eq!(short.initial(1)[..56], long.initial(1)[..56]);

    let w = Model::new(&ModelSpec::Linear {}, &digits()).unwrap().initial(3);
    let bound = 1.0 / 28.0;
    assert!(w.iter().all(|v| v.abs() <= bound));
    let mean_square = w.iter().map(|v| f64::from(v * v)).sum::<f64>() / w.len() as f64;
    assert!((mean_square * 3.0 / f64::from(bound * bound) - 1.0).abs() < 0.05, "not uniform: {mean_square}");
}

#[test]
fn initial_distributions_are_pytorchs() {
    let text = DataInfo::Text { vocabulary: 90, sequence: 80 };
    let lstm = ModelSpec::CharLstm { embedding: 64, hidden: 100, layers: 1 };
    let gpt = ModelSpec::CharGpt { width: 64, heads: 2, layers: 1 };
    // Tensor, deviation, largest magnitude allowed.
    for (spec, name, deviation, limit) in [
        (&lstm, "embedding.weight", 1.0, 6.0),
        (&lstm, "lstm.weight_ih_l0", 0.1 / 3f64.sqrt(), 0.1),
        (&lstm, "lstm.bias_hh_l0", 0.1 / 3f64.sqrt(), 0.1),
        (&gpt, "wte.weight", 0.02, 0.12),
        (&gpt, "h.0.mlp.c_fc.weight", 0.125 / 3f64.sqrt(), 0.125),
    ] {
        let model = Model::new(spec, &text).unwrap();
        let w = model.initial(0);
        let mut start = 0;
        let mut checked = false;
        for tensor in model.tensors() {
            let values = &w[start..start + tensor.shape.iter().product::<usize>()];
            start += values.len();
            if tensor.name.starts_with("h.0.ln_1") || tensor.name.starts_with("ln_f") {
                let expected = if tensor.name.ends_with("weight") { 1.0 } else { 0.0 };
                assert!(values.iter().all(|&v| v == expected));
            }
            if tensor.name == name {
                let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
                assert!((square.sqrt() / deviation - 1.0).abs() < 0.06, "{name}: {}", square.sqrt());
                assert!(values.iter().all(|v| f64::from(v.abs()) <= limit), "{name}");
                checked = true;
            }
        }
        assert!(checked, "{name} not found");
    }
}

/// Three clouds, or text that repeats a pattern: a few steps must learn it.
#[test]
fn training_reduces_the_loss() {
    for (name, spec, info) in small() {
        if name == "resnet imagenet" {
            continue;
        }
        let model = Model::new(&spec, &info).unwrap();
        let mut data = batch(&info, 24);
        match &mut data.inputs {
            Inputs::Dense(x) => {
                let n = x.len() / data.size;
                for (x, label) in x.chunks_exact_mut(n).zip(&data.labels) {
                    let centre = symmetric(n, 2000 + u64::from(*label));
                    x.iter_mut().zip(centre).for_each(|(x, c)| *x = 0.2 * *x + c as f32);
                }
            }
            Inputs::Tokens(x) => {
                x.iter_mut().enumerate().for_each(|(i, t)| *t = (i * 3 % 11) as u32);
                data.labels.iter_mut().enumerate().for_each(|(i, t)| *t = ((i + 1) * 3 % 11) as u32);
            }
        }
        let mut w = model.initial(1);
        let before = model.evaluate(&w, &data).unwrap();
        let (rate, steps) = match name {
            "lstm" => (2.0, 200),
            "gpt" => (0.3, 100),
            "resnet cifar" => (0.003, 12),
            "mlp" => (0.5, 100),
            _ => (0.1, 60),
        };
        for _ in 0..steps {
            let (_, grad) = gradient(&model, &w, &data);
            w.iter_mut().zip(grad).for_each(|(w, g)| *w -= rate * g);
        }
        let after = model.evaluate(&w, &data).unwrap();
        assert!(after.loss < 0.6 * before.loss, "{name}: {before:?} to {after:?}");
        assert!(after.correct * 10 > after.predictions * 7, "{name}: {after:?}");
    }
}

fn refusal(spec: &ModelSpec, info: &DataInfo) -> String {
    let error = Model::new(spec, info).expect_err("must be refused");
    assert!(matches!(error, EngineError::Unfit { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn unfit_models_are_refused_with_the_reason() {
    let gpt = |width, heads, layers| ModelSpec::CharGpt { width, heads, layers };
    let lstm = ModelSpec::CharLstm { embedding: 0, hidden: 4, layers: 1 };
    for (spec, info, expected) in [
        (ModelSpec::Lenet {}, TEXT, "takes images, the data is text"),
        (ModelSpec::Cnn {}, FEATURES, "takes images, the data is feature vectors"),
        (ModelSpec::Resnet18Gn { stem: Stem::Cifar }, TEXT, "takes images"),
        (ModelSpec::Mlp { hidden: vec![3] }, TEXT, "the data is text"),
        (ModelSpec::Linear {}, TEXT, "the data is text"),
        (ModelSpec::Mlp { hidden: vec![3, 0] }, FEATURES, "hidden layer is 0"),
        (gpt(10, 3, 1), TEXT, "width 10 is not divisible by 3 heads"),
        (gpt(10, 0, 1), TEXT, "heads is 0"),
        (gpt(8, 2, 1), digits(), "takes text, the data is images"),
        (lstm, TEXT, "embedding is 0"),
        (ModelSpec::Lenet {}, images(1, 28, 11), "at least 12×12, these are 28×11"),
        (ModelSpec::Cnn {}, images(1, 3, 8), "at least 4×4, these are 3×8"),
        (ModelSpec::Cnn {}, images(0, 8, 8), "channels is 0"),
    ] {
        let message = refusal(&spec, &info);
        assert!(message.contains(expected), "{message}");
    }
    // The smallest that the messages promise do work.
    for (spec, info) in [
        (ModelSpec::Lenet {}, images(1, 12, 12)),
        (ModelSpec::Cnn {}, images(1, 4, 4)),
        (ModelSpec::Resnet18Gn { stem: Stem::Imagenet }, images(1, 1, 1)),
    ] {
        let model = Model::new(&spec, &info).unwrap();
        assert!(model.evaluate(&weights(&model), &batch(&info, 2)).unwrap().loss.is_finite());
    }
}

#[test]
fn bad_batches_are_errors() {
    let model = Model::new(&ModelSpec::Linear {}, &FEATURES).unwrap();
    let (w, good) = (model.initial(0), batch(&FEATURES, 4));
    let mut grad = vec![0.0; w.len()];
    let message =
        |w: &[f32], b: &Batch, grad: &mut [f32]| model.gradient(w, b, grad).unwrap_err().to_string();
    assert_eq!(message(&w[1..], &good, &mut grad), "weights: 20 values where 21 were expected");
    assert_eq!(message(&w, &good, &mut grad[1..]), "gradient: 20 values where 21 were expected");

    let with = |change: &dyn Fn(&mut Batch)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    for (bad, expected) in [
        (with(&|b| b.labels[2] = 3), "label 3 at position 2 of the batch; it must be below 3"),
        (with(&|b| b.size = 5), "inputs of the batch: 24 values where 30 were expected"),
        (with(&|b| b.size = usize::MAX), "inputs of the batch: 24 values where"),
        (with(&|b| b.size = 0), "the batch is empty"),
        (with(&|b| b.labels.truncate(3)), "labels of the batch: 3 values where 4 were expected"),
        (with(&|b| b.inputs = Inputs::Tokens(vec![0; 24])), "takes numbers, the batch holds characters"),
    ] {
        assert!(message(&w, &bad, &mut grad).contains(expected), "{}", message(&w, &bad, &mut grad));
        assert!(model.evaluate(&w, &bad).is_err() && model.logits(&w, &bad).is_err());
    }

    let gpt = Model::new(&ModelSpec::CharGpt { width: 4, heads: 1, layers: 1 }, &TEXT).unwrap();
    let mut text = batch(&TEXT, 2);
    let Inputs::Tokens(tokens) = &mut text.inputs else { panic!("text is tokens") };
    tokens[9] = 11;
    let error = gpt.evaluate(&gpt.initial(0), &text).unwrap_err().to_string();
    assert_eq!(error, "character 11 at position 9 of the batch; it must be below 11");
    let error = gpt.evaluate(&gpt.initial(0), &good).unwrap_err().to_string();
    assert_eq!(error, "the model takes characters, the batch holds numbers");
}

#[test]
fn the_bare_vector_never_changes() {
    let model = Model::new(&ModelSpec::Flat { parameters: 9 }, &TEXT).unwrap().with_threads(2);
    assert_eq!((model.tensors()[0].name.as_str(), &model.tensors()[0].shape[..]), ("flat", &[9][..]));
    let w = model.initial(4);
    assert!(w.iter().all(|v| v.abs() <= 0.05) && w.iter().any(|v| v.abs() > 0.01));
    let (outcome, grad) = gradient(&model, &w, &batch(&TEXT, 2));
    assert_eq!(outcome, Outcome { loss: 0.0, correct: 0, predictions: 0 });
    assert_eq!(grad, [0.0; 9]);
    assert_eq!(model.evaluate(&w, &batch(&TEXT, 2)).unwrap(), outcome);
    assert!(model.evaluate(&w[1..], &batch(&TEXT, 2)).is_err());
}
