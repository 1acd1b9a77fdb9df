//! What is stored of a run: its record, which a commit replaces, and the lines of its log.

use crate::{
    machine::{Counted, Ongoing, Opening, Profile, Restored, is_curious},
    private::Standing,
};
use algorithms::{Algorithm, Vector, Vectors};
use proto::{
    digest::Digest,
    event::RunEvent,
    spec::{RunSpec, SpecError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Whether a stored run still has work to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Stored {
    /// It goes on at the next start.
    Active {},
    /// An operator paused it.
    Paused {},
    /// All rounds are committed.
    Finished {},
    /// An operator ended it.
    Cancelled {},
    /// Its privacy budget is spent; the last committed model stands.
    Exhausted {
        /// What the gate said.
        reason: String,
    },
    /// It ended by itself.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Everything durable about a run but its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's id.
    pub id: String,
    /// Order of submission.
    pub number: u64,
    /// The run file.
    pub spec: RunSpec,
    /// Where it stands.
    pub state: Stored,
    /// Names and shapes of the model's tensors.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// The server's vectors after the last committed round.
    pub vectors: BTreeMap<String, Digest>,
    /// Scalars in each vector.
    pub length: u64,
    /// Scalars in those that have another number of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lengths: BTreeMap<String, u64>,
    /// Rounds committed.
    pub round: u64,
    /// The open round.
    pub opening: Option<Opening>,
    /// Workers ever in a draw.
    pub members: BTreeSet<String>,
    /// How many there were when the last round was committed.
    pub population_before: usize,
    /// The last committed round that counted each worker.
    pub committed: BTreeMap<String, u64>,
    /// Server vectors as they were after each round that is some worker's last, as far as the algorithm
    /// recalls them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recalled: BTreeMap<u64, BTreeMap<String, Digest>>,
    /// What changes from round to round of a private run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Standing>,
    /// What was seen of workers, if the run's sampler asks for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, Profile>,
    /// Rounds that counted each worker, in a run with a cap on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub participations: BTreeMap<String, u64>,
    /// Tasks and buffer of a run without rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ongoing: Option<Ongoing>,
    /// Models of older versions that somebody trains on, or whose updates wait.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<u64, Digest>,
}

impl RunRecord {
    /// The run's algorithm, told how the model is made.
    pub(crate) fn laid_out(&self) -> Result<Arc<dyn Algorithm>, SpecError> {
        let tensors: Vec<Vec<usize>> = self.tensors.iter().map(|(_, shape)| shape.clone()).collect();
        let mut algorithm = self.spec.algorithm.make()?;
        algorithm.lay_out(&tensors);
        Ok(algorithm.into())
    }

    /// Names the server's vectors after a round.
    pub fn name(&mut self, server: &Vectors, digests: BTreeMap<String, Digest>) {
        let length = |vector: &Vector| vector.len() as u64;
        let others = server.iter().filter(|(_, vector)| length(vector) != self.length);
        self.lengths = others.map(|(name, vector)| (name.clone(), length(vector))).collect();
        self.vectors = digests;
    }

    /// Scalars in a vector.
    pub fn length_of(&self, name: &str) -> u64 {
        self.lengths.get(name).copied().unwrap_or(self.length)
    }

    /// Keeps what `algorithm` will recall of the round that was just committed, and forgets rounds that
    /// are no worker's last any more.
    pub fn recall(&mut self, round: u64, algorithm: &dyn Algorithm) {
        let kept = |(name, _): &(&str, &str)| Some(((*name).to_owned(), *self.vectors.get(*name)?));
        let kept: BTreeMap<String, Digest> = algorithm.recalled().iter().filter_map(kept).collect();
        if !kept.is_empty() {
            self.recalled.insert(round, kept);
        }
        let last: BTreeSet<u64> = self.committed.values().copied().collect();
        self.recalled.retain(|round, _| last.contains(round));
    }

    /// Keeps what the counted updates have told of their workers, if the sampler asks for it.
    pub fn profile(&mut self, counted: &[Counted]) {
        if self.spec.cohort.sampler.is_some_and(is_curious) {
            let of = |counted: &Counted| {
                let facts = counted.facts;
                (counted.worker.clone(), Profile { examples: facts.examples, loss: facts.train_loss })
            };
            self.profiles.extend(counted.iter().map(of));
        }
    }

    /// Keeps the models that tasks and buffer refer to, and no others: the present one is among the vectors.
    pub fn keep_versions(&mut self) {
        let Some(ongoing) = &self.ongoing else { return };
        let used: BTreeSet<u64> =
            ongoing.tasks.values().copied().chain(ongoing.buffer.iter().map(|one| one.version)).collect();
        self.versions.insert(self.round, self.vectors[algorithms::MODEL]);
        self.versions.retain(|version, _| used.contains(version));
    }

    /// The model that workers of a round train on: the present one, or that of an older version.
    pub fn model_of(&self, round: u64) -> Option<Digest> {
        let present = || self.vectors.get(algorithms::MODEL).filter(|_| round == self.round);
        self.versions.get(&round).or_else(present).copied()
    }

    /// Every vector that the run needs.
    pub fn digests(&self) -> BTreeSet<Digest> {
        let recalled = self.recalled.values().flat_map(BTreeMap::values);
        let buffer = self.ongoing.iter().flat_map(|ongoing| &ongoing.buffer);
        let updates = buffer.map(|update| &update.kept.digest);
        self.vectors.values().chain(recalled).chain(self.versions.values()).chain(updates).copied().collect()
    }

    /// Where a machine goes on from.
    pub fn restored(&self) -> Restored {
        Restored {
            round: self.round,
            opening: self.opening.clone().filter(|opening| opening.round == self.round),
            members: self.members.clone(),
            population_before: self.population_before,
            committed: self.committed.clone(),
            participations: self.participations.clone(),
            profiles: self.profiles.clone(),
            paused: self.state == Stored::Paused {},
            ongoing: self.ongoing.clone().unwrap_or_default(),
        }
    }
}

/// One line of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// From 0, without gaps.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    pub event: RunEvent,
}
