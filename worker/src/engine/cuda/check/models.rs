//! Whole models: loss and gradient of one batch, and the logits.

use super::super::device::Device;
use super::super::placement::{Placement, Precision};
use super::{Finding, error, finding, indices, limit, numbers};
use crate::data::{Batch, DataInfo, Inputs};
use crate::engine::{EngineError, Model};
use proto::spec::{ModelSpec, Stem};
use std::sync::Arc;

fn cases() -> Vec<(&'static str, ModelSpec, DataInfo)> {
    let images = |channels, height, width| DataInfo::Images { channels, height, width, classes: 4 };
    let text = DataInfo::Text { vocabulary: 11, sequence: 7 };
    vec![
        ("linear", ModelSpec::Linear {}, images(2, 3, 5)),
        ("mlp", ModelSpec::Mlp { hidden: vec![9, 5] }, DataInfo::Features { dimension: 6, classes: 3 }),
        ("mlp of images", ModelSpec::Mlp { hidden: vec![8] }, images(3, 5, 4)),
        ("lenet", ModelSpec::Lenet {}, images(1, 13, 15)),
        ("cnn", ModelSpec::Cnn {}, images(3, 9, 6)),
        (
            "prompted cnn",
            ModelSpec::Prompted { padding: 2, base: Box::new(ModelSpec::Cnn {}) },
            images(3, 9, 6),
        ),
        ("resnet18-gn", ModelSpec::Resnet18Gn { stem: Stem::Cifar }, images(3, 7, 9)),
        ("resnet18-gn, imagenet", ModelSpec::Resnet18Gn { stem: Stem::Imagenet }, images(1, 33, 35)),
        ("char-lstm", ModelSpec::CharLstm { embedding: 3, hidden: 5, layers: 2 }, text.clone()),
        ("char-gpt", ModelSpec::CharGpt { width: 6, heads: 2, layers: 2 }, text),
    ]
}

fn batch(info: &DataInfo, size: usize) -> Batch {
    let dense = |n: usize| Inputs::Dense(numbers(size * n, 21));
    let (inputs, classes, positions) = match *info {
        DataInfo::Images { channels, height, width, classes } => {
            (dense(channels * height * width), classes, 1)
        }
        DataInfo::Features { dimension, classes } => (dense(dimension), classes, 1),
        DataInfo::Text { vocabulary, sequence } => {
            (Inputs::Tokens(indices(size * sequence, vocabulary, 22)), vocabulary, sequence)
        }
    };
    Batch { size, inputs, labels: indices(size * positions, classes, 23) }
}

/// Errors of loss (and hits), gradient and logits; the largest.
fn worst(cpu: &Model, gpu: &Model, batch: &Batch) -> Result<f64, EngineError> {
    let w = cpu.initial(9);
    let (mut want, mut got) = (vec![0.0; w.len()], vec![f32::NAN; w.len()]);
    let (outcome, theirs) = (cpu.gradient(&w, batch, &mut want)?, gpu.gradient(&w, batch, &mut got)?);
    if outcome.predictions != theirs.predictions {
        return Err(EngineError::Device("other predictions".into()));
    }
    let loss = (outcome.loss - theirs.loss).abs() / outcome.loss;
    let same = gpu.evaluate(&w, batch)?;
    if same != theirs {
        return Err(EngineError::Device(format!("evaluation says {same:?}, training {theirs:?}")));
    }
    let logits = error(&gpu.logits(&w, batch)?, &cpu.logits(&w, batch)?);
    Ok([loss, error(&got, &want), logits]
        .into_iter()
        .fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a }))
}

/// All models.
pub(super) fn check(device: &Arc<Device>, precision: Precision, tell: &mut dyn FnMut(Finding)) {
    let placement = Placement::on(device, precision);
    for (name, spec, info) in cases() {
        for size in [1, 7] {
            let compared = Model::new(&spec, &info).and_then(|cpu| {
                let gpu = Model::new(&spec, &info)?.placed(&placement);
                worst(&cpu, &gpu, &batch(&info, size))
            });
            // Rounding of factors grows through the layers of a network.
            let limit = limit(precision, 2e-5) * if precision == Precision::F32 { 1.0 } else { 3.0 };
            tell(finding(format!("{name}, batch {size}, {precision}"), limit, compared));
        }
    }
}
