//! What can go wrong between a run file, a batch and the network.

/// Why the engine refused.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model cannot be built for this data, or its own keys contradict each other.
    #[error("model {model}: {reason}")]
    Unfit {
        /// The model's kind, as in the run file.
        model: &'static str,
        /// What does not fit, and what would.
        reason: String,
    },
    /// A vector has the wrong length.
    #[error("{what}: {got} values where {expected} were expected")]
    Length {
        /// Which vector.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length that it should have.
        expected: usize,
    },
    /// The batch holds no examples.
    #[error("the batch is empty; at least one example is needed")]
    EmptyBatch,
    /// The batch holds the other kind of inputs.
    #[error("the model takes {expected}, the batch holds {got}")]
    Inputs {
        /// What the model takes.
        expected: &'static str,
        /// What the batch holds.
        got: &'static str,
    },
    /// A label or character outside the known range.
    #[error("{what} {value} at position {position} of the batch; it must be below {limit}")]
    Range {
        /// Label or character.
        what: &'static str,
        /// The offending value.
        value: u32,
        /// Where it is.
        position: usize,
        /// The first value that is too large.
        limit: usize,
    },
    /// A safetensors file that is damaged, or not one of this model.
    #[error("weights file: {0}")]
    File(String),
    /// A clipping norm that is none.
    #[error("clipping norm {0}; it must be above 0 and finite")]
    Clip(f64),
    /// A GPU that refuses or cannot be used.
    #[error("GPU: {0}")]
    Device(String),
    /// Operands that do not fit each other: a mistake in a network.
    #[error("engine: {0}")]
    Kernel(String),
}
