//! The machine's vocabulary: what happens, what must be done, and the words in between.

use algorithms::cohort::draw::Sampler;
use proto::{
    digest::Digest,
    event::{ClientScores, RunEvent},
    spec::RunSpec,
    v1::{AbandonReason, DeclineReason, RejectReason},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    evaluation::{Evaluated, Federated},
    sampling::Profile,
    states::{Decision, End},
};
use crate::private::Secret;

/// Milliseconds on the driver's clock.
pub type Millis = u64;

/// Without progress for so long a worker is stuck, or for half of a deadline that is shorter. A step
/// of the largest model here takes seconds, and reports come between steps.
const STUCK: Millis = 30_000;

/// What the machine must know of a run.
#[derive(Debug, Clone, PartialEq)]
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
            cap: spec
                .privacy
                .as_ref()
                .and_then(privacy::PrivacySpec::participation)
                .map(|cap| (cap.most.get(), cap.separation.get())),
        }
    }
}

/// What a machine starts from: nothing for a new run, the stored facts for an old one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Restored {
    /// Rounds committed.
    pub round: u64,
    /// The round that was open.
    pub opening: Option<Opening>,
    /// Every worker that ever was in a draw.
    pub members: BTreeSet<String>,
    /// How many there were when the last round was committed.
    pub population_before: usize,
    /// The last committed round that counted each worker.
    pub committed: BTreeMap<String, u64>,
    /// Rounds that counted each worker, in a run with a cap on them.
    pub participations: BTreeMap<String, u64>,
    /// What was seen of workers, if the sampler asks for it.
    pub profiles: BTreeMap<String, Profile>,
    /// Whether an operator paused the run.
    pub paused: bool,
}

/// The durable fact that a round is open for a cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The round.
    pub round: u64,
    /// Who takes part.
    pub cohort: Vec<String>,
    /// Where its noise and a secret draw come from: forgotten when the round is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// The scalars of a vetted update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Training examples.
    pub examples: u64,
    /// Mean training loss.
    pub train_loss: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

/// What happens to a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The driver is ready. The first event.
    Start,
    /// An eligible worker is connected (again).
    Joined {
        /// Who.
        worker: String,
    },
    /// Its connection is lost.
    Left {
        /// Who.
        worker: String,
    },
    /// A vetted update is ready to be folded.
    Update {
        /// Whose.
        worker: String,
        /// For which round.
        round: u64,
        /// Its scalars.
        facts: Facts,
    },
    /// An update failed vetting.
    Rejected {
        /// Whose.
        worker: String,
        /// For which round.
        round: u64,
        /// Why.
        reason: RejectReason,
        /// What exactly.
        detail: String,
    },
    /// A worker cannot take part.
    Declined {
        /// Who.
        worker: String,
        /// In which round.
        round: u64,
        /// Why.
        reason: DeclineReason,
        /// What exactly.
        detail: String,
    },
    /// A worker says how far it is.
    Progress {
        /// Who.
        worker: String,
        /// In which round.
        round: u64,
        /// Its phase, and steps or bytes done: whatever is new is progress.
        mark: (i32, u64),
    },
    /// A worker evaluated the committed model.
    Evaluated {
        /// Who.
        worker: String,
        /// Which round's model.
        round: u64,
        /// What it tells.
        report: Evaluated,
    },
    /// An armed timer went off.
    Timer(Token),
    /// The disk confirmed a commit.
    Committed {
        /// The round.
        round: u64,
        /// The new model.
        digest: Digest,
    },
    /// The run cannot go on.
    Failed {
        /// Why.
        reason: String,
    },
    /// The privacy budget has no room for a round: the run ends before it.
    Spent {
        /// The first round that does not fit.
        round: u64,
        /// What the gate said.
        reason: String,
    },
    /// An operator's command.
    Command(Command),
    /// A worker was quarantined or released, here or by another run.
    Quarantine {
        /// Who.
        worker: String,
        /// Quarantined or released.
        on: bool,
    },
}

/// What an operator may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stop after what is durable; the open round is given up.
    Pause,
    /// Go on.
    Resume,
    /// End for good.
    Cancel,
}

/// Names a timer; one that is out of date is ignored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// A round's deadline.
    Deadline {
        /// The round.
        round: u64,
        /// Which time it was asked.
        attempt: u32,
    },
    /// Time to look who stands still.
    Motion {
        /// The round.
        round: u64,
    },
    /// A lost worker is not waited for any longer.
    Rejoin {
        /// Who.
        worker: String,
        /// When it was lost.
        since: Millis,
    },
    /// Federated evaluation has waited long enough.
    Evaluation {
        /// The committed round.
        round: u64,
    },
}

impl Token {
    /// Whether nothing comes of it once that round is committed: a driver need not keep it until it is due.
    pub fn is_over(&self, committed: u64) -> bool {
        match self {
            Self::Deadline { round, .. } | Self::Motion { round } => *round <= committed,
            Self::Rejoin { .. } | Self::Evaluation { .. } => false,
        }
    }
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the machine's durable facts durable, before anything that follows.
    Persist,
    /// Send the assignment of the open round.
    Assign {
        /// To whom.
        worker: String,
        /// The round.
        round: u64,
        /// The last committed round that counted this worker.
        committed: Option<u64>,
        /// Until the deadline.
        remaining_ms: Millis,
    },
    /// Tell a worker to stop.
    Abandon {
        /// Whom.
        worker: String,
        /// The round.
        round: u64,
        /// Why.
        reason: AbandonReason,
    },
    /// Answer an update. `Accept`: fold it first.
    Verdict {
        /// Whose.
        worker: String,
        /// What.
        decision: Decision,
    },
    /// Call back.
    Arm {
        /// With this.
        token: Token,
        /// At this time.
        at: Millis,
    },
    /// Forget what was folded and received for the open round.
    DropUploads,
    /// Apply the aggregate and make the round durable; then [`Event::Committed`].
    Commit {
        /// The round.
        round: u64,
        /// The counted workers and their scalars.
        counted: Vec<Counted>,
        /// Workers ever in a draw, with this round's newcomers.
        population: usize,
        /// The same before this round.
        population_before: usize,
        /// Updates rejected in this round.
        rejected: usize,
        /// When the round was opened.
        opened_at: Millis,
    },
    /// Tell a worker that a round is durable.
    Closed {
        /// Whom.
        worker: String,
        /// The round.
        round: u64,
        /// Whether its update was counted.
        included: bool,
    },
    /// Ask a worker to evaluate the committed model.
    Evaluate {
        /// Whom.
        worker: String,
        /// The committed round.
        round: u64,
    },
    /// Federated evaluation of a round is done.
    FederatedDone {
        /// The committed round.
        round: u64,
        /// The sums.
        sums: Federated,
        /// How the workers fare, if any made a prediction.
        clients: Option<Box<ClientScores>>,
    },
    /// Put a worker into quarantine, fleet-wide.
    Quarantine {
        /// Whom.
        worker: String,
    },
    /// Write to the event log.
    Publish(RunEvent),
    /// The run is over.
    End(End),
}

/// One counted update.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// Whose.
    pub worker: String,
    /// Its scalars.
    pub facts: Facts,
}
