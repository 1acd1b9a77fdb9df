//! Who holds which examples: numbers of examples end to end, four bytes each, however many clients there
//! are. Pixels are shared; a client's view of them exists while it runs.

use super::{SimulationError, client_name};
use algorithms::cohort::draw::Sampler;
use proto::spec::{PartitionSpec, RunSpec};
use std::collections::{BTreeMap, BTreeSet};
use worker::data::{Dataset, partition};

/// A division of a data set.
#[derive(Debug, Clone)]
pub struct Shares {
    data: Dataset,
    order: Vec<u32>,
    /// Client `i` holds `order[bounds[i]..bounds[i + 1]]`.
    bounds: Vec<u32>,
    /// Clients whose labels are turned round.
    flipped: BTreeSet<usize>,
}

impl Shares {
    /// Divides a data set as the worker does.
    ///
    /// # Errors
    /// If it cannot be divided so.
    pub fn divide(
        data: &Dataset,
        division: &PartitionSpec,
        clients: usize,
        seed: u64,
    ) -> Result<Self, SimulationError> {
        let parts = partition(data, division, clients, seed)
            .map_err(|error| SimulationError::Setup(error.to_string()))?;
        let mut shares = Self {
            data: data.clone(),
            order: Vec::with_capacity(data.len()),
            bounds: vec![0],
            flipped: BTreeSet::new(),
        };
        for part in parts {
            shares.order.extend(part.into_iter().map(|example| example as u32));
            shares.bounds.push(shares.order.len() as u32);
        }
        Ok(shares)
    }

    /// Turns the labels of these clients round.
    pub(super) fn flip(&mut self, clients: BTreeSet<usize>) {
        self.flipped = clients;
    }

    fn range(&self, client: usize) -> &[u32] {
        &self.order[self.bounds[client] as usize..self.bounds[client + 1] as usize]
    }

    /// Number of clients.
    pub fn clients(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Examples of a client.
    pub fn size(&self, client: usize) -> usize {
        self.range(client).len()
    }

    /// A client's view of the data.
    pub fn of(&self, client: usize) -> Dataset {
        let indices: Vec<usize> = self.range(client).iter().map(|example| *example as usize).collect();
        let share = self.data.subset(&indices);
        if self.flipped.contains(&client) { share.flipped() } else { share }
    }

    /// Share of each label that each client holds, by name, if the run's sampler asks for it.
    pub(super) fn label_shares(&self, spec: &RunSpec) -> BTreeMap<String, Vec<f64>> {
        let asked = matches!(spec.cohort.sampler, Some(Sampler::Diverse { .. }));
        let histograms = self.histograms().filter(|_| asked).into_iter().flatten();
        let share = |histogram: Vec<u32>| {
            let total = histogram.iter().sum::<u32>().max(1);
            histogram.into_iter().map(|count| f64::from(count) / f64::from(total)).collect()
        };
        histograms.enumerate().map(|(client, histogram)| (client_name(client), share(histogram))).collect()
    }

    /// Examples of each class that each client holds; `None` for text.
    pub fn histograms(&self) -> Option<impl Iterator<Item = Vec<u32>> + '_> {
        let labels = self.data.labels()?;
        let classes = self.data.class_histogram().len();
        Some((0..self.clients()).map(move |client| {
            let mut histogram = vec![0; classes];
            for example in self.range(client) {
                histogram[labels[*example as usize] as usize] += 1;
            }
            histogram
        }))
    }
}
