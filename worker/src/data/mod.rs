//! Local data: loading, dividing, batching. Data never leaves this process.
//!
//! A `Source` is one entry of a configuration; it loads a `Split` as a `Dataset`, which hands out
//! `Batch`es. `partition` divides a data set among the clients of a simulation.

mod augment;
mod cifar;
mod csv;
mod dataset;
mod detect;
mod digits;
mod error;
mod folder;
mod idx;
mod images;
mod parquet;
mod partition;
mod picture;
mod random;
mod source;
mod text;

pub use dataset::{Dataset, Keys, Normalisation};
pub use detect::detect;
pub use error::DataError;
pub use partition::{matched, partition};
pub use random::{Rng, epoch_order, stream};
pub use source::{Source, TextKey};

/// Which half of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out.
    Test,
}

/// What a model must know of a data set: the shape of one input and the number of classes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DataInfo {
    /// `channels × height × width` images with one label each.
    Images {
        /// Colour planes.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Number of labels.
        classes: usize,
    },
    /// Feature vectors with one label each.
    Features {
        /// Length of a vector.
        dimension: usize,
        /// Number of labels.
        classes: usize,
    },
    /// Character sequences; the target at each position is the next character.
    Text {
        /// Size of the alphabet.
        vocabulary: usize,
        /// Characters in a sequence.
        sequence: usize,
    },
}

/// Inputs of one mini-batch, first dimension `size`.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// Row-major `size × (product of the input shape)`, already normalised.
    Dense(Vec<f32>),
    /// Row-major `size × sequence` character indices.
    Tokens(Vec<u32>),
}

/// One mini-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of examples (sequences, for text).
    pub size: usize,
    /// The inputs.
    pub inputs: Inputs,
    /// One label per example, or `size × sequence` next characters for text.
    pub labels: Vec<u32>,
}
