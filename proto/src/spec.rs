//! The run file: what one run trains, on which data, by which algorithm and under which limits.
//!
//! One schema serves the file that a person writes (TOML), the record that the coordinator keeps and
//! the assignment that a worker receives (JSON), so that the three cannot drift apart. Unknown keys
//! are errors that name the nearest known key, because a misspelt `clip` that is silently ignored
//! costs a week of training.

use algorithms::{average::Averages, cohort::draw::Sampler, combine::Combiner};
use serde::{Deserialize, Serialize};

mod algorithm;
mod asynchronous;
mod check;
mod combiner;
mod compression;
mod local;
mod method;
mod model;
mod personal;
mod private;
mod private_peers;
mod shares;
mod stragglers;
mod topology;

pub use algorithm::AlgorithmSpec;
pub use asynchronous::AsyncSpec;
pub use check::SpecError;
pub use combiner::{AttackKind, AttackSpec};
pub use compression::CompressionSpec;
pub use local::{ClipMode, LocalSpec};
pub use model::{ModelSpec, Stem};
pub use personal::{Order, PersonalSpec};
pub use shares::SHARES;
pub use stragglers::StragglerSpec;
pub use topology::{BarrierSpec, Mixing, TopologySpec};

/// A run as a person writes it. See `deploy/samples/run.toml` for every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// What people call the run; letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// Where the aggregation happens.
    #[serde(default)]
    pub mode: Mode,
    /// How many rounds are committed before the run is finished; at least 1.
    pub rounds: u64,
    /// Everything random in the run derives from this number.
    #[serde(default)]
    pub seed: u64,
    /// The network that is trained.
    pub model: ModelSpec,
    /// The data set, by the name that workers know it by.
    pub data: DataSpec,
    /// The algorithm and its hyper-parameters.
    #[serde(default)]
    pub algorithm: AlgorithmSpec,
    /// Local training on a worker.
    #[serde(default)]
    pub local: LocalSpec,
    /// Who takes part in a round, and how long a round may last.
    #[serde(default)]
    pub cohort: CohortSpec,
    /// When and on what the global model is evaluated.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
    /// Averages of the global model over rounds, which are evaluated and exported beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Averages>,
    /// What an update must satisfy before it is counted.
    #[serde(default)]
    pub vetting: VettingSpec,
    /// Parts of the model that each worker keeps for itself; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<PersonalSpec>,
    /// How updates are made smaller on their way; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// How the updates of a round become one; absent: their mean, as the algorithm weighs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combiner: Option<Combiner>,
    /// Clients that lie, in a simulation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<AttackSpec>,
    /// How the speeds of clients differ, in a simulation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stragglers: Option<StragglerSpec>,
    /// Differential privacy: what is promised and by which mechanism; absent: no promise. See
    /// `deploy/samples/run-private.toml` for every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<privacy::PrivacySpec>,
    /// How updates are taken in without rounds that anybody waits for; absent: in rounds.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<AsyncSpec>,
    /// How peers mix, for `mode = "decentralised"` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<TopologySpec>,
}

/// Where the aggregation happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A coordinator aggregates.
    #[default]
    Federated,
    /// Peers mix over a graph, without a coordinator: `starling peer`.
    Decentralised,
}

/// Which data, and how simulation and demo share it out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// The name under which workers and the coordinator configure the data set.
    pub name: String,
    /// How one data set is divided among workers that were given a share number (demo, simulation).
    #[serde(default)]
    pub partition: Option<PartitionSpec>,
    /// Random flips and crops of training images.
    #[serde(default)]
    pub augment: bool,
    /// Characters in one training sequence of a text data set.
    #[serde(default = "default_sequence")]
    pub sequence: usize,
}

fn default_sequence() -> usize {
    80
}

/// How a data set is divided among clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PartitionSpec {
    /// Shuffled, equal sizes.
    Iid {},
    /// Label skew by a symmetric Dirichlet distribution.
    Dirichlet {
        /// Concentration; small is heterogeneous.
        alpha: f64,
        /// `true`: equal sizes, each client draws classes from its prior and exhausted classes
        /// refill (FL-Simulator). `false`: each class is divided among clients, sizes differ (pFedPT).
        #[serde(default)]
        replacement: bool,
    },
    /// Each client holds a few classes only.
    Pathological {
        /// Classes per client.
        classes: usize,
    },
    /// By the key that the data carries (speaker of a text, folder of an image, column of a CSV).
    Natural {},
    /// IID labels, sizes by a power law: client `i` gets a share proportional to `(i+1)^-exponent`.
    Size {
        /// Exponent of the power law; 0 gives equal sizes.
        exponent: f64,
    },
}

/// Who takes part in a round, and how long a round may last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CohortSpec {
    /// Share of the eligible workers that takes part in a round; exclusive with `size`.
    pub fraction: Option<f64>,
    /// Number of workers that take part in a round; exclusive with `fraction`.
    pub size: Option<usize>,
    /// How a cohort is drawn; absent: uniformly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Sampler>,
    /// Number of clients of the whole federation, N: what a private run divides by. Declared, so that
    /// ε and the model do not depend on who happens to be connected.
    pub population: Option<u64>,
    /// A round commits with at least so many updates.
    pub min_updates: usize,
    /// The first round opens when so many eligible workers are connected.
    pub min_workers: usize,
    /// A round closes after so many seconds with the updates that it has, if they are enough.
    pub deadline_s: u64,
    /// How long a round waits for a cohort member whose connection is lost.
    pub rejoin_s: u64,
}

impl Default for CohortSpec {
    fn default() -> Self {
        Self {
            fraction: None,
            size: None,
            sampler: None,
            population: None,
            min_updates: 1,
            min_workers: 1,
            deadline_s: 600,
            rejoin_s: 30,
        }
    }
}

/// When and on what the global model is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "keys of a file")]
pub struct EvaluationSpec {
    /// Evaluate after every so many rounds, and after the last; 0: never.
    pub every: u64,
    /// On the coordinator's held-out set, if it has one for this data set.
    pub central: bool,
    /// On the workers' held-out sets.
    pub federated: bool,
    /// Workers also tell which classes they took for which and sums from which the calibration error follows.
    /// The coordinator then learns how many held-out examples of each class a worker has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub details: bool,
    /// Where a held-out set is divided among workers, each gets examples with its own mix of training labels
    /// instead of the whole set's: what personal models are for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub matched: bool,
    /// How long federated evaluation waits for reports.
    pub deadline_s: u64,
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self { every: 1, central: true, federated: false, details: false, matched: false, deadline_s: 120 }
    }
}

/// What an update must satisfy before it is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VettingSpec {
    /// Largest L2 norm of an uploaded vector; absent: only the range of the fixed-point format.
    pub max_norm: Option<f64>,
    /// A worker is quarantined after so many rejected updates in a row.
    pub quarantine_after: u32,
}

impl Default for VettingSpec {
    fn default() -> Self {
        Self { max_norm: None, quarantine_after: 3 }
    }
}
