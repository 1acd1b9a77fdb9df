//! The networks, one per file, and what each asks of the data.

mod char_gpt;
mod char_lstm;
mod cnn;
mod lenet;
mod linear;
mod mlp;
mod prompted;
mod resnet;

use super::EngineError;
use super::buffer::Buffer;
use super::layout::{Init, Layout, Params};
use super::shards::{self, Shard};
use super::tensor::{self, Tensor};
use crate::data::{Batch, DataInfo, Inputs};
use prompted::Prompt;
use proto::spec::ModelSpec;

/// A network without its weights.
pub(super) trait Network: Send + Sync + std::fmt::Debug {
    /// Logits of one shard: one row of `classes` per prediction, whatever the leading dimensions.
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> tensor::Result<Tensor>;

    /// How many examples a shard may have. Fewer give more threads work, more make the matrix products
    /// of small networks larger. Part of the result's definition: changing it changes last bits.
    fn shard(&self) -> usize {
        25
    }

    /// Takes a visual prompt, if its inputs are images.
    fn prompt(&mut self, _prompt: Prompt) -> bool {
        false
    }
}

/// What goes in and how many classes come out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// Vocabulary for text, `None` for dense inputs.
    vocabulary: Option<usize>,
    /// Scalars or characters of one example.
    inputs: usize,
    /// Predictions of one example.
    predictions: usize,
    classes: usize,
    shard: usize,
}

impl Task {
    /// Checks a batch; returns the number of its predictions.
    pub(super) fn check(&self, batch: &Batch) -> Result<usize, EngineError> {
        if batch.size == 0 {
            return Err(EngineError::EmptyBatch);
        }
        let length = |what, got, per_example: usize| {
            let expected = batch.size.saturating_mul(per_example);
            if got == expected { Ok(()) } else { Err(EngineError::Length { what, got, expected }) }
        };
        match (&batch.inputs, self.vocabulary) {
            (Inputs::Dense(x), None) => length("inputs of the batch", x.len(), self.inputs)?,
            (Inputs::Tokens(x), Some(vocabulary)) => {
                length("characters of the batch", x.len(), self.inputs)?;
                below("character", x, vocabulary)?;
            }
            (Inputs::Dense(_), Some(_)) => {
                return Err(EngineError::Inputs { expected: "characters", got: "numbers" });
            }
            (Inputs::Tokens(_), None) => {
                return Err(EngineError::Inputs { expected: "numbers", got: "characters" });
            }
        }
        length("labels of the batch", batch.labels.len(), self.predictions)?;
        below("label", &batch.labels, self.classes)?;
        Ok(batch.labels.len())
    }

    /// Cuts a checked batch.
    pub(super) fn shards<'a>(&self, batch: &'a Batch) -> Vec<Shard<'a>> {
        let (mut dense, mut tokens): (&[f32], &[u32]) = match &batch.inputs {
            Inputs::Dense(x) => (x, &[]),
            Inputs::Tokens(x) => (&[], x),
        };
        let mut labels = &batch.labels[..];
        let mut shards = Vec::new();
        for size in shards::sizes(batch.size, self.shard) {
            shards.push(Shard {
                size,
                dense: take(&mut dense, size * self.inputs),
                tokens: take(&mut tokens, size * self.inputs),
                labels: take(&mut labels, size * self.predictions),
            });
        }
        shards
    }
}

/// The next `n` elements, or what is left.
fn take<'a, T>(rest: &mut &'a [T], n: usize) -> &'a [T] {
    let (head, tail) = rest.split_at(n.min(rest.len()));
    *rest = tail;
    head
}

fn below(what: &'static str, values: &[u32], limit: usize) -> Result<(), EngineError> {
    match values.iter().position(|&v| v as usize >= limit) {
        Some(position) => Err(EngineError::Range { what, value: values[position], position, limit }),
        None => Ok(()),
    }
}

/// A network and what it asks of batches.
pub(super) type Fitted = (Box<dyn Network>, Task);

type Built = Result<Box<dyn Network>, EngineError>;

/// Registers the tensors of `spec` for `info` in `layout`; `None` is the bare vector.
pub(super) fn build(
    spec: &ModelSpec,
    info: &DataInfo,
    layout: &mut Layout,
) -> Result<Option<Fitted>, EngineError> {
    if let ModelSpec::Flat { parameters } = spec {
        layout.tensor("flat", &[*parameters], Init::Uniform(0.05));
        return Ok(None);
    }
    let network = network(spec, info, layout)?;
    let (vocabulary, inputs, predictions, classes) = match *info {
        DataInfo::Images { channels, height, width, classes } => {
            (None, channels * height * width, 1, classes)
        }
        DataInfo::Features { dimension, classes } => (None, dimension, 1, classes),
        DataInfo::Text { vocabulary, sequence } => (Some(vocabulary), sequence, sequence, vocabulary),
    };
    let task = Task { vocabulary, inputs, predictions, classes, shard: network.shard() };
    Ok(Some((network, task)))
}

