//! What a run file with a `[privacy]` section must satisfy besides: whatever would make the promise
//! untrue is refused by name.

use super::{ModelSpec, RunSpec, SpecError, check::require};
use algorithms::{Algorithm, fold::Scale, local::Probe};
use privacy::{Adjacency, PrivacySpec, RunFacts, Sampling, spec::MechanismKind};
use std::{num::NonZeroU64, sync::Arc};

/// Rules whose uploads lose their sense under noise, and why.
const SENSELESS: [(&str, &str); 1] = [("fedlada", "it uploads second moments, which noise makes negative")];

impl RunSpec {
    /// Whether the coordinator clips, sums and adds noise.
    pub fn has_central_noise(&self) -> bool {
        use MechanismKind as Kind;
        self.privacy.as_ref().is_some_and(|privacy| {
            matches!(
                privacy.mechanism(),
                Kind::CentralGaussian | Kind::CentralDiscreteGaussian | Kind::DpFtrl
            )
        })
    }

    /// Whether each worker adds the noise itself, before anything leaves it.
    pub fn has_local_noise(&self) -> bool {
        self.privacy.as_ref().is_some_and(|privacy| privacy.mechanism().is_local())
    }

    /// The probability with which each client is drawn in secret, if the guarantee counts on it.
    pub fn secret_rate(&self) -> Option<f64> {
        match self.privacy.as_ref().filter(|_| self.has_central_noise())?.sampling() {
            Sampling::Poisson { rate } => Some(rate.get()),
            _ => None,
        }
    }

    /// The fixed denominator of a private mean: the number of clients that a round expects, `q·N`.
    pub fn expected_clients(&self) -> f64 {
        let population = self.cohort.population.unwrap_or(1) as f64;
        let share = self.secret_rate().or(self.cohort.fraction);
        match self.cohort.size {
            Some(size) => size as f64,
            None => population * share.unwrap_or(1.0),
        }
    }

