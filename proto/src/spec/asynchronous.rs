//! The `[async]` section: a run whose coordinator does not wait for a cohort. Workers train on whatever
//! model was the newest when they were asked, and a version of the model is committed whenever enough
//! updates have come.
//!
//! What cannot be right without rounds that everybody sees the same way is refused here, with the reason,
//! rather than trained wrongly for a week.

use super::{AttackKind, AttackSpec, RunSpec, SpecError, check::require};
use algorithms::{
    Algorithm,
    combine::{Needs, attacks::Attack},
    fold,
    staleness::Staleness,
};
use serde::{Deserialize, Serialize};

/// How updates are taken in as they come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum AsyncSpec {
    /// Updates are buffered; a full buffer moves the model by the mean of its staleness-weighted updates
    /// (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", 2022).
    FedBuff {
        /// Updates that make a version, K.
        #[serde(default = "ten")]
        buffer_size: usize,
        /// Workers that train at the same time; absent: all that are there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
        /// What an update counts that was trained on an older version.
        #[serde(default)]
        staleness: Staleness,
        /// An older update is refused.
        #[serde(default = "hundred")]
        max_staleness: u64,
    },
    /// Each update is mixed into the model at once (Xie, Koyejo and Gupta, "Asynchronous Federated
    /// Optimization", 2019).
    FedAsync {
        /// Share of a fresh local model in the mix.
        #[serde(default = "alpha")]
        alpha: f64,
        /// Workers that train at the same time; absent: all that are there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
        /// What multiplies `alpha` for a model that was trained on an older version.
        #[serde(default)]
        staleness: Staleness,
        /// An older update is refused.
        #[serde(default = "hundred")]
        max_staleness: u64,
    },
}

fn ten() -> usize {
    10
}
fn hundred() -> u64 {
    100
}
fn alpha() -> f64 {
    0.6
}

impl AsyncSpec {
    /// Updates that make a version.
    pub fn buffer_size(&self) -> usize {
        match *self {
            Self::FedBuff { buffer_size, .. } => buffer_size,
            Self::FedAsync { .. } => 1,
        }
    }

    /// Workers that train at the same time, if that is bounded.
    pub fn concurrency(&self) -> Option<usize> {
        let (Self::FedBuff { concurrency, .. } | Self::FedAsync { concurrency, .. }) = *self;
        concurrency
    }

    /// Versions that an update may be behind.
    pub fn max_staleness(&self) -> u64 {
        let (Self::FedBuff { max_staleness, .. } | Self::FedAsync { max_staleness, .. }) = *self;
        max_staleness
    }

    /// What an update counts that is so many versions behind: `s(τ)`, or `α s(τ)`.
    pub fn weight(&self, staleness: u64) -> f64 {
        match *self {
            Self::FedBuff { staleness: of, .. } => of.weight(staleness),
            Self::FedAsync { alpha, staleness: of, .. } => alpha * of.weight(staleness),
        }
    }

    fn check(&self) -> Result<(), SpecError> {
        let uploads = 1..=fold::UPLOADS_MAX;
        require(uploads.contains(&self.buffer_size()), "async.buffer_size", || {
            format!("expected 1 to {}", fold::UPLOADS_MAX)
        })?;
        require(self.concurrency().is_none_or(|n| n >= 1), "async.concurrency", || {
            "expected at least 1; leave the key out to let all train".into()
        })?;
        let (Self::FedBuff { staleness, .. } | Self::FedAsync { staleness, .. }) = self;
        staleness.check().map_err(|(key, expected)| {
            SpecError::new("async.staleness", format!("`{key}`: expected {expected}"))
        })?;
        if let Self::FedAsync { alpha, .. } = *self {
            require(alpha > 0.0 && alpha <= 1.0, "async.alpha", || "expected above 0, at most 1".into())?;
        }
        Ok(())
    }
}