fn network(spec: &ModelSpec, info: &DataInfo, layout: &mut Layout) -> Built {
    match spec {
        ModelSpec::Linear {} => linear::build(info, layout),
        ModelSpec::Mlp { hidden } => mlp::build(hidden, info, layout),
        ModelSpec::Lenet {} => lenet::build(info, layout),
        ModelSpec::Cnn {} => cnn::build(info, layout),
        ModelSpec::Resnet18Gn { stem } => resnet::build(*stem, info, layout),
        ModelSpec::CharLstm { embedding, hidden, layers } => {
            char_lstm::build([*embedding, *hidden, *layers], info, layout)
        }
        ModelSpec::CharGpt { width, heads, layers } => {
            char_gpt::build([*width, *heads, *layers], info, layout)
        }
        ModelSpec::Prompted { padding, base } => {
            prompted::wrap(network(base, info, layout), (*padding, info), layout)
        }
        ModelSpec::Flat { .. } => Err(unfit("flat", "a bare vector has no inputs")),
    }
}

/// Dimensions that multiply to something, none of them zero.
fn positive(model: &'static str, values: &[(&str, usize)]) -> Result<(), EngineError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(unfit(model, format!("{name} is 0; it must be at least 1"))),
        None => Ok(()),
    }
}

fn unfit(model: &'static str, reason: impl Into<String>) -> EngineError {
    EngineError::Unfit { model, reason: reason.into() }
}

/// Length of a flattened example and number of classes, for networks that take any dense input.
fn flat(model: &'static str, info: &DataInfo) -> Result<(usize, usize), EngineError> {
    let (dimension, classes) = match *info {
        DataInfo::Images { channels, height, width, classes } => (channels * height * width, classes),
        DataInfo::Features { dimension, classes } => (dimension, classes),
        DataInfo::Text { .. } => {
            return Err(unfit(model, "takes images or feature vectors, the data is text"));
        }
    };
    positive(model, &[("the input's dimension", dimension), ("the number of classes", classes)])?;
    Ok((dimension, classes))
}

/// The shape of image inputs.
#[derive(Debug, Clone, Copy)]
struct Image {
    channels: usize,
    height: usize,
    width: usize,
    classes: usize,
    /// Added to every image.
    prompt: Option<Prompt>,
}

impl Image {
    fn new(model: &'static str, info: &DataInfo) -> Result<Self, EngineError> {
        let DataInfo::Images { channels, height, width, classes } = *info else {
            let kind = if matches!(info, DataInfo::Text { .. }) { "text" } else { "feature vectors" };
            return Err(unfit(model, format!("takes images, the data is {kind}")));
        };
        positive(
            model,
            &[
                ("channels", channels),
                ("height", height),
                ("width", width),
                ("the number of classes", classes),
            ],
        )?;
        Ok(Self { channels, height, width, classes, prompt: None })
    }

    /// The shard's images, channels last, with the prompt if there is one.
    fn load(&self, params: &Params, shard: &Shard<'_>) -> tensor::Result<Tensor> {
        let Self { channels, height, width, .. } = *self;
        let size = channels * height * width;
        let mut values = Buffer::any(shard.dense.len());
        for (from, to) in shard.dense.chunks_exact(size).zip(values.chunks_exact_mut(size)) {
            super::ops::pool::transpose(from, to, height * width);
        }
        let images = Tensor::new(values, &[shard.size, height, width, channels]);
        match &self.prompt {
            Some(prompt) => prompt.add(params, &images),
            None => Ok(images),
        }
    }

    /// An image that is too small for `model`, whose smallest side is `least`.
    fn too_small(&self, model: &'static str, least: usize) -> EngineError {
        let Self { height, width, .. } = self;
        unfit(model, format!("needs images of at least {least}×{least}, these are {height}×{width}"))
    }
}

/// Vocabulary and sequence length of text.
fn text(model: &'static str, info: &DataInfo) -> Result<(usize, usize), EngineError> {
    let DataInfo::Text { vocabulary, sequence } = *info else {
        let kind = if matches!(info, DataInfo::Images { .. }) { "images" } else { "feature vectors" };
        return Err(unfit(model, format!("takes text, the data is {kind}")));
    };
    positive(model, &[("the vocabulary", vocabulary), ("the sequence length", sequence)])?;
    Ok((vocabulary, sequence))
}
