//! What a simulated run was: the committed rounds, what went wrong on the way, and the trail.

use crate::Millis;
use algorithms::{Vector, Vectors, seed};
use proto::digest::Digest;
use std::collections::{BTreeMap, VecDeque};

/// Lines of the trail that are kept.
const TRAIL: usize = 30;

/// A durably committed round.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The round, from 0.
    pub round: u64,
    /// When the disk had it.
    pub at: Millis,
    /// The counted workers, in name order.
    pub participants: Vec<String>,
    /// The server's vectors after the round.
    pub digests: BTreeMap<String, Digest>,
    /// The model, as long as the schedule's dimension.
    pub model: Vector,
}

/// How often what went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incidents {
    /// Messages lost.
    pub dropped: u64,
    /// Messages that arrived twice.
    pub duplicated: u64,
    /// Connections broken.
    pub cuts: u64,
    /// Workers that died.
    pub worker_crashes: u64,
    /// Deaths of the coordinator.
    pub coordinator_crashes: u64,
    /// Pauses by the operator.
    pub pauses: u64,
    /// Uploads that were offered again.
    pub retries: u64,
}

/// Something that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// When.
    pub at: Millis,
    /// What exactly.
    pub detail: String,
}

/// One simulated run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The schedule's seed.
    pub seed: u64,
    /// Every committed round, in order of commit.
    pub rounds: Vec<Committed>,
    /// The server's vectors at the end.
    pub server: Vectors,
    /// When the run was over; `None`: it was not.
    pub finished: Option<Millis>,
    /// Events handled.
    pub events: u64,
    /// A hash over every noted event and its time.
    pub trace: u64,
    /// What went wrong on the way.
    pub incidents: Incidents,
    /// The first violation; the run stops at it.
    pub violation: Option<Violation>,
    /// The last lines of the trail.
    pub trail: VecDeque<String>,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            rounds: Vec::new(),
            server: Vectors::new(),
            finished: None,
            events: 0,
            trace: seed,
            incidents: Incidents::default(),
            violation: None,
            trail: VecDeque::new(),
        }
    }

    pub(crate) fn note(&mut self, at: Millis, line: &str) {
        self.trace = seed::mix(self.trace ^ at ^ seed::word(line));
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(format!("{at:>8} {line}"));
    }

    pub(crate) fn require(&mut self, invariant: &'static str, at: Millis, checked: Result<(), String>) {
        if let (None, Err(detail)) = (&self.violation, checked) {
            self.violation = Some(Violation { invariant, at, detail });
        }
    }

    /// The seed, the violation and the trail, for a failed test.
    pub fn explain(&self) -> String {
        let trail: Vec<&str> = self.trail.iter().map(String::as_str).collect();
        format!("seed {}: {:?}; {:?}\n{}", self.seed, self.violation, self.incidents, trail.join("\n"))
    }
}