impl RunSpec {
    pub(super) fn check_async(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let Some(section) = &self.asynchronous else { return Ok(()) };
        section.check()?;
        let cohort = &self.cohort;
        for (key, given) in [
            ("fraction", cohort.fraction.is_some()),
            ("size", cohort.size.is_some()),
            ("sampler", cohort.sampler.is_some()),
            ("population", cohort.population.is_some()),
        ] {
            require(!given, &format!("cohort.{key}"), || {
                "an asynchronous run draws no cohorts: `async.concurrency` says how many train at the same time"
                    .into()
            })?;
        }
        require(cohort.min_updates <= section.buffer_size(), "cohort.min_updates", || {
            format!("more than the buffer's {}: no version could ever be committed", section.buffer_size())
        })?;
        require(self.privacy.is_none(), "async", || {
            "not with `[privacy]`: what was proved holds for rounds whose members are drawn independently of \
             how fast they are, and whose sum is released once; remove one of the two sections"
                .into()
        })?;
        require(!self.evaluation.federated, "evaluation.federated", || {
            "the workers of an asynchronous run never rest together; evaluate on the coordinator's held-out set"
                .into()
        })?;
        let conspire = matches!(
            self.attack,
            Some(AttackSpec {
                kind: AttackKind::Forge(Attack::Alie { .. } | Attack::InnerProduct { .. }),
                ..
            })
        );
        require(!conspire, "attack", || {
            "those that conspire know every honest update of a round, and an asynchronous run has none".into()
        })?;
        self.check_async_rule(algorithm)?;
        self.check_async_combiner()
    }

    fn check_async_rule(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let refuse =
            |why: &str| Err(SpecError::new("async", format!("not with `{}`: {why}", self.algorithm.kind)));
        if algorithm.needs_everyone() {
            return refuse("it needs every worker in every round");
        }
        if algorithm.has_client_state() {
            return refuse(
                "its workers keep state that belongs to the round of their update, and the server's mean of it \
                 would be of many rounds",
            );
        }
        if self.has_personal_models(algorithm) {
            return refuse("personal parts are state of a round; leave `[personal]` out");
        }
        if self.has_client_state(algorithm) {
            return refuse("error feedback of the compression is state of a round; set `feedback = false`");
        }
        if !algorithm.down().is_empty() || !algorithm.recalled().is_empty() {
            return refuse("what workers receive beside the model belongs to the round before");
        }
        if algorithm.upload(2) != [("delta", 2)] {
            return refuse("its updates are more than a change of the model, which staleness can weigh");
        }
        let mixes = matches!(self.asynchronous, Some(AsyncSpec::FedAsync { .. }));
        if mixes && !algorithm.server_vectors().is_empty() {
            return refuse("`fedasync` mixes models and has no use for a server's optimiser; use `fedbuff`");
        }
        Ok(())
    }

