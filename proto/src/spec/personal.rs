//! `[personal]`: parts of the model that each worker keeps for itself, and the visual prompt of a model.

use super::{ModelSpec, RunSpec, SpecError, check::require};
use algorithms::{
    Algorithm,
    local::{LocalPlan, Update},
    personal::{Effort, Own, PERSONAL},
};
use serde::{Deserialize, Serialize};

/// Rules that cannot do with parts that are not shared, and why.
const SENSELESS: [(&str, &str); 1] =
    [("fedlada", "it divides by second moments that all workers must share")];

/// Which tensors stay with their worker, and how they are trained.
///
/// With `order = "joint"` in every step with the others: FedBN for normalisation layers (Li et al. 2021,
/// arXiv:2102.07623), FedPer for the last layers (Arivazhagan et al. 2019, arXiv:1912.00818), LG-FedAvg for
/// the first ones (Liang et al. 2020, arXiv:2001.01523). With `order = "alternate"` first they alone, then the
/// others alone: FedRep for the last layers (Collins et al. 2021, arXiv:2102.07078), pFedPT for the `prompt`
/// of a `prompted` model (Li et al. 2023, arXiv:2303.08678).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonalSpec {
    /// Names of tensors; `*` stands for any characters. None: the run is the one without this section.
    pub tensors: Vec<String>,
    /// When they are trained.
    #[serde(default)]
    pub order: Order,
    /// For `alternate`: passes over the data for the personal tensors; absent: as for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// For `alternate`: exact number of steps, instead of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// For `alternate`: learning rate, the same in every round; absent: that of the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f32>,
    /// For `alternate`: heavy-ball momentum, from rest in every round.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub momentum: f32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &f32) -> bool {
    *number == 0.0
}

/// When personal tensors are trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// In every step, with the others.
    #[default]
    Joint,
    /// First they alone, then the others alone.
    Alternate,
}

impl PersonalSpec {
    /// For `alternate`: how a step of the first part differs from plain SGD, where these are a worker's own.
    pub fn first(&self, own: &Own) -> LocalPlan {
        let update = match self.momentum {
            0.0 => Update::Sgd,
            momentum => Update::HeavyBall { momentum },
        };
        LocalPlan { update, frozen: Some(own.shared().clone()), ..LocalPlan::default() }
    }

    /// For `alternate`: how long and how fast the first part is.
    pub fn effort(&self) -> Effort {
        Effort { epochs: self.epochs, steps: self.steps, lr: self.lr }
    }
}

impl RunSpec {
    /// Whether each worker has a model of its own beside, or in parts of, the shared one.
    pub fn has_personal_models(&self, algorithm: &dyn Algorithm) -> bool {
        algorithm.effort().is_some() || self.keeps_parts()
    }

    /// Whether parts of the model are each worker's own.
    pub fn keeps_parts(&self) -> bool {
        self.personal.as_ref().is_some_and(|own| !own.tensors.is_empty())
    }

    /// Which parts of a model of these tensors (name and dimensions) are a worker's own.
    ///
    /// # Errors
    /// If a pattern matches none.
    pub fn own(&self, tensors: &[(String, Vec<usize>)]) -> Result<Option<Own>, SpecError> {
        let Some(personal) = &self.personal else { return Ok(None) };
        let length =
            |(name, dimensions): &(String, Vec<usize>)| (name.clone(), dimensions.iter().product::<usize>());
        Own::new(&personal.tensors, &tensors.iter().map(length).collect::<Vec<_>>())
            .map_err(|error| SpecError::new("personal.tensors", error.to_string()))
    }

    /// The personal tensors' part of a round that comes before the shared one, if there is one.
    pub fn first_part(&self) -> Option<&PersonalSpec> {
        self.personal.as_ref().filter(|own| own.order == Order::Alternate && !own.tensors.is_empty())
    }

    /// A personal run's part of the specification: its length in the place of the shared one's.
    #[must_use]
    pub fn for_effort(&self, effort: &Effort) -> Self {
        let mut spec = self.clone();
        if let Some(epochs) = effort.epochs {
            (spec.local.epochs, spec.local.steps) = (epochs, None);
        }
        if effort.steps.is_some() {
            spec.local.steps = effort.steps;
        }
        spec
    }

