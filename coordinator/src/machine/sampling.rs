//! Cohorts that are not drawn uniformly: by what was seen of each worker, its number of examples and its
//! last loss, which are durable facts of the run, so that a restart draws the same.

use super::{Machine, Member};
use algorithms::cohort::draw::{Candidate, Sampler};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the last counted update of a worker has told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Training examples.
    pub examples: u64,
    /// Mean training loss.
    pub loss: Option<f64>,
}

impl Machine {
    /// What was seen of each worker whose update was counted, if the sampler asks for it.
    pub fn profiles(&self) -> &BTreeMap<String, Profile> {
        &self.profiles
    }

    /// Shares of labels that workers hold, where a driver knows them: a simulation.
    pub fn know_labels(&mut self, histograms: BTreeMap<String, Vec<f64>>) {
        self.histograms = histograms;
    }

    /// How often an update of this round counts: a worker may be drawn several times.
    pub fn draws(&self, worker: &str) -> usize {
        self.repeated.get(worker).copied().unwrap_or(1)
    }

    /// The cohort of the next round, with repetitions where the sampler makes some. A worker of which
    /// nothing is known counts as the largest that is known.
    pub(super) fn draw(&self, eligible: &[&str], size: usize) -> Vec<String> {
        let sampler = self.rules.sampler.unwrap_or_default();
        let largest = self.profiles.values().map(|profile| profile.examples).max().unwrap_or(1);
        let candidate = |name| {
            let known = self.profiles.get(name);
            Candidate {
                name,
                weight: known.map_or(largest, |known| known.examples.max(1)) as f64,
                loss: known.and_then(|known| known.loss),
                histogram: self.histograms.get(name).map_or(&[][..], Vec::as_slice),
            }
        };
        let candidates: Vec<Candidate<'_>> = eligible.iter().copied().map(candidate).collect();
        let drawn = sampler.draw(self.rules.seed, self.round, &candidates, size);
        drawn.into_iter().map(str::to_owned).collect()
    }

    /// The cohort of a round, from names that may be repeated.
    pub(super) fn set_cohort(&mut self, drawn: Vec<String>) {
        self.cohort = drawn.iter().map(|worker| (worker.clone(), Member::Training)).collect();
        self.repeated = repeated(drawn);
    }

    /// The cohort's names, each as often as it was drawn.
    pub(super) fn drawn(&self) -> Vec<String> {
        let times = |worker: &String| std::iter::repeat_n(worker.clone(), self.draws(worker));
        self.cohort.keys().flat_map(times).collect()
    }

    /// The round that is being committed has counted these.
    pub(super) fn learn(&mut self, worker: &str, member: &Member) {
        if let (Some(sampler), Member::Counted(facts)) = (self.rules.sampler, member)
            && is_curious(sampler)
        {
            let profile = Profile { examples: facts.examples, loss: facts.train_loss };
            self.profiles.insert(worker.to_owned(), profile);
        }
    }
}

/// Whether a sampler looks at what was seen of workers.
pub fn is_curious(sampler: Sampler) -> bool {
    matches!(sampler, Sampler::SizeWeighted {} | Sampler::PowerOfChoice { .. })
}

/// Those that are there more than once, and how often.
pub(super) fn repeated(drawn: Vec<String>) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for worker in drawn {
        *times.entry(worker).or_insert(0) += 1;
    }
    times.retain(|_, times| *times > 1);
    times
}
