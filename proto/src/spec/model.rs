//! `[model]`: which network is trained, with its own keys.

use serde::{Deserialize, Serialize};

/// The network and its own keys.
///
/// Inputs come from the data set: images are `channels × height × width`, text is a sequence of
/// character indices. Parameter names and layouts are PyTorch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ModelSpec {
    /// Multinomial logistic regression.
    Linear {},
    /// Fully connected with ReLU.
    Mlp {
        /// Widths of the hidden layers.
        #[serde(default = "default_hidden")]
        hidden: Vec<usize>,
    },
    /// LeNet-5 with ReLU and max pooling.
    Lenet {},
    /// Two 5×5 convolutions (32, 64) with max pooling and a hidden layer of 512 (McMahan et al. 2017).
    Cnn {},
    /// ResNet-18 with group norm instead of batch norm.
    #[serde(rename = "resnet18-gn")]
    Resnet18Gn {
        /// The first convolution.
        #[serde(default)]
        stem: Stem,
    },
    /// Character-level LSTM that predicts the next character at each position.
    CharLstm {
        /// Width of the character embedding.
        #[serde(default = "default_embedding")]
        embedding: usize,
        /// Width of the hidden state.
        #[serde(default = "default_lstm_hidden")]
        hidden: usize,
        /// Stacked layers.
        #[serde(default = "default_lstm_layers")]
        layers: usize,
    },
    /// Character-level decoder-only transformer (GPT-2's block, learned positions).
    CharGpt {
        /// Width of the residual stream.
        #[serde(default = "default_gpt_width")]
        width: usize,
        /// Attention heads; must divide `width`.
        #[serde(default = "default_gpt_heads")]
        heads: usize,
        /// Blocks.
        #[serde(default = "default_gpt_layers")]
        layers: usize,
    },
    /// Another model that sees its images with a trainable frame added to them: a visual prompt.
    Prompted {
        /// Width of the frame, in pixels.
        #[serde(default = "default_padding")]
        padding: usize,
        /// The model.
        base: Box<ModelSpec>,
    },
    /// A bare vector that no step changes: for measuring the round without training.
    Flat {
        /// Number of scalars.
        parameters: usize,
    },
}

/// First convolution of `resnet18-gn`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3×3, stride 1, no pooling, no bias in the last layer (FedSLR).
    #[default]
    Cifar,
    /// 7×7, stride 2, then 3×3 max pooling, torchvision's ImageNet stem (FL-Simulator).
    Imagenet,
}

fn default_padding() -> usize {
    2
}
fn default_hidden() -> Vec<usize> {
    vec![200, 200]
}
fn default_embedding() -> usize {
    8
}
fn default_lstm_hidden() -> usize {
    256
}
fn default_lstm_layers() -> usize {
    2
}
fn default_gpt_width() -> usize {
    128
}
fn default_gpt_heads() -> usize {
    4
}
fn default_gpt_layers() -> usize {
    4
}
