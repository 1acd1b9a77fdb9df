//! Reading a run file, and everything that can be wrong with one: found before the run is accepted,
//! because a run that fails in its third hour over a typing error was accepted by mistake.

use super::{Mode, ModelSpec, PartitionSpec, RunSpec};
use crate::{limits, names::RunId, nearest};
use algorithms::{cohort::draw::Sampler, fold};

/// What is wrong with a run file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct SpecError {
    /// The key, dotted, or `run file`.
    pub key: String,
    /// What was wrong and what was expected.
    pub detail: String,
}

impl SpecError {
    /// An error about a key.
    pub fn new(key: &str, detail: impl Into<String>) -> Self {
        Self { key: key.to_owned(), detail: detail.into() }
    }
}

pub(super) fn require(holds: bool, key: &str, detail: impl FnOnce() -> String) -> Result<(), SpecError> {
    if holds { Ok(()) } else { Err(SpecError::new(key, detail())) }
}

impl RunSpec {
    /// Reads and checks a run file.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        require(text.len() <= limits::SPEC_BYTES, "run file", || {
            format!("{} bytes, at most {} are read", text.len(), limits::SPEC_BYTES)
        })?;
        let spec: Self =
            toml::from_str(text).map_err(|e| SpecError::new("run file", nearest::explain(&e.to_string())))?;
        spec.check()?;
        Ok(spec)
    }

    /// Reads and checks a specification in its wire form.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        let spec: Self = serde_json::from_str(text)
            .map_err(|e| SpecError::new("specification", nearest::explain(&e.to_string())))?;
        spec.check()?;
        Ok(spec)
    }

    /// Refuses a run that has no use for a coordinator, or that only a simulation may do.
    pub fn for_coordinator(self) -> Result<Self, SpecError> {
        require(self.mode == Mode::Federated, "mode", || {
            "a decentralised run needs no coordinator: start `starling peer --config FILE` on each machine"
                .into()
        })?;
        require(!matches!(self.cohort.sampler, Some(Sampler::Diverse { .. })), "cohort.sampler", || {
            "a coordinator does not know its workers' labels: `diverse` is for `starling simulate FILE`"
                .into()
        })?;
        require(self.attack.is_none(), "attack", || {
            "liars are for simulations: `starling simulate FILE`; remove the section to train for real".into()
        })?;
        require(self.stragglers.is_none(), "stragglers", || {
            "a coordinator's workers are as fast as they are: `starling simulate FILE`; remove the section to \
             train for real"
                .into()
        })?;
        Ok(self)
    }

    /// The wire form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a run file has string keys and finite numbers only")
    }

    /// Checks everything that can be checked without data or workers.
    pub fn check(&self) -> Result<(), SpecError> {
        self.name.parse::<RunId>().map_err(|error| SpecError::new("name", error.to_string()))?;
        require(self.name.len() <= 48, "name", || "expected at most 48 characters".into())?;
        require(self.topology.is_none() || self.mode == Mode::Decentralised, "topology", || {
            "topologies belong to runs of mode `decentralised`".into()
        })?;
        require((1..=10_000_000).contains(&self.rounds), "rounds", || {
            format!("{} is out of range, expected 1 to 10,000,000", self.rounds)
        })?;
        if self.mode == Mode::Decentralised {
            require(self.personal.is_none(), "personal", || {
                "peers mix whole models in this version; the section belongs to federated runs".into()
            })?;
            require(self.compression.is_none(), "compression", || {
                "peers exchange whole models in this version; the section belongs to federated runs".into()
            })?;
            require(self.stragglers.is_none(), "stragglers", || {
                "expected in federated simulations only".into()
            })?;
            require(self.combiner.is_none() && self.attack.is_none(), "combiner", || {
                "peers mix by their topology; `[combiner]` and `[attack]` belong to federated runs".into()
            })?;
            require(self.average.is_none(), "average", || {
                "a coordinator keeps averages of its model, and peers have none; the section belongs to federated \
                 runs"
                    .into()
            })?;
            require(self.asynchronous.is_none(), "async", || {
                "peers wait as `topology.barrier` says; the section belongs to federated runs".into()
            })?;
            self.mixing()?;
            self.check_private_peers()?;
            self.check_model()?;
            self.check_data()?;
            return self.check_local();
        }
        let algorithm = self.algorithm.make()?;
        let partial =
            self.cohort.fraction.is_some_and(|fraction| fraction < 1.0) || self.cohort.size.is_some();
        require(!(algorithm.needs_everyone() && partial), "cohort", || {
            let kind = &self.algorithm.kind;
            format!("`{kind}` needs every worker in every round; leave `fraction` and `size` out")
        })?;
        self.check_model()?;
        self.check_data()?;
        self.check_local()?;
        self.check_cohort()?;
        self.check_async(algorithm.as_ref())?;
        self.check_stragglers()?;
        self.check_privacy(algorithm.as_ref())?;
        self.check_personal(algorithm.as_ref())?;
        self.check_compression()?;
        self.check_combiner(algorithm.as_ref())?;
        require(!self.evaluation.details || self.evaluation.federated, "evaluation.details", || {
            "details are what workers tell of their own data; set `federated = true`, too".into()
        })?;
        require(!self.evaluation.matched || self.evaluation.federated, "evaluation.matched", || {
            "it says on what workers evaluate; set `federated = true`, too".into()
        })?;
        if let Some(averages) = &self.average {
            averages.check(self.rounds).map_err(|detail| SpecError::new("average", detail))?;
        }
        require(self.vetting.max_norm.is_none_or(|norm| norm > 0.0), "vetting.max_norm", || {
            "expected a number above 0".into()
        })
    }

    fn check_model(&self) -> Result<(), SpecError> {
        let wide = |width: usize| (1..=65_536).contains(&width);
        let range = || "expected 1 to 65,536".to_owned();
        match &self.model {
            ModelSpec::Mlp { hidden } => {
                require(hidden.len() <= 64 && hidden.iter().all(|&h| wide(h)), "model.hidden", range)
            }
            ModelSpec::CharLstm { embedding, hidden, layers } => {
                require(wide(*embedding) && wide(*hidden), "model.hidden", range)?;
                require((1..=16).contains(layers), "model.layers", || "expected 1 to 16".into())
            }
            ModelSpec::CharGpt { width, heads, layers } => {
                require(wide(*width), "model.width", range)?;
                require(*heads >= 1 && width % heads == 0, "model.heads", || {
                    format!("{heads} heads do not divide a width of {width}")
                })?;
                require((1..=128).contains(layers), "model.layers", || "expected 1 to 128".into())
            }
            ModelSpec::Flat { parameters } => {
                let known = (1..=limits::PARAMETERS_MAX).contains(&(*parameters as u64));
                require(known, "model.parameters", || format!("expected 1 to {}", limits::PARAMETERS_MAX))
            }
            ModelSpec::Prompted { .. } => Ok(()),
            ModelSpec::Linear {} | ModelSpec::Lenet {} | ModelSpec::Cnn {} | ModelSpec::Resnet18Gn { .. } => {
                Ok(())
            }
        }
    }

    fn check_data(&self) -> Result<(), SpecError> {
        self.data.name.parse::<RunId>().map_err(|e| SpecError::new("data.name", e.to_string()))?;
        require((2..=65_536).contains(&self.data.sequence), "data.sequence", || {
            "expected 2 to 65,536".into()
        })?;
        match self.data.partition {
            Some(PartitionSpec::Dirichlet { alpha, .. }) => {
                require(alpha.is_finite() && alpha > 0.0, "data.partition.alpha", || {
                    "expected above 0".into()
                })
            }
            Some(PartitionSpec::Pathological { classes }) => {
                require(classes > 0, "data.partition.classes", || "expected at least 1".into())
            }
            Some(PartitionSpec::Size { exponent }) => {
                require(exponent.is_finite() && exponent >= 0.0, "data.partition.exponent", || {
                    "expected at least 0".into()
                })
            }
            Some(PartitionSpec::Iid {} | PartitionSpec::Natural {}) | None => Ok(()),
        }
    }

    fn check_cohort(&self) -> Result<(), SpecError> {
        let cohort = &self.cohort;
        require(cohort.fraction.is_none() || cohort.size.is_none(), "cohort", || {
            "`fraction` and `size` exclude each other".into()
        })?;
        require(cohort.fraction.is_none_or(|f| f > 0.0 && f <= 1.0), "cohort.fraction", || {
            "expected in (0, 1]".into()
        })?;
        let size = 1..=fold::UPLOADS_MAX;
        require(cohort.size.is_none_or(|n| size.contains(&n)), "cohort.size", || {
            format!("expected 1 to {}", fold::UPLOADS_MAX)
        })?;
        require(size.contains(&cohort.min_updates), "cohort.min_updates", || {
            format!("expected 1 to {}", fold::UPLOADS_MAX)
        })?;
        require(cohort.size.is_none_or(|n| cohort.min_updates <= n), "cohort.min_updates", || {
            "more than the cohort's size: no round could ever commit".into()
        })?;
        self.check_sampler()?;
        require(cohort.min_workers >= 1, "cohort.min_workers", || "expected at least 1".into())?;
        require((1..=31_536_000).contains(&cohort.deadline_s), "cohort.deadline_s", || {
            "expected 1 second to a year".into()
        })
    }
}

