//! Which examples are this worker's: the data set that a run names, and of it the share that the
//! configuration gives this worker.
//!
//! Loaded once: a round must not wait for a disk. Subsets share the pixels.

use super::TrainError;
use crate::{
    Config, Share,
    data::{Dataset, Source, Split, matched, partition},
};
use proto::{
    nearest::nearest,
    spec::{DataSpec, PartitionSpec, RunSpec},
};
use std::collections::BTreeMap;

/// Shares that are remembered: index lists only, but each run has its own.
const SHARES: usize = 16;

type Loaded = (String, usize, bool);

/// The worker's data sets.
#[derive(Debug)]
pub(super) struct Examples {
    sources: BTreeMap<String, Source>,
    share: Option<Share>,
    whole: BTreeMap<Loaded, Dataset>,
    shares: BTreeMap<String, Dataset>,
}

impl Examples {
    pub(super) fn new(config: &Config) -> Self {
        let (sources, share) = (config.datasets.clone(), config.share);
        Self { sources, share, whole: BTreeMap::new(), shares: BTreeMap::new() }
    }

    /// What this worker trains on in a run: all that it has, or its share by the run's partition.
    pub(super) fn training(&mut self, spec: &RunSpec) -> Result<Dataset, TrainError> {
        let Some(division) = &spec.data.partition else { return self.whole(&spec.data, Split::Train) };
        let Some(share) = self.share else {
            return Err(TrainError::Data(format!(
                "the run divides data set `{}` among workers, but this worker has no `share`; set `share` in \
                 its configuration, or leave `partition` out of the run to train on all that each worker holds",
                spec.data.name
            )));
        };
        self.part(spec, Split::Train, division, share)
    }

    /// What this worker evaluates on: its held-out data, or its share of them. IID, since the skew of a run is
    /// in what is trained on, unless the run asks for the worker's own mix of labels.
    pub(super) fn held_out(&mut self, spec: &RunSpec) -> Result<Dataset, TrainError> {
        match self.share {
            Some(share) if spec.evaluation.matched => {
                let histogram = self.training(spec)?.class_histogram();
                let whole = self.whole(&spec.data, Split::Test)?;
                let key = [spec.seed, share.index as u64];
                Ok(whole.subset(&matched(&whole, &histogram, share.of, &key)))
            }
            Some(share) => self.part(spec, Split::Test, &PartitionSpec::Iid {}, share),
            None => self.whole(&spec.data, Split::Test),
        }
    }

    fn part(
        &mut self,
        spec: &RunSpec,
        split: Split,
        division: &PartitionSpec,
        share: Share,
    ) -> Result<Dataset, TrainError> {
        let key = format!("{} {} {split:?} {} {division:?}", spec.data.name, spec.data.sequence, spec.seed);
        if let Some(known) = self.shares.get(&key) {
            return Ok(known.clone());
        }
        let whole = self.whole(&spec.data, split)?;
        let parts = partition(&whole, division, share.of, spec.seed).map_err(data)?;
        let mine = parts.get(share.index).ok_or_else(|| {
            TrainError::Data(format!("share {} of {} parts, expected one of them", share.index, parts.len()))
        })?;
        let part = whole.subset(mine);
        if self.shares.len() >= SHARES {
            self.shares.clear();
        }
        self.shares.insert(key, part.clone());
        Ok(part)
    }

    /// Whether inputs are shifted and scaled by what was measured on the data, which no noise covers.
    pub(super) fn are_measured(&self, spec: &DataSpec) -> bool {
        self.sources.get(&spec.name).is_some_and(Source::measures)
    }

    fn whole(&mut self, spec: &DataSpec, split: Split) -> Result<Dataset, TrainError> {
        let key = (spec.name.clone(), spec.sequence, split == Split::Train);
        if let Some(known) = self.whole.get(&key) {
            return Ok(known.clone());
        }
        let source = self.sources.get(&spec.name).ok_or_else(|| self.unknown(&spec.name))?;
        let loaded = source.load(split, spec.sequence).map_err(data)?;
        if loaded.is_empty() {
            return Err(TrainError::Data(format!("data set `{}` has no examples ({split:?})", spec.name)));
        }
        self.whole.insert(key, loaded.clone());
        Ok(loaded)
    }

    fn unknown(&self, name: &str) -> TrainError {
        let known: Vec<&str> = self.sources.keys().map(String::as_str).collect();
        let slip = nearest(name, known.iter().copied())
            .map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        TrainError::Data(format!("this worker has no data set `{name}`, it has {known}{slip}"))
    }
}

fn data(error: impl std::fmt::Display) -> TrainError {
    TrainError::Data(error.to_string())
}
