//! What a simulated run was: the committed rounds, what went wrong on the way, and the trail.

use crate::{Millis, Schedule};
use algorithms::{Vector, Vectors, seed};
use proto::digest::Digest;
use std::collections::{BTreeMap, VecDeque};

/// Lines of the trail that are kept.
const TRAIL: usize = 40;

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

macro_rules! incidents {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often what went wrong.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Incidents {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Incidents {
            /// Adds those of another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All of them, by name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

incidents! {
    /// Messages lost.
    dropped,
    /// Messages that arrived twice.
    duplicated,
    /// Messages that overtook others of their session.
    reordered,
    /// Connections broken.
    cuts,
    /// Partitions.
    partitions,
    /// Workers that died.
    worker_crashes,
    /// Workers whose disk was lost.
    disk_losses,
    /// Disks of workers that failed for a while.
    full_disks,
    /// Trainings that took long.
    slow,
    /// Trainings that hung.
    stuck,
    /// Deaths of the coordinator.
    coordinator_crashes,
    /// Stores that failed for a while.
    store_failures,
    /// Pauses by the operator.
    pauses,
    /// Uploads that were offered again.
    retries,
    /// Uploads that were rejected.
    rejected,
    /// Workers put into quarantine.
    quarantined,
    /// Workers that the log named as late.
    late,
    /// Workers that the log named as stuck.
    named_stuck,
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
    /// The schedule's profile and algorithm, for replaying it.
    pub origin: (&'static str, String),
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
    pub(crate) fn new(schedule: &Schedule) -> Self {
        Self {
            seed: schedule.seed,
            origin: (schedule.profile, schedule.algorithm.0.clone()),
            rounds: Vec::new(),
            server: Vectors::new(),
            finished: None,
            events: 0,
            trace: schedule.seed,
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

    /// The line that runs it again.
    pub fn replay(&self) -> String {
        let (profile, algorithm) = &self.origin;
        format!(
            "cargo run -p simulation --example soak -- --profile {profile} --algorithm {algorithm} --from {} \
             --seeds 1",
            self.seed
        )
    }

    /// The violation, the trail and how to replay it, for a failed test.
    pub fn explain(&self) -> String {
        let trail: Vec<&str> = self.trail.iter().map(String::as_str).collect();
        let (profile, algorithm) = &self.origin;
        format!(
            "{algorithm} under {profile}, seed {}: {:?}\n{:?}\n{}\nreplay: {}",
            self.seed,
            self.violation,
            self.incidents,
            trail.join("\n"),
            self.replay()
        )
    }
}