impl RunSpec {
    fn check_sampler(&self) -> Result<(), SpecError> {
        let wrong = |detail: &str| Err(SpecError::new("cohort.sampler", detail));
        let size = self.cohort.size;
        match self.cohort.sampler {
            None | Some(Sampler::Uniform {}) => return Ok(()),
            Some(_) if self.privacy.is_some() => {
                return wrong("`privacy.sampling` draws the cohort of a private run; leave the key out");
            }
            Some(Sampler::Poisson { .. }) => {
                return wrong("`poisson` is what private runs draw by: `privacy.sampling`");
            }
            Some(Sampler::PowerOfChoice { candidates } | Sampler::Diverse { candidates, .. }) => {
                if size.is_none_or(|size| size > candidates) {
                    return wrong("expected `cohort.size`, and at least as many `candidates`");
                }
            }
            Some(Sampler::WithReplacement {} | Sampler::SizeWeighted {}) => {}
        }
        let partial = size.is_some() || self.cohort.fraction.is_some();
        require(partial, "cohort.sampler", || {
            "where all take part nobody is drawn: give `size` or `fraction`".into()
        })?;
        let repeats = self.cohort.sampler == Some(Sampler::WithReplacement {});
        require(!repeats || self.cohort.min_updates == 1, "cohort.min_updates", || {
            "a cohort that is drawn with replacement may be one worker, several times; leave the key out"
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "mnist-scaffold"
        rounds = 20
        seed = 7
        [model]
        kind = "lenet"
        [data]
        name = "mnist"
        partition = { kind = "dirichlet", alpha = 0.3 }
        [algorithm]
        kind = "scaffold"
        [local]
        lr = 0.05
        lr_decay = 0.998
        [cohort]
        fraction = 0.1
        min_updates = 2
    "#;

    #[test]
    fn a_run_file_survives_the_wire() {
        let spec = RunSpec::from_toml(GOOD).unwrap();
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        assert_eq!(spec.local.batch, 50);
        assert_eq!(spec.lr(0), 0.05);
        assert!((f64::from(spec.lr(10)) - 0.05 * 0.998_f64.powi(10)).abs() < 1e-6);
    }

    #[test]
    fn a_schedule_and_a_warm_start_make_the_learning_rate() {
        let keys = "lr_decay = 1.0\nwarmup = 4\nschedule = { kind = \"cosine\" }";
        let spec = RunSpec::from_toml(&GOOD.replacen("lr_decay = 0.998", keys, 1)).unwrap();
        let near = |round, want: f32| assert!((spec.lr(round) - want).abs() < 1e-7, "{}", spec.lr(round));
        // A fifth in round 0; half-way of the 16 rounds after the start; almost nothing in the last.
        near(0, 0.01);
        near(4, 0.05);
        near(12, 0.025);
        assert!(spec.lr(19) > 0.0 && spec.lr(19) < 0.001);
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, want) in [
            ("rounds = 20", "rouns = 20", "did you mean `rounds`"),
            ("rounds = 20", "rounds = 0", "rounds"),
            ("rounds = 20", "rounds = 20\nmode = \"decentralised\"", "[topology]"),
            ("kind = \"lenet\"", "kind = \"lennet\"", "did you mean `lenet`"),
            ("kind = \"scaffold\"", "kind = \"scafold\"", "did you mean `scaffold`"),
            ("kind = \"scaffold\"", "kind = \"scaffold\"\nserver_rl = 1.0", "expected `server_lr`"),
            ("lr = 0.05", "lr = -1.0", "local.lr"),
            ("lr = 0.05", "learning = 0.1", "unknown field `learning`"),
            ("lr = 0.05", "lr = 0.05\nwarmup = 20", "local.warmup"),
            ("lr = 0.05", "lr = 0.05\nschedule = { kind = \"step\", every = 0, factor = 0.5 }", "`every`"),
            ("lr = 0.05", "lr = 0.05\nschedule = { kind = \"cosin\" }", "did you mean `cosine`"),
            (
                "lr = 0.05",
                "lr = 0.05\nschedule = { kind = \"constant\", floor = 1.0 }",
                "unknown field `floor`",
            ),
            (
                "fraction = 0.1",
                "fraction = 0.1\nsampler = { kind = \"poisson\", probability = 0.1 }",
                "privacy.sampling",
            ),
            (
                "fraction = 0.1",
                "size = 5\nsampler = { kind = \"power-of-choice\", candidates = 4 }",
                "at least as many",
            ),
            ("fraction = 0.1", "sampler = { kind = \"size-weighted\" }", "nobody is drawn"),
            (
                "fraction = 0.1",
                "fraction = 0.1\nsampler = { kind = \"with-replacement\" }",
                "drawn with replacement",
            ),
            ("[cohort]", "[average]\n[cohort]", "`ema`, `swa` or both"),
            ("[cohort]", "[average]\nema = { decay = 1.0 }\n[cohort]", "average: `ema.decay` is 1"),
            ("[cohort]", "[average]\nswa = { start = 20 }\n[cohort]", "average: `swa.start` is 20"),
            ("[cohort]", "[average]\nswa = { strat = 2 }\n[cohort]", "did you mean `start`"),
            ("[cohort]", "[averages]\nswa = { start = 2 }\n[cohort]", "did you mean `average`"),
            ("fraction = 0.1", "fraction = 0.1\nsize = 3", "exclude"),
            ("fraction = 0.1", "size = 1", "no round could ever commit"),
            ("alpha = 0.3", "alpha = 0.0", "data.partition.alpha"),
            ("alpha = 0.3", "alpha = 0.3, classes = 2", "classes"),
            ("[cohort]", "[privacy]\nepsilon = 1.0\n[cohort]", "missing field `unit`"),
            ("[cohort]", "[cohort]\npopulation = 3", "only a private run"),
            ("[cohort]", "[evaluation]\ndetails = true\n[cohort]", "evaluation.details"),
            ("[cohort]", "[evaluation]\nmatched = true\n[cohort]", "evaluation.matched"),
            ("name = \"mnist-scaffold\"", "name = \"a/b\"", "run id"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = RunSpec::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
    }
}
