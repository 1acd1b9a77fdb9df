//! What is measured: a model, its data's shape, and one batch.

use crate::exit::Failure;
use algorithms::seed;
use proto::spec::{ModelSpec, Stem};
use serde::{Deserialize, Serialize};
use worker::data::{Batch, DataInfo, Inputs};

/// The short names, in the order of the table.
pub(super) const NAMES: [&str; 7] =
    ["mlp", "lenet", "cnn-28", "cnn-32", "char-lstm", "char-gpt", "resnet18-gn"];

/// One row of the table; the JSON form is what the measured processes are started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) spec: ModelSpec,
    pub(super) info: DataInfo,
    pub(super) batch: u16,
    pub(super) threads: u16,
    pub(super) device: String,
    pub(super) precision: String,
    /// PyTorch replays the step as a CUDA graph.
    pub(super) graph: bool,
}

/// The case of a short name, with batch 50 and one thread.
pub(super) fn find(name: &str) -> Result<Case, Failure> {
    let digits = DataInfo::Images { channels: 1, height: 28, width: 28, classes: 10 };
    let colours = DataInfo::Images { channels: 3, height: 32, width: 32, classes: 10 };
    let text = DataInfo::Text { vocabulary: 90, sequence: 80 };
    let (spec, info) = match name {
        "mlp" => (ModelSpec::Mlp { hidden: vec![200, 200] }, digits),
        "lenet" => (ModelSpec::Lenet {}, digits),
        "cnn-28" => (ModelSpec::Cnn {}, digits),
        "cnn-32" => (ModelSpec::Cnn {}, colours),
        "char-lstm" => (ModelSpec::CharLstm { embedding: 8, hidden: 256, layers: 2 }, text),
        "char-gpt" => (ModelSpec::CharGpt { width: 128, heads: 4, layers: 4 }, text),
        "resnet18-gn" => (ModelSpec::Resnet18Gn { stem: Stem::Cifar }, colours),
        _ => {
            let text = format!("--models: `{name}` is not known; expected one of {}", NAMES.join(", "));
            return Err(Failure::usage(text));
        }
    };
    Ok(Case {
        name: name.to_owned(),
        spec,
        info,
        batch: 50,
        threads: 1,
        device: "cpu".into(),
        precision: "f32".into(),
        graph: false,
    })
}

impl Case {
    /// A batch of noise; equal cases, equal batches.
    pub(super) fn batch(&self) -> Batch {
        let size = usize::from(self.batch);
        let draw =
            |n: usize, stream: u64| (0..n as u64).map(move |i| seed::unit(seed::mix(i ^ (stream << 48))));
        let index = |n, stream, limit: usize| draw(n, stream).map(|u| (u * limit as f64) as u32).collect();
        let dense = |n| Inputs::Dense(draw(size * n, 1).map(|u| (2.0 * u - 1.0) as f32).collect());
        let (inputs, classes, positions) = match self.info {
            DataInfo::Images { channels, height, width, classes } => {
                (dense(channels * height * width), classes, 1)
            }
            DataInfo::Features { dimension, classes } => (dense(dimension), classes, 1),
            DataInfo::Text { vocabulary, sequence } => {
                (Inputs::Tokens(index(size * sequence, 2, vocabulary)), vocabulary, sequence)
            }
        };
        let labels = index(size * positions, 3, classes);
        Batch { size, inputs, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_case_that_its_model_takes() {
        for name in NAMES {
            let case = Case { batch: 2, ..find(name).unwrap() };
            let model = worker::engine::Model::new(&case.spec, &case.info).unwrap();
            let outcome = model.evaluate(&model.initial(0), &case.batch()).unwrap();
            assert!(outcome.loss.is_finite(), "{name}");
            let text = serde_json::to_string(&case).unwrap();
            assert_eq!(serde_json::from_str::<Case>(&text).unwrap(), case);
        }
        assert!(find("vgg").unwrap_err().message.contains("char-gpt"));
    }
}
