//! Local data: loading, dividing, batching. Data never leaves this process.

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
