//! What the machine must know of a run file.

use super::Millis;
use algorithms::cohort::draw::Sampler;
use proto::spec::{AsyncSpec, RunSpec};
use serde::{Deserialize, Serialize};

/// Without progress for so long a worker is stuck, or for half of a deadline that is shorter. A step
/// of the largest model here takes seconds, and reports come between steps.
const STUCK: Millis = 30_000;

/// What the machine must know of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The run's seed.
    pub seed: u64,
    /// Rounds to commit.
    pub rounds: u64,
    /// Share of the eligible workers in a cohort.
    pub fraction: Option<f64>,
    /// Number of workers in a cohort.
    pub size: Option<usize>,
    /// A round commits with at least so many updates.
    pub min_updates: usize,
    /// The first round opens with at least so many workers.
    pub min_workers: usize,
    /// From opening to deadline.
    pub deadline_ms: Millis,
    /// A connected worker without progress for so long is stuck.
    pub stuck_ms: Millis,
    /// How long a lost worker is waited for.
    pub rejoin_ms: Millis,
    /// Rejections in a row until a worker is quarantined; 0: never.
    pub quarantine_after: u32,
    /// Federated evaluation after every so many rounds; 0: never.
    pub federated_every: u64,
    /// How long federated evaluation waits.
    pub evaluation_ms: Millis,
    /// Rounds get noise, for which each opening has a secret.
    pub noised: bool,
    /// Each worker is in a cohort with this probability, drawn in secret.
    pub rate: Option<f64>,
    /// How a cohort is drawn; `None`: uniformly.
    pub sampler: Option<Sampler>,
    /// Most rounds that count one worker, and the smallest distance of two of them.
    pub cap: Option<(u64, u64)>,
    /// How updates are taken in without rounds that anybody waits for.
    pub flow: Option<AsyncSpec>,
}

impl From<&RunSpec> for Rules {
    fn from(spec: &RunSpec) -> Self {
        Self {
            seed: spec.seed,
            rounds: spec.rounds,
            fraction: spec.cohort.fraction,
            size: spec.cohort.size,
            min_updates: spec.cohort.min_updates,
            min_workers: spec.cohort.min_workers.max(spec.cohort.min_updates),
            deadline_ms: spec.cohort.deadline_s * 1_000,
            stuck_ms: STUCK.min(spec.cohort.deadline_s * 500),
            rejoin_ms: spec.cohort.rejoin_s * 1_000,
            quarantine_after: spec.vetting.quarantine_after,
            federated_every: if spec.evaluation.federated { spec.evaluation.every } else { 0 },
            evaluation_ms: spec.evaluation.deadline_s * 1_000,
            noised: spec.has_central_noise(),
            rate: spec.secret_rate(),
            sampler: spec.cohort.sampler,
            flow: spec.asynchronous,
            cap: spec
                .privacy
                .as_ref()
                .and_then(privacy::PrivacySpec::participation)
                .map(|cap| (cap.most.get(), cap.separation.get())),
        }
    }
}