    /// What the plan of a private run depends on, for a model of `length` scalars.
    pub fn privacy_facts(&self, algorithm: &dyn Algorithm, length: usize) -> RunFacts {
        let whole = |number: u64| NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN);
        let steps = self.privacy.as_ref().is_some_and(|p| p.mechanism() == MechanismKind::DpSgd);
        // What is clipped: a gradient, or all that is uploaded.
        let parameters = if steps {
            length as u64
        } else {
            algorithm.upload(length).iter().map(|(_, length)| *length as u64).sum()
        };
        RunFacts {
            rounds: whole(self.rounds),
            parameters: whole(parameters),
            clients: whole(self.expected_clients().round() as u64),
            local_steps: whole(self.local.steps.unwrap_or(1).into()),
        }
    }

    pub(super) fn check_privacy(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let population = self.cohort.population;
        let Some(privacy) = &self.privacy else {
            return require(population.is_none(), "cohort.population", || {
                "only a private run (one with a `[privacy]` section) divides by it".into()
            });
        };
        require(!self.evaluation.federated, "evaluation.federated", || {
            "workers' scores are not paid for from the privacy budget; expected `false` in a private run"
                .into()
        })?;
        self.check_weighting()?;
        if self.has_local_noise() {
            require(population.is_none(), "cohort.population", || {
                "where workers add the noise, a mean is divided by the updates that came; leave the key out"
                    .into()
            })?;
            return match privacy.mechanism() {
                MechanismKind::DpSgd => self.check_steps(privacy, algorithm),
                _ => self.check_rule(algorithm),
            };
        }
        require(population.is_some_and(|n| (1..=1_000_000_000).contains(&n)), "cohort.population", || {
            "expected the number of clients of the federation, 1 to 1,000,000,000: a private mean is divided by \
             a number that is fixed before the run"
                .into()
        })?;
        self.check_mechanism(privacy)?;
        self.check_rule(algorithm)
    }

    /// What makes the steps of DP-SGD all that a worker's records are used for.
    fn check_steps(&self, privacy: &PrivacySpec, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let kind = &self.algorithm.kind;
        let drawn = matches!(privacy.sampling(), Sampling::Poisson { .. } | Sampling::Everyone);
        require(drawn, "privacy.sampling", || {
            "workers draw the records of a step by `poisson` or take `everyone`".into()
        })?;
        require(privacy.adjacency() != Adjacency::AddRemove, "privacy.adjacency", || {
            "a step is divided by the number of a worker's records, which is therefore taken as known: \
             `zero_out` or `replace_one`"
                .into()
        })?;
        require(self.local.steps.is_some(), "local.steps", || {
            "`dp_sgd` pays by the step: expected `steps`".into()
        })?;
        require(!self.data.augment, "data.augment", || {
            "the draws of one record would change with the records before it; expected `false` with `dp_sgd`"
                .into()
        })?;
        require(!matches!(self.model, ModelSpec::Flat { .. }), "model.kind", || {
            "`flat` has no gradient that `dp_sgd` could clip".into()
        })?;
        // What a rule asks of a worker shows in a plan; one made of zeros has the shape of all.
        let down = algorithms::fresh_server(algorithm, Arc::new(vec![0.0]));
        let plan = algorithm.plan(&down, &algorithms::Vectors::new());
        require(matches!(plan.probe, Probe::Here | Probe::Fixed(_)), "algorithm.kind", || {
            format!(
                "`{kind}` takes two gradients of the same records in a step, of which `dp_sgd` pays for one; use a \
                 rule with one, such as `fedavg`, `fedprox`, `scaffold`, `feddyn` or `fedlesam`"
            )
        })?;
        require(!plan.start_loss, "algorithm.kind", || {
            format!("`{kind}` uploads the loss of its records, which `dp_sgd` does not pay for")
        })
    }

    fn check_weighting(&self) -> Result<(), SpecError> {
        let by_examples = self.algorithm.params.get("weighting").and_then(serde_json::Value::as_str);
        require(by_examples != Some("examples"), "algorithm.weighting", || {
            "a private mean weighs all clients alike; expected `uniform`".into()
        })
    }

    fn check_mechanism(&self, privacy: &PrivacySpec) -> Result<(), SpecError> {
        self.check_shares(privacy)?;
        let sampling = privacy.sampling();
        let drawn = matches!(sampling, Sampling::Poisson { .. });
        require(drawn || sampling == Sampling::Everyone, "privacy.sampling", || {
            "the coordinator draws by `poisson` or takes `everyone`; fixed sizes are accounted for by \
             `starling privacy`, but not drawn in this version"
                .into()
        })?;
        if self.secret_rate().is_none() {
            return Ok(());
        }
        let cohort = &self.cohort;
        require(cohort.fraction.is_none() && cohort.size.is_none(), "cohort", || {
            "`privacy.sampling` draws the cohort; leave `fraction` and `size` out".into()
        })?;
        require(cohort.min_updates == 1, "cohort.min_updates", || {
            "a round whose cohort is drawn in secret closes with whatever arrives, or the draw would be \
             changed by who is there; leave the key out"
                .into()
        })
    }

    fn check_rule(&self, algorithm: &dyn Algorithm) -> Result<(), SpecError> {
        let kind = &self.algorithm.kind;
        let refuse =
            |why: &str| Err(SpecError::new("algorithm.kind", format!("`{kind}` cannot be private: {why}")));
        let base = self.algorithm.params.get("base").and_then(serde_json::Value::as_str);
        if let Some((_, why)) = SENSELESS.iter().find(|(name, _)| name == kind || base == Some(*name)) {
            return refuse(why);
        }
        if !algorithm.mirrored().is_empty() {
            return refuse(
                "the server must know the exact mean of its clients' states, which clipping and noise would \
                 break for ever",
            );
        }
        // For a model of more than one scalar: what has another length is a scalar.
        if let Some((name, _)) = algorithm.upload(2).iter().find(|(_, length)| *length != 2) {
            return refuse(&format!(
                "it uploads the scalar `{name}`, which noise on the scale of the norm drowns"
            ));
        }
        require(!(algorithm.needs_everyone() && self.secret_rate().is_some()), "algorithm.kind", || {
            format!("`{kind}` needs every worker in every round, and `privacy.sampling` draws some")
        })?;
        let folds = algorithm.folds();
        let by_steps = folds.iter().any(|fold| fold.scale != Scale::One);
        require(!by_steps || self.local.steps.is_some(), "local.steps", || {
            format!(
                "`{kind}` divides by the number of steps, which must be the same for all clients: expected `steps`"
            )
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STEPS: &str = "name='p'\nrounds=5\nmodel={kind='linear'}\ndata={name='d'}\nlocal={steps=3}\n\
        [algorithm]\nkind='fedavg'\n[privacy]\nunit='record'\nadjacency='zero_out'\nmechanism='dp_sgd'\n\
        clip_norm=1.0\nepsilon=2.0\ndelta=1e-5\nsampling={kind='poisson',rate=0.1}\n";

    #[test]
    fn rules_that_dp_sgd_does_not_pay_for_are_refused_by_name() {
        let mut refused = BTreeSet::new();
        for rule in algorithms::rules::RULES {
            let text = STEPS.replace("'fedavg'", &format!("'{}'", rule.name));
            if let Err(error) = RunSpec::from_toml(&text) {
                assert!(error.to_string().contains(&format!("`{}`", rule.name)), "{error}");
                refused.insert(rule.name);
            }
        }
        let want = [
            "afedpdsam",
            "ditto",
            "fedgamma",
            "fedsam",
            "fedslr",
            "fedsmoo",
            "fedspeed",
            "mofedsam",
            "qfedavg",
        ];
        assert_eq!(refused, BTreeSet::from(want));
    }

    #[test]
    fn what_would_make_noise_on_workers_worth_less_is_refused() {
        let local = STEPS.replace("'record'", "'client'").replace("'dp_sgd'", "'local_gaussian'");
        let local = local
            .replace("'zero_out'", "'replace_one'")
            .replace("kind='poisson',rate=0.1", "kind='everyone'");
        RunSpec::from_toml(&local).unwrap();
        for (text, from, to, want) in [
            (STEPS, "local={steps=3}", "local={epochs=3}", "local.steps"),
            (STEPS, "'zero_out'", "'add_remove'", "privacy.adjacency"),
            (STEPS, "data={name='d'}", "data={name='d',augment=true}", "data.augment"),
            (STEPS, "{kind='linear'}", "{kind='flat',parameters=3}", "model.kind"),
            (STEPS, "[algorithm]", "[cohort]\npopulation=9\n[algorithm]", "cohort.population"),
            (STEPS, "[algorithm]", "[evaluation]\nfederated=true\n[algorithm]", "evaluation.federated"),
            (STEPS, "kind='fedavg'", "kind='fedavg'\nweighting='examples'", "algorithm.weighting"),
            (STEPS, "kind='poisson',rate=0.1", "kind='fixed_size',population=9,sample=2", "privacy.sampling"),
            (&local, "'fedavg'", "'scaffold'", "algorithm.kind"),
            (&local, "'fedavg'", "'fednova'", "algorithm.kind"),
            (&local, "'fedavg'", "'fedlada'", "algorithm.kind"),
            (&local, "kind='fedavg'", "kind='fedinit'\nbase='fedlada'", "algorithm.kind"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = RunSpec::from_toml(&changed).unwrap_err().to_string();
            assert!(error.starts_with(want), "{to}: {error}");
        }
        // Several rounds of one client, several records of a step: both are counted.
        let capped = STEPS.to_owned() + "participation={most=2,separation=2}\n";
        let spec = RunSpec::from_toml(&capped).unwrap();
        assert_eq!(RunSpec::from_json(&spec.to_json()).unwrap(), spec);
        let algorithm = spec.algorithm.make().unwrap();
        let plan = spec.privacy.as_ref().unwrap().plan(spec.privacy_facts(algorithm.as_ref(), 10)).unwrap();
        let count = |event: Option<privacy::Event>| event.map(|event| event.count.get());
        assert_eq!((count(plan.before), count(plan.own)), (Some(6), Some(3)));
    }
}