    fn check_async_combiner(&self) -> Result<(), SpecError> {
        let Some(combiner) = self.combiner else { return Ok(()) };
        let refuse = |why: &str| Err(SpecError::new("combiner", format!("not with `[async]`: {why}")));
        if combiner.needs() != Needs::Each {
            return refuse(
                "it compares updates of one round, and those of a buffer were trained on different models",
            );
        }
        if matches!(self.asynchronous, Some(AsyncSpec::FedAsync { .. })) {
            return refuse("`fedasync` mixes one model at a time; there is nothing to combine");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &str) -> Result<RunSpec, SpecError> {
        RunSpec::from_toml(&format!(
            "name='a'\nrounds=9\n[model]\nkind='linear'\n[data]\nname='digits'\n{section}"
        ))
    }

    #[test]
    fn a_section_survives_the_wire() {
        let given = "[async]\nkind='fedbuff'\nbuffer_size=3\nconcurrency=5\nmax_staleness=7\n\
                     staleness={kind='hinge',a=10.0,b=4}";
        let spec = read(given).unwrap();
        let staleness = Staleness::Hinge { a: 10.0, b: 4 };
        let want = AsyncSpec::FedBuff { buffer_size: 3, concurrency: Some(5), staleness, max_staleness: 7 };
        assert_eq!(spec.asynchronous, Some(want));
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        let bare = read("[async]\nkind='fedasync'").unwrap().asynchronous.unwrap();
        assert_eq!((bare.buffer_size(), bare.concurrency(), bare.max_staleness()), (1, None, 100));
        assert!((bare.weight(3) - 0.3).abs() < 1e-12);
        let polynomial = read("[async]\nkind='fedbuff'\nstaleness={kind='polynomial',exponent=1.0}").unwrap();
        assert_eq!(polynomial.asynchronous.unwrap().weight(3), 0.25);
        assert!(!read("").unwrap().to_json().contains("async"), "older workers know no such key");
    }

    #[test]
    fn what_does_not_combine_is_refused_by_name() {
        for (section, want) in [
            ("kind='fedbuf'", "did you mean `fedbuff`"),
            ("kind='fedbuff'\nbuffersize=3", "unknown field `buffersize`"),
            ("kind='fedbuff'\nbuffer_size=0", "async.buffer_size"),
            ("kind='fedbuff'\nconcurrency=0", "async.concurrency"),
            ("kind='fedbuff'\nstaleness={kind='polynomial',exponent=-1.0}", "`exponent`"),
            ("kind='fedasync'\nalpha=0.0", "async.alpha"),
            ("kind='fedasync'\nbuffer_size=2", "unknown field `buffer_size`"),
            ("kind='fedbuff'\n[cohort]\nsize=3", "async.concurrency"),
            ("kind='fedbuff'\nbuffer_size=2\n[cohort]\nmin_updates=3", "no version could ever"),
            ("kind='fedbuff'\n[algorithm]\nkind='scaffold'", "not with `scaffold`: its workers keep state"),
            ("kind='fedbuff'\n[algorithm]\nkind='fedcm'", "not with `fedcm`: what workers receive"),
            ("kind='fedbuff'\n[algorithm]\nkind='fednova'", "not with `fednova`: its updates are more"),
            ("kind='fedbuff'\n[algorithm]\nkind='fedpd'", "not with `fedpd`: it needs every worker"),
            ("kind='fedasync'\n[algorithm]\nkind='fedadam'", "use `fedbuff`"),
            ("kind='fedbuff'\n[combiner]\nkind='median'", "different models"),
            ("kind='fedasync'\n[combiner]\nkind='norm-bounded'\nbound=1.0", "nothing to combine"),
            ("kind='fedbuff'\n[compression]\nkind='int8'", "feedback = false"),
            ("kind='fedbuff'\n[attack]\nkind='alie'\nfraction=0.2", "a round"),
            ("kind='fedbuff'\n[evaluation]\nfederated=true", "never rest together"),
            (
                "kind='fedbuff'\n[privacy]\nunit='client'\nadjacency='zero_out'\nmechanism='central_gaussian'\n\
                 clip_norm=0.5\nepsilon=2.0\ndelta=1e-5\nsampling={kind='poisson',rate=0.2}",
                "[privacy]",
            ),
        ] {
            let error = read(&format!("[async]\n{section}")).unwrap_err().to_string();
            assert!(error.contains(want), "{section}: {error}");
        }
        for section in [
            "kind='fedbuff'\n[algorithm]\nkind='fedadam'",
            "kind='fedbuff'\n[algorithm]\nkind='fedsam'",
            "kind='fedbuff'\n[combiner]\nkind='norm-bounded'\nbound=1.0",
            "kind='fedbuff'\n[compression]\nkind='int8'\nfeedback=false",
            "kind='fedasync'\n[algorithm]\nkind='fedprox'",
        ] {
            read(&format!("[async]\n{section}")).unwrap();
        }
    }
}
