//! What is run and what goes wrong in it: everything that a run is a function of.

use crate::{Faults, Millis, Mutation, Promise, Vice};
use algorithms::Params;
use proto::spec::{AsyncSpec, RunSpec, SpecError};

/// Why a schedule cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// No workers, or no dimensions.
    #[error("{0}: expected at least 1")]
    Zero(&'static str),
    /// More byzantine workers than workers.
    #[error("{byzantine} byzantine workers of {workers}")]
    Byzantine {
        /// Vices given.
        byzantine: usize,
        /// Workers in all.
        workers: usize,
    },
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
    /// The profile that it was made from, for replaying it.
    pub profile: &'static str,
    /// Everything random derives from it.
    pub seed: u64,
    /// The rule's name and its keys.
    pub algorithm: (String, Params),
    /// Rounds to commit.
    pub rounds: u64,
    /// Virtual workers, the byzantine ones included.
    pub workers: usize,
    /// What the first workers do to harm the run, one vice each.
    pub byzantine: Vec<Vice>,
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
    /// How updates are taken in without rounds; `None`: in rounds.
    pub asynchronous: Option<AsyncSpec>,
    /// How the run is private; `None`: it promises nothing.
    pub private: Option<Promise>,
    /// How far two trainings of the same round may differ.
    pub noise: f32,
    /// What goes wrong.
    pub faults: Faults,
    /// A deliberate defect.
    pub mutation: Mutation,
}

impl Schedule {
    /// Six workers, four of them in a cohort, eight rounds, under [`Faults::HOSTILE`].
    pub fn hostile(algorithm: &str, seed: u64) -> Self {
        Self {
            profile: "hostile",
            seed,
            algorithm: (algorithm.to_owned(), Params::new()),
            rounds: 8,
            workers: 6,
            byzantine: Vec::new(),
            dimension: 4,
            steps: 5,
            lr: 0.1,
            cohort: Some(4),
            min_updates: 2,
            min_workers: 3,
            deadline_s: 25,
            rejoin_s: 12,
            evaluate_every: 3,
            asynchronous: None,
            private: None,
            noise: 0.5,
            faults: Faults::HOSTILE,
            mutation: Mutation::None,
        }
    }

    /// Virtual time by which a run must be finished once the faults have stopped: backoff of workers
    /// and store, one last wait for lost workers, two deadlines, and a fair time for every round,
    /// which is its deadline if somebody in it never answers.
    pub fn bound(&self) -> Millis {
        let deadline = self.deadline_s * 1_000;
        let silent = |vice: &Vice| matches!(vice, Vice::Mute | Vice::Rounds | Vice::Evaluation);
        let waiting = if self.byzantine.iter().any(silent) { deadline + 10_000 } else { 0 };
        let round = 5_000 + 10 * self.faults.delay_ms + waiting;
        self.faults.until + 30_000 + self.rejoin_s * 1_000 + 2 * deadline + self.rounds * round
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
        let (byzantine, workers) = (self.byzantine.len(), self.workers);
        if byzantine > workers {
            return Err(ScheduleError::Byzantine { byzantine, workers });
        }
        self.faults.check()?;
        let (kind, keys) = &self.algorithm;
        let mut algorithm = keys.clone();
        algorithm.insert("kind".to_owned(), kind.clone().into());
        let mut spec = serde_json::json!({
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
            "vetting": { "max_norm": 1_000.0, "quarantine_after": 3 },
            "evaluation": {
                "every": self.evaluate_every.max(1),
                "central": false,
                "federated": self.evaluate_every > 0,
                "deadline_s": 10,
            },
        });
        if let Some(section) = &self.asynchronous {
            spec["async"] =
                serde_json::to_value(section).map_err(|error| SpecError::new("async", error.to_string()))?;
        }
        if let Some(promise) = self.private {
            spec["privacy"] = promise.section();
            if !Promise::LOCAL.contains(&promise) {
                spec["cohort"]["population"] = self.workers.into();
            }
            if promise == Promise::Steps {
                // Nobody makes it: the toy data have no records, and vectors have the schedule's length.
                spec["model"] = serde_json::json!({ "kind": "linear" });
            }
            if Promise::SHARED.contains(&promise) {
                spec["vetting"]["max_norm"] = serde_json::Value::Null;
            }
        }
        Ok(RunSpec::from_json(&spec.to_string())?)
    }
}
