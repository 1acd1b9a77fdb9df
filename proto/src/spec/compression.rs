//! `[compression]`: how updates are made smaller on their way to the coordinator; and that what is personal is
//! left out there.

use super::{RunSpec, SpecError, check::require};
use algorithms::{
    Algorithm,
    compress::{Compressor, Packing},
};
use serde::{Deserialize, Serialize};

type Keys = serde_json::Map<String, serde_json::Value>;

/// Rules whose uploads lose their sense when a part of them is put off to later rounds, and why.
const SENSELESS: [(&str, &str); 1] =
    [("fedlada", "it uploads second moments, which must not become negative or zero")];

/// The compressor's `kind` and its own keys, and `feedback`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct CompressionSpec {
    /// How a vector of the model's length is made smaller.
    pub compressor: Compressor,
    /// Whether a worker adds what was lost to its next update. By default where something is lost, and not
    /// where the compressor is unbiased by itself (`random-k` with `unbiased`).
    pub feedback: bool,
}

impl TryFrom<Keys> for CompressionSpec {
    type Error = String;

    fn try_from(mut keys: Keys) -> Result<Self, String> {
        let feedback = match keys.remove("feedback") {
            None => None,
            Some(serde_json::Value::Bool(feedback)) => Some(feedback),
            Some(other) => return Err(format!("`feedback` is {other}, expected true or false")),
        };
        let compressor: Compressor =
            serde_json::from_value(keys.into()).map_err(|error| format!("compression: {error}"))?;
        let lossy = !matches!(compressor, Compressor::None {} | Compressor::RandomK { unbiased: true, .. });
        Ok(Self { compressor, feedback: feedback.unwrap_or(lossy) })
    }
}

impl From<CompressionSpec> for Keys {
    fn from(spec: CompressionSpec) -> Self {
        let keys = serde_json::to_value(spec.compressor);
        let mut keys = keys.ok().and_then(|keys| keys.as_object().cloned()).unwrap_or_default();
        keys.insert("feedback".into(), spec.feedback.into());
        keys
    }
}

impl RunSpec {
    /// Whether a worker keeps something between rounds: the algorithm's client state, a personal model, or what
    /// compression lost.
    pub fn has_client_state(&self, algorithm: &dyn Algorithm) -> bool {
        algorithm.has_client_state()
            || self.has_personal_models(algorithm)
            || self.compression.is_some_and(|compression| compression.feedback)
    }

    /// Whether uploads travel otherwise than as they are: compressed, or without what is a worker's own. In a
    /// private run all of it travels, since what is promised is of sums of whole uploads.
    pub fn packs_uploads(&self) -> bool {
        self.compression.is_some() || (self.keeps_parts() && self.privacy.is_none())
    }

    /// How uploads travel, if not as they are, for a model of these tensors (name and dimensions).
    ///
    /// # Errors
    /// If a key is out of its range, or names no tensor.
    pub fn packing(
        &self,
        algorithm: &dyn Algorithm,
        tensors: &[(String, Vec<usize>)],
    ) -> Result<Option<Packing>, SpecError> {
        let own = self.own(tensors)?;
        if !self.packs_uploads() {
            return Ok(None);
        }
        let CompressionSpec { compressor, feedback } =
            self.compression.unwrap_or(CompressionSpec { compressor: Compressor::None {}, feedback: false });
        let shapes: Vec<Vec<usize>> = tensors.iter().map(|(_, dimensions)| dimensions.clone()).collect();
        let length = shapes.iter().map(|dimensions| dimensions.iter().product::<usize>()).sum();
        let packing = Packing::new((compressor, feedback), algorithm.upload(length), &shapes)
            .map_err(|error| SpecError::new("compression", error.to_string()))?;
        Ok(Some(match own {
            Some(own) => packing.without(own),
            None => packing,
        }))
    }

    pub(super) fn check_compression(&self) -> Result<(), SpecError> {
        let Some(CompressionSpec { compressor, feedback }) = self.compression else { return Ok(()) };
        compressor.check().map_err(|error| SpecError::new("compression", error.to_string()))?;
        let unbiased = matches!(compressor, Compressor::RandomK { unbiased: true, .. });
        require(!(unbiased && feedback), "compression.feedback", || {
            "what `unbiased` multiplies by d/k would be given back a second time; leave one of them out"
                .into()
        })?;
        require(self.privacy.is_none(), "compression", || {
            "a private run checks the norm of exactly what its clients clipped, and pays for one round of it: \
             compression changes the norm, and its feedback carries a client's past rounds into later ones; \
             remove one of the two sections"
                .into()
        })?;
        let base = self.algorithm.params.get("base").and_then(serde_json::Value::as_str);
        let names = [Some(self.algorithm.kind.as_str()), base];
        match SENSELESS.iter().find(|(name, _)| names.contains(&Some(*name))) {
            Some((name, why)) => {
                Err(SpecError::new("compression", format!("`{name}` cannot be compressed: {why}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &str) -> Result<RunSpec, SpecError> {
        RunSpec::from_toml(&format!(
            "name='c'\nrounds=1\n[model]\nkind='linear'\n[data]\nname='digits'\n{section}"
        ))
    }

    #[test]
    fn a_section_survives_the_wire() {
        for (section, compressor, feedback) in [
            ("kind='int8'", Compressor::Int8 { block: 256 }, true),
            ("kind='top-k'\nratio=0.1\nfeedback=false", Compressor::TopK { ratio: 0.1 }, false),
            (
                "kind='random-k'\nratio=0.1\nunbiased=true",
                Compressor::RandomK { ratio: 0.1, unbiased: true },
                false,
            ),
            ("kind='none'", Compressor::None {}, false),
        ] {
            let spec = read(&format!("[compression]\n{section}")).unwrap();
            assert_eq!(spec.compression, Some(CompressionSpec { compressor, feedback }));
            assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        }
        assert!(!read("").unwrap().to_json().contains("compression"), "older workers know no such key");
    }

    #[test]
    fn mistakes_are_named() {
        for (section, want) in [
            ("[compression]\nkind='lowrank'", "did you mean `low-rank`"),
            ("[compression]\nkind='int8'\nblok=3", "did you mean `block`"),
            ("[compression]\nkind='int8'\nblock=0", "`block`"),
            ("[compression]\nkind='top-k'", "ratio"),
            ("[compression]\nkind='top-k'\nratio=0.1\nfeedback='yes'", "expected true or false"),
            ("[compression]\nkind='random-k'\nratio=0.1\nunbiased=true\nfeedback=true", "second time"),
            ("[compression]\nkind='sign'\n[algorithm]\nkind='fedlada'", "second moments"),
            ("[compression]\nkind='sign'\n[algorithm]\nkind='fedinit'\nbase='fedlada'", "second moments"),
            (
                "[compression]\nkind='f16'\n[cohort]\npopulation=9\n[privacy]\nunit='client'\nadjacency='zero_out'\n\
                 mechanism='central_gaussian'\nclip_norm=0.5\nepsilon=2.0\ndelta=1e-5\nsampling={kind='poisson',rate=0.2}",
                "remove one of the two",
            ),
        ] {
            let error = read(section).unwrap_err().to_string();
            assert!(error.contains(want), "{section}: {error}");
        }
    }
}
