//! What happens in a run, as a log that people, programs and metrics read: the operator's only truth.

use crate::digest::Digest;
use algorithms::evaluation::{Calibration, Confusion, Spread};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One event of a run. Serialised as JSON with the key `event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The run was accepted.
    Submitted {
        /// The run's name.
        name: String,
    },
    /// No round can open.
    Waiting {
        /// Eligible workers that are connected.
        eligible: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A round began.
    RoundOpened {
        /// The round, from 0.
        round: u64,
        /// Who takes part.
        cohort: Vec<String>,
        /// Seconds until its deadline.
        deadline_s: u64,
    },
    /// An update was counted.
    UpdateApplied {
        /// The round.
        round: u64,
        /// Whose.
        worker: String,
        /// Its weight.
        examples: u64,
        /// Mean training loss.
        train_loss: Option<f64>,
        /// Seconds of training.
        seconds: f64,
    },
    /// An update is in the buffer of a run without rounds: durable, and part of the version that is open.
    /// With the versions' models these lines say all that a model is a function of.
    UpdateBuffered {
        /// The open version.
        round: u64,
        /// Whose.
        worker: String,
        /// The version that it was trained on.
        version: u64,
        /// Versions between the two.
        staleness: u64,
        /// What it counts for that: `s(τ)`, or `α s(τ)`.
        weight: f64,
        /// Its weight in the mean.
        examples: u64,
        /// Mean training loss.
        train_loss: Option<f64>,
        /// Seconds of training.
        seconds: f64,
        /// Of its values as they were read.
        digest: Digest,
        /// Updates in the buffer with it.
        buffered: usize,
        /// Updates that make a version.
        buffer_size: usize,
    },
    /// An update was not counted, and why.
    UpdateRejected {
        /// The round that it was for.
        round: u64,
        /// Whose.
        worker: String,
        /// From the closed list.
        reason: String,
        /// What exactly.
        detail: String,
    },
    /// A worker cannot take part in the round.
    WorkerDeclined {
        /// The round.
        round: u64,
        /// Who.
        worker: String,
        /// From the closed list.
        reason: String,
        /// What exactly.
        detail: String,
    },
    /// A cohort member's connection is lost.
    WorkerLost {
        /// The round.
        round: u64,
        /// Who.
        worker: String,
    },
    /// A cohort member is back.
    WorkerReturned {
        /// The round.
        round: u64,
        /// Who.
        worker: String,
    },
    /// A connected cohort member makes no progress.
    WorkerStuck {
        /// The round.
        round: u64,
        /// Who.
        worker: String,
        /// Seconds since it was asked or last moved.
        seconds: u64,
    },
    /// The round's deadline passed without these workers.
    Late {
        /// The round.
        round: u64,
        /// Who.
        workers: Vec<String>,
        /// Those of them that are connected and make no progress; the others are slow, or lost.
        #[serde(default)]
        stuck: Vec<String>,
    },
    /// The deadline passed with too few updates; the round goes on with substitutes.
    RoundShort {
        /// The round.
        round: u64,
        /// Updates counted so far.
        updates: usize,
        /// How many are needed.
        needed: usize,
        /// Workers asked in addition.
        substitutes: Vec<String>,
    },
    /// A worker may not send updates until an operator releases it.
    Quarantined {
        /// Who.
        worker: String,
        /// Rejections in a row.
        rejections: u32,
    },
    /// A round is durable.
    RoundCommitted {
        /// The round.
        round: u64,
        /// Updates counted.
        participants: usize,
        /// Digest of the new model.
        model_digest: Digest,
    },
    /// The line of `metrics.jsonl` of a round: published when its evaluation is done.
    RoundMetrics {
        /// The line.
        metrics: Metrics,
    },
    /// An operator paused the run.
    Paused {},
    /// An operator resumed it, or the coordinator restarted.
    Resumed {
        /// The round that goes on.
        round: u64,
    },
    /// All rounds are committed.
    Finished {
        /// Rounds committed.
        rounds: u64,
        /// Digest of the final model.
        model_digest: Digest,
    },
    /// An operator cancelled the run.
    Cancelled {},
    /// The privacy budget is spent; the last committed model stands.
    Exhausted {
        /// Rounds committed.
        rounds: u64,
        /// What the gate said.
        reason: String,
        /// Digest of the final model.
        model_digest: Digest,
    },
    /// The run cannot go on.
    Failed {
        /// Why.
        reason: String,
    },
}

impl RunEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Finished { .. } | Self::Cancelled {} | Self::Failed { .. } | Self::Exhausted { .. }
        )
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The round, from 0.
    pub round: u64,
    /// Seconds from opening to commit.
    pub seconds: f64,
    /// Updates counted; 0, as the next and the bytes, where a private run does not tell who took part.
    pub participants: usize,
    /// Updates rejected during the round.
    pub rejected: usize,
    /// Mean training loss of the counted updates, by examples.
    pub train_loss: Option<f64>,
    /// Mean loss on the coordinator's held-out set.
    pub eval_loss: Option<f64>,
    /// Share of right predictions on the coordinator's held-out set.
    pub eval_accuracy: Option<f64>,
    /// Mean loss on the workers' held-out sets, by predictions.
    pub federated_loss: Option<f64>,
    /// Share of right predictions on the workers' held-out sets.
    pub federated_accuracy: Option<f64>,
    /// How the workers fare, each on its own held-out set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Box<ClientScores>>,
    /// Payload bytes sent to workers in the round.
    pub bytes_down: u64,
    /// Payload bytes received from workers in the round.
    pub bytes_up: u64,
    /// How good the averages of the model are that the run keeps (`ema`, `swa`), where the model was evaluated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub averages: BTreeMap<String, AverageMetrics>,
    /// Privacy spent so far; null: the run has no privacy guarantee.
    pub epsilon: Option<f64>,
    /// How old updates were and how fast they came; only in a run without rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<Asynchrony>,
    /// Digest of the model after the round.
    pub model_digest: Digest,
}

/// How the workers fare that evaluated a model, each on its own held-out set. Numbers over workers alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientScores {
    /// Accuracy, every worker counted alike.
    pub accuracy: Spread,
    /// Mean loss, every worker counted alike.
    pub loss: Spread,
    /// The same of personal models, in a run that has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<PersonalScores>,
    /// Top-1 calibration over all predictions, if the run asks for details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Who was taken for whom over all predictions, if the run asks for details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

/// How personal models do, each on its worker's held-out set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonalScores {
    /// Share of right predictions, by predictions.
    pub mean_accuracy: f64,
    /// Mean loss, by predictions.
    pub mean_loss: f64,
    /// Accuracy, every worker counted alike.
    pub accuracy: Spread,
    /// Mean loss, every worker counted alike.
    pub loss: Spread,
}

/// How good an average of the model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct AverageMetrics {
    /// Mean loss on the coordinator's held-out set.
    pub eval_loss: Option<f64>,
    /// Share of right predictions there.
    pub eval_accuracy: Option<f64>,
}

/// What a line says of a version that a buffer made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asynchrony {
    /// How many updates were how many versions behind: (staleness, updates), in order.
    pub staleness: Vec<(u64, usize)>,
    /// Its mean.
    pub mean_staleness: f64,
    /// Its largest.
    pub max_staleness: u64,
    /// Workers that were training when the version was committed.
    pub training: usize,
    /// Updates counted in a second, over the time in which the version was open.
    pub updates_per_s: f64,
}
