//! Whole models: against PyTorch, against differences, against themselves on other thread counts.

mod behaviour;
mod clipped;
mod differences;
mod files;
mod pytorch;

use super::Model;
use crate::data::{Batch, DataInfo, Inputs};
use proto::spec::{ModelSpec, Stem};

/// 32-bit integers of one stream; `record_pytorch.py` has the same function.
fn mixed(n: usize, stream: u64) -> impl Iterator<Item = u32> {
    (0..n as u64).map(move |k| {
        let x = (k + 1 + stream * 0x9E37_79B9) as u32;
        let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        let x = (x ^ (x >> 15)).wrapping_mul(0x46CA_6B35);
        x ^ (x >> 16)
    })
}

/// Numbers in [-1, 1) of one stream.
fn symmetric(n: usize, stream: u64) -> impl Iterator<Item = f64> {
    mixed(n, stream).map(|x| f64::from(x) / 2f64.powi(31) - 1.0)
}

/// The weights that `record_pytorch.py` gives its modules.
fn weights(model: &Model) -> Vec<f32> {
    let mut w = Vec::with_capacity(model.parameters());
    for (i, spec) in model.tensors().iter().enumerate() {
        let (centre, size) = match spec.shape[..] {
            [_] => (if spec.name.ends_with("weight") { 1.0 } else { 0.0 }, 0.1),
            _ => (0.0, (6.0 / spec.shape[1..].iter().product::<usize>() as f64).sqrt()),
        };
        let count = spec.shape.iter().product();
        w.extend(symmetric(count, i as u64).map(|v| (centre + size * v) as f32));
    }
    w
}

/// The batch that `record_pytorch.py` feeds.
fn batch(info: &DataInfo, size: usize) -> Batch {
    let dense = |n: usize| Inputs::Dense(symmetric(size * n, 1000).map(|v| v as f32).collect());
    let (inputs, classes, positions) = match *info {
        DataInfo::Images { channels, height, width, classes } => {
            (dense(channels * height * width), classes, 1)
        }
        DataInfo::Features { dimension, classes } => (dense(dimension), classes, 1),
        DataInfo::Text { vocabulary, sequence } => {
            let tokens = mixed(size * sequence, 1000).map(|x| x % vocabulary as u32);
            (Inputs::Tokens(tokens.collect()), vocabulary, sequence)
        }
    };
    Batch { size, inputs, labels: mixed(size * positions, 1001).map(|x| x % classes as u32).collect() }
}

fn images(channels: usize, height: usize, width: usize) -> DataInfo {
    DataInfo::Images { channels, height, width, classes: 4 }
}

const FEATURES: DataInfo = DataInfo::Features { dimension: 6, classes: 3 };
const TEXT: DataInfo = DataInfo::Text { vocabulary: 11, sequence: 7 };

/// Every model at a size at which tests are quick.
fn small() -> Vec<(&'static str, ModelSpec, DataInfo)> {
    vec![
        ("linear", ModelSpec::Linear {}, images(2, 3, 5)),
        ("mlp", ModelSpec::Mlp { hidden: vec![9, 5] }, FEATURES),
        ("lenet", ModelSpec::Lenet {}, images(1, 13, 15)),
        ("cnn", ModelSpec::Cnn {}, images(2, 9, 6)),
        ("prompted", ModelSpec::Prompted { padding: 2, base: Box::new(ModelSpec::Cnn {}) }, images(2, 9, 6)),
        ("resnet cifar", ModelSpec::Resnet18Gn { stem: Stem::Cifar }, images(3, 7, 9)),
        ("resnet imagenet", ModelSpec::Resnet18Gn { stem: Stem::Imagenet }, images(1, 33, 35)),
        ("lstm", ModelSpec::CharLstm { embedding: 3, hidden: 5, layers: 2 }, TEXT),
        ("gpt", ModelSpec::CharGpt { width: 6, heads: 2, layers: 2 }, TEXT),
    ]
}

/// Gradient and outcome at `w`.
fn gradient(model: &Model, w: &[f32], batch: &Batch) -> (super::Outcome, Vec<f32>) {
    let mut grad = vec![f32::NAN; model.parameters()];
    let outcome = model.gradient(w, batch, &mut grad).unwrap();
    (outcome, grad)
}
