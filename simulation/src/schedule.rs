//! What is run and what goes wrong in it: everything that a run is a function of.

use crate::Millis;
use algorithms::Params;
use proto::spec::{RunSpec, SpecError};

/// Why a schedule cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// No workers, or no dimensions.
    #[error("{0}: expected at least 1")]
    Zero(&'static str),
    /// A fault's probability or rate.
    #[error("faults.{key} is {value}, expected {expected}")]
    Fault {
        /// Which.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Algorithm, rounds or cohort.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// One simulated run. Equal schedules give equal reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Everything random derives from it.
    pub seed: u64,
    /// The rule's name and its keys.
    pub algorithm: (String, Params),
    /// Rounds to commit.
    pub rounds: u64,
    /// Virtual workers.
    pub workers: usize,
    /// Length of the model.
    pub dimension: usize,
    /// Local steps of a worker in a round.
    pub steps: u32,
    /// Local learning rate.
    pub lr: f32,
    /// Cohort size; `None`: every eligible worker.
    pub cohort: Option<usize>,
    /// A round commits with at least so many updates.
    pub min_updates: usize,
    /// The first round opens with at least so many workers.
    pub min_workers: usize,
    /// Deadline of a round, in seconds.
    pub deadline_s: u64,
    /// How long a lost worker is waited for, in seconds.
    pub rejoin_s: u64,
    /// Federated evaluation after every so many rounds; 0: never.
    pub evaluate_every: u64,
    /// How far two trainings of the same round may differ.
    pub noise: f32,
    /// What goes wrong.
    pub faults: Faults,
    /// A deliberate defect.
    pub mutation: Mutation,
}

/// What goes wrong, until it stops. Probabilities are per message, rates per minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Largest delay of a message, in milliseconds (also after the faults stopped).
    pub delay_ms: Millis,
    /// A message is lost. One of a session takes its connection with it, as TCP would, unless `silent`.
    pub drop: f64,
    /// A message arrives twice.
    pub duplicate: f64,
    /// A lost message of a session goes unnoticed: harsher than any real transport.
    pub silent: bool,
    /// A worker's connection breaks; often one side does not hear of it.
    pub cuts: f64,
    /// A worker dies, and comes back with its disk.
    pub worker_crashes: f64,
    /// The coordinator dies, often in the midst of what it was doing, and comes back with its disk.
    pub coordinator_crashes: f64,
    /// An operator pauses the run, and resumes it a little later.
    pub pauses: f64,
    /// How long a dead process stays dead at most, in milliseconds.
    pub down_ms: Millis,
    /// When faults stop, in milliseconds; the run must then heal.
    pub until: Millis,
}

/// Deliberate defects of the drivers: each must be found by an invariant, or the invariant is idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mutation {
    /// None.
    #[default]
    None,
    /// A worker keeps its new client state as soon as its upload was accepted.
    CommitEarly,
    /// A worker that is asked for a round again trains again, to other bytes.
    RetrainOnRetry,
    /// A worker uploads before it has written what it uploads.
    UploadBeforeSave,
    /// A worker offers an upload once only.
    ForgetRetry,
    /// The coordinator folds a duplicate.
    CountTwice,
    /// The coordinator tells workers of a commit before the disk has it.
    ConfirmBeforeDisk,
}

impl Faults {
    /// A network with delays and nothing else.
    pub const CALM: Self = Self {
        delay_ms: 40,
        drop: 0.0,
        duplicate: 0.0,
        silent: false,
        cuts: 0.0,
        worker_crashes: 0.0,
        coordinator_crashes: 0.0,
        pauses: 0.0,
        down_ms: 0,
        until: 0,
    };

    /// Everything at once, for a minute and a half.
    pub const HOSTILE: Self = Self {
        delay_ms: 600,
        drop: 0.05,
        duplicate: 0.1,
        silent: false,
        cuts: 1.5,
        worker_crashes: 1.0,
        coordinator_crashes: 1.5,
        pauses: 0.7,
        down_ms: 4_000,
        until: 90_000,
    };

    fn check(&self) -> Result<(), ScheduleError> {
        for (key, value) in [
            ("drop", self.drop),
            ("duplicate", self.duplicate),
            ("drop + duplicate", self.drop + self.duplicate),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(ScheduleError::Fault { key, value: value.to_string(), expected: "0 to 1" });
            }
        }
        let rates = [
            ("cuts", self.cuts),
            ("worker_crashes", self.worker_crashes),
            ("coordinator_crashes", self.coordinator_crashes),
            ("pauses", self.pauses),
        ];
        for (key, value) in rates {
            if !(0.0..=600.0).contains(&value) {
                return Err(ScheduleError::Fault {
                    key,
                    value: value.to_string(),
                    expected: "0 to 600 a minute",
                });
            }
        }
        Ok(())
    }
}

impl Schedule {
    /// Six workers, four of them in a cohort, eight rounds, under [`Faults::HOSTILE`].
    pub fn hostile(algorithm: &str, seed: u64) -> Self {
        Self {
            seed,
            algorithm: (algorithm.to_owned(), Params::new()),
            rounds: 8,
            workers: 6,
            dimension: 4,
            steps: 5,
            lr: 0.1,
            cohort: Some(4),
            min_updates: 2,
            min_workers: 3,
            deadline_s: 25,
            rejoin_s: 12,
            evaluate_every: 3,
            noise: 0.5,
            faults: Faults::HOSTILE,
            mutation: Mutation::None,
        }
    }

    /// Virtual time by which a run must be finished once the faults have stopped: backoff, one last
    /// wait for lost workers and two deadlines, and a fair time for every round.
    pub fn bound(&self) -> Millis {
        let round = 5_000 + 10 * self.faults.delay_ms;
        self.faults.until + 20_000 + (self.rejoin_s + 2 * self.deadline_s) * 1_000 + self.rounds * round
    }

    /// Checks the schedule and gives the specification that coordinator and workers see.
    ///
    /// # Errors
    /// If a value is out of its range; names it.
    pub fn spec(&self) -> Result<RunSpec, ScheduleError> {
        for (key, value) in [("workers", self.workers), ("dimension", self.dimension)] {
            if value == 0 {
                return Err(ScheduleError::Zero(key));
            }
        }
        self.faults.check()?;
        let (kind, keys) = &self.algorithm;
        let mut algorithm = keys.clone();
        algorithm.insert("kind".to_owned(), kind.clone().into());
        let spec = serde_json::json!({
            "name": "simulation",
            "rounds": self.rounds,
            "seed": self.seed,
            "model": { "kind": "flat", "parameters": self.dimension },
            "data": { "name": "quadratic" },
            "algorithm": algorithm,
            "local": { "steps": self.steps, "lr": self.lr, "lr_decay": 0.998 },
            "cohort": {
                "size": self.cohort,
                "min_updates": self.min_updates,
                "min_workers": self.min_workers,
                "deadline_s": self.deadline_s,
                "rejoin_s": self.rejoin_s,
            },
            "evaluation": {
                "every": self.evaluate_every.max(1),
                "central": false,
                "federated": self.evaluate_every > 0,
                "deadline_s": 10,
            },
        });
        Ok(RunSpec::from_json(&spec.to_string())?)
    }
}