    pub(super) fn check_personal(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        if let ModelSpec::Prompted { padding, base } = &self.model {
            require((1..=64).contains(padding), "model.padding", || "expected 1 to 64".into())?;
            let nested = matches!(**base, ModelSpec::Prompted { .. });
            require(!nested, "model.base", || "a prompted model of a prompted one".into())?;
        }
        let local = self.privacy.is_some() && !self.has_central_noise();
        let personal = self.has_personal_models(algorithm);
        require(!(local && personal), "privacy.mechanism", || {
            let whose = if self.personal.is_some() { "[personal]" } else { &self.algorithm.kind };
            format!(
                "what workers pay for does not cover the personal models of `{whose}` in this version; use a mechanism \
                 of the coordinator, or leave them out"
            )
        })?;
        let Some(own) = &self.personal else { return Ok(()) };
        let alone = own.epochs.is_none() && own.steps.is_none() && own.lr.is_none() && own.momentum == 0.0;
        require(alone || own.order == Order::Alternate, "personal.order", || {
            "`epochs`, `steps`, `lr` and `momentum` are for `order = \"alternate\"`".into()
        })?;
        let counted = |count: Option<u32>| count.is_none_or(|count| count >= 1);
        require(counted(own.epochs) && counted(own.steps), "personal.steps", || {
            "expected at least 1".into()
        })?;
        require(own.lr.is_none_or(|lr| lr.is_finite() && lr > 0.0), "personal.lr", || {
            "expected a number above 0".into()
        })?;
        require((0.0..1.0).contains(&own.momentum), "personal.momentum", || "expected in [0, 1)".into())?;
        self.check_shared_parts(algorithm)
    }

    fn check_shared_parts(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let kind = &self.algorithm.kind;
        let base = self.algorithm.params.get("base").and_then(serde_json::Value::as_str);
        if let Some((_, why)) = SENSELESS.iter().find(|(name, _)| name == kind || base == Some(*name)) {
            return Err(SpecError::new(
                "algorithm.kind",
                format!("`{kind}` cannot keep parts personal: {why}"),
            ));
        }
        require(algorithm.effort().is_none(), "personal", || {
            format!(
                "`{kind}` has personal models of its own (`{PERSONAL}` in the client state); remove the section"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &str) -> Result<RunSpec, SpecError> {
        RunSpec::from_toml(&format!("name='p'\nrounds=1\n[data]\nname='digits'\n{section}"))
    }

    #[test]
    fn sections_are_read_and_survive_the_wire() {
        let spec = read(
            "[model]\nkind='prompted'\npadding=2\nbase={kind='cnn'}\n[personal]\ntensors=['prompt.*']\n\
             order='alternate'\nepochs=5\nlr=1.0\nmomentum=0.5\n",
        )
        .unwrap();
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        let algorithm = spec.algorithm.make().unwrap();
        assert!(spec.has_personal_models(algorithm.as_ref()) && spec.has_client_state(algorithm.as_ref()));
        let first = spec.for_effort(&spec.first_part().unwrap().effort());
        assert_eq!((first.local.epochs, first.local.steps), (5, None));
        let plain = read("[model]\nkind='cnn'\n[personal]\ntensors=[]\n").unwrap();
        assert!(!plain.has_client_state(plain.algorithm.make().unwrap().as_ref()));
        assert!(
            !read("[model]\nkind='cnn'\n").unwrap().to_json().contains("personal"),
            "older workers know no such key"
        );
    }

    #[test]
    fn mistakes_are_named() {
        const CNN: &str = "[model]\nkind='cnn'\n";
        let with = |rest: &str| read(&format!("{CNN}{rest}")).unwrap_err().to_string();
        for (rest, want) in [
            ("[personal]\ntensor=[]\n", "did you mean `tensors`"),
            ("[personal]\ntensors=['*']\nlr=1.0\n", "personal.order"),
            ("[personal]\ntensors=['*']\norder='alternate'\nlr=-1.0\n", "personal.lr"),
            ("[personal]\ntensors=['*']\norder='alternate'\nsteps=0\n", "personal.steps"),
            ("[personal]\ntensors=['*']\norder='alternate'\nmomentum=1.0\n", "personal.momentum"),
            ("[personal]\ntensors=['*']\n[algorithm]\nkind='fedlada'\n", "second moments"),
            ("[personal]\ntensors=['*']\n[algorithm]\nkind='ditto'\n", "of its own"),
        ] {
            let error = with(rest);
            assert!(error.contains(want), "{rest}: {error}");
        }
        let error = read("[model]\nkind='prompted'\npadding=0\nbase={kind='cnn'}\n").unwrap_err().to_string();
        assert!(error.contains("model.padding"), "{error}");
    }
}
