//! What a run file with a `[privacy]` section must satisfy besides: whatever would make the promise
//! untrue is refused by name.

use super::{RunSpec, SpecError, check::require};
use algorithms::{Algorithm, fold::Scale};
use privacy::{RunFacts, Sampling, spec::MechanismKind};
use std::num::NonZeroU64;

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
        RunFacts {
            rounds: whole(self.rounds),
            parameters: whole(algorithm.upload(length).iter().map(|(_, length)| *length as u64).sum()),
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
        require(population.is_some_and(|n| (1..=1_000_000_000).contains(&n)), "cohort.population", || {
            "expected the number of clients of the federation, 1 to 1,000,000,000: a private mean is divided by \
             a number that is fixed before the run"
                .into()
        })?;
        require(!self.evaluation.federated, "evaluation.federated", || {
            "workers' scores are not paid for from the privacy budget; expected `false` in a private run"
                .into()
        })?;
        self.check_mechanism(privacy)?;
        self.check_rule(algorithm)
    }

    fn check_mechanism(&self, privacy: &privacy::PrivacySpec) -> Result<(), SpecError> {
        use MechanismKind as Kind;
        let local = matches!(privacy.mechanism(), Kind::LocalGaussian | Kind::DpSgd);
        require(!local, "privacy.mechanism", || {
            "workers do not add noise themselves in this version; use `central_gaussian`, \
             `central_discrete_gaussian`, `dp_ftrl`, `distributed_discrete_gaussian` or `skellam`"
                .into()
        })?;
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
        if let Some((_, why)) = SENSELESS.iter().find(|(name, _)| name == kind) {
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
        let by_examples = self.algorithm.params.get("weighting").and_then(serde_json::Value::as_str);
        require(by_examples != Some("examples"), "algorithm.weighting", || {
            "a private mean weighs all clients alike; expected `uniform`".into()
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
