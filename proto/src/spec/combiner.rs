//! `[combiner]`: how the updates of a round become one, and `[attack]`: who lies, in a simulation.

use super::{RunSpec, SpecError, check::require};
use algorithms::{
    Algorithm,
    combine::{Combiner, Needs, attacks::Attack},
    fold::{Fold, Weighting},
};
use serde::{Deserialize, Serialize};

type Keys = serde_json::Map<String, serde_json::Value>;

/// What lying clients do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttackKind {
    /// They send a vector made of what honest ones would have sent.
    Forge(Attack),
    /// They train on labels turned round: of C classes, y becomes C − 1 − y.
    LabelFlip,
}

/// The attack's `kind` and its own keys, and `fraction`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct AttackSpec {
    /// What they do.
    pub kind: AttackKind,
    /// Share of the clients that lie, at least 0 and below 1; rounded to whole clients.
    pub fraction: f64,
}

const LABEL_FLIP: &str = "label-flip";

impl TryFrom<Keys> for AttackSpec {
    type Error = String;

    fn try_from(mut keys: Keys) -> Result<Self, String> {
        let fraction = keys.remove("fraction").ok_or("attack: missing field `fraction`")?;
        let fraction =
            fraction.as_f64().ok_or_else(|| format!("`fraction` is {fraction}, expected a number"))?;
        let kind = if keys.get("kind").is_some_and(|kind| kind == LABEL_FLIP) {
            if let Some(key) = keys.keys().find(|key| *key != "kind") {
                return Err(format!("attack: unknown field `{key}`, `{LABEL_FLIP}` has `fraction` alone"));
            }
            AttackKind::LabelFlip
        } else {
            let forged = serde_json::from_value(keys.into());
            AttackKind::Forge(forged.map_err(|error| format!("attack: {error}, or `{LABEL_FLIP}`"))?)
        };
        Ok(Self { kind, fraction })
    }
}

impl From<AttackSpec> for Keys {
    fn from(spec: AttackSpec) -> Self {
        let keys = match spec.kind {
            AttackKind::LabelFlip => Ok(serde_json::json!({ "kind": LABEL_FLIP })),
            AttackKind::Forge(attack) => serde_json::to_value(attack),
        };
        let mut keys = keys.ok().and_then(|keys| keys.as_object().cloned()).unwrap_or_default();
        keys.insert("fraction".into(), spec.fraction.into());
        keys
    }
}

impl RunSpec {
    /// Folds as the combiner weighs them.
    pub(super) fn weighed(&self, mut folds: Vec<Fold>) -> Vec<Fold> {
        if self.combiner == Some(Combiner::Mean {}) {
            for fold in &mut folds {
                fold.weighting = Weighting::Uniform;
            }
        }
        folds
    }

    /// The combiner, if it must see all updates of a round at once.
    pub fn spooled(&self) -> Option<Combiner> {
        self.combiner.filter(|combiner| combiner.needs() != Needs::Each)
    }

    pub(super) fn check_combiner(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        if let Some(AttackSpec { fraction, .. }) = self.attack {
            require((0.0..1.0).contains(&fraction), "attack.fraction", || {
                format!("{fraction}, expected at least 0 and below 1")
            })?;
            require(self.compression.is_none(), "attack", || {
                "what liars would send through a compressor is not simulated; remove `[compression]`".into()
            })?;
        }
        let Some(combiner) = self.combiner else { return Ok(()) };
        combiner.check().map_err(|error| SpecError::new("combiner", error.to_string()))?;
        require(self.privacy.is_none(), "combiner", || {
            "a private run is paid for as a sum of clipped updates; remove one of the two sections".into()
        })?;
        let (needed, least) = (combiner.needed(), self.cohort.min_updates);
        require(least >= needed, "cohort.min_updates", || {
            format!("{least}, but the combiner needs at least {needed} updates in every round")
        })?;
        if matches!(combiner, Combiner::Mean {} | Combiner::WeightedMean {}) {
            return Ok(());
        }
        let kind = &self.algorithm.kind;
        let refuse = |why: &str| Err(SpecError::new("combiner", format!("not with `{kind}`: {why}")));
        if !algorithm.mirrored().is_empty() || !algorithm.recalled().is_empty() {
            return refuse("its server must follow the exact mean of its clients' states; use `mean`");
        }
        // For a model of more than one scalar: what has another length is a scalar.
        if let Some((name, _)) = algorithm.upload(2).iter().find(|(_, length)| *length != 2) {
            return refuse(&format!("`{name}` belongs to each update and cannot be combined by itself"));
        }
        Ok(())
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
    fn sections_survive_the_wire() {
        for section in [
            "[combiner]\nkind='median'",
            "[combiner]\nkind='krum'\nbyzantine=1\n[cohort]\nmin_updates=5",
            "[attack]\nkind='alie'\nfraction=0.2",
            "[attack]\nkind='label-flip'\nfraction=0.0",
            "[attack]\nkind='sign-flip'\nscale=2.0\nfraction=0.1",
        ] {
            let spec = read(section).unwrap();
            assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec, "{section}");
        }
        let error = read("[attack]\nkind='alie'\nfraction=0.2").unwrap().for_coordinator().unwrap_err();
        assert!(error.to_string().contains("starling simulate"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        for (section, want) in [
            ("[combiner]\nkind='trimed-mean'", "did you mean `trimmed-mean`"),
            ("[combiner]\nkind='trimmed-mean'\ntrim=0.5", "`trim`"),
            ("[combiner]\nkind='krum'\nbyzantine=2\n[cohort]\nmin_updates=6", "at least 7 updates"),
            ("[combiner]\nkind='median'\n[algorithm]\nkind='scaffold'", "not with `scaffold`"),
            ("[combiner]\nkind='median'\n[algorithm]\nkind='afedpd'", "not with `afedpd`"),
            ("[combiner]\nkind='norm-bounded'\nbound=1.0\n[algorithm]\nkind='fednova'", "`steps`"),
            ("[attack]\nkind='aliee'\nfraction=0.1", "did you mean `alie`"),
            ("[attack]\nkind='label-flip'\nfraction=0.1\nscale=2.0", "unknown field `scale`"),
            ("[attack]\nkind='alie'", "`fraction`"),
            ("[attack]\nkind='alie'\nfraction=1.0", "below 1"),
            ("[attack]\nkind='alie'\nfraction=0.1\n[compression]\nkind='f16'", "not simulated"),
        ] {
            let error = read(section).unwrap_err().to_string();
            assert!(error.contains(want), "{section}: {error}");
        }
    }
}
