//! The machine's vocabulary: what happens, what must be done, and the words in between.

use proto::{
    digest::Digest,
    event::{ClientScores, RunEvent},
    v1::{AbandonReason, DeclineReason, RejectReason},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    evaluation::{Evaluated, Federated},
    flow::Ongoing,
    sampling::Profile,
    states::{Decision, End},
};
use crate::private::Secret;

/// Milliseconds on the driver's clock.
pub type Millis = u64;

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
    /// Tasks and buffer of a run without rounds.
    pub ongoing: Ongoing,
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Training examples.
    pub examples: u64,
    /// Mean training loss.
    pub train_loss: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

/// An update that the driver has made durable, for a run without rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Of its values, end to end.
    pub digest: Digest,
    /// Local steps taken.
    pub steps: u32,
    /// Learning rate used.
    pub lr: f32,
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
    /// The same in a run without rounds: its values are durable. Not while [`super::Machine::holds_back`].
    Stored {
        /// Whose.
        worker: String,
        /// The version that it was trained on.
        round: u64,
        /// Its scalars.
        facts: Facts,
        /// What commits it.
        kept: Kept,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Token {
    /// A round's deadline.
    Deadline {
        /// The round.
        round: u64,
        /// Which time it was asked.
        attempt: u32,
    },
    /// A worker's deadline, in a run without rounds.
    Task {
        /// Who.
        worker: String,
        /// The version that it trains.
        version: u64,
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
            Self::Task { .. } | Self::Rejoin { .. } | Self::Evaluation { .. } => false,
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
