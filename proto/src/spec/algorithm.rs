//! `[algorithm]`: a name of the registry, and keys that the rule itself checks.

use super::SpecError;
use crate::nearest;
use algorithms::Algorithm;
use serde::{Deserialize, Serialize};

/// The algorithm's name; its own keys follow and are checked by the algorithm itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlgorithmSpec {
    /// Name of a rule in `algorithms/src/rules/`.
    pub kind: String,
    /// The rule's own keys.
    #[serde(flatten)]
    pub params: serde_json::Map<String, serde_json::Value>,
}

impl AlgorithmSpec {
    /// Builds the algorithm, or says which key is wrong.
    pub fn make(&self) -> Result<Box<dyn Algorithm>, SpecError> {
        algorithms::make(&self.kind, &self.params).map_err(|error| {
            let known = algorithms::rules::RULES.iter().map(|rule| rule.name);
            let text = nearest::explain(&error.to_string());
            match (error, nearest::nearest(&self.kind, known)) {
                (algorithms::ParamError::Unknown { .. }, Some(near)) => {
                    SpecError::new("algorithm.kind", format!("{text} (did you mean `{near}`?)"))
                }
                _ => SpecError::new("algorithm", text),
            }
        })
    }
}

impl Default for AlgorithmSpec {
    fn default() -> Self {
        Self { kind: "fedavg".into(), params: serde_json::Map::new() }
    }
}
