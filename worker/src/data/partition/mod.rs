//! How one data set is divided among clients, for simulation and demo.
//!
//! Real federations bring their own division; these reproduce the ones that papers report on. Every
//! partitioner is a pure function of data set, specification, number of clients and seed, and leaves
//! no client empty.

mod dirichlet;
mod labels;
mod matched;

pub use matched::matched;

use proto::spec::PartitionSpec;

use super::dataset::Dataset;
use super::random::{Rng, shuffle, stream};
use super::{DataError, Keys};

/// Divides `dataset` among `clients`: for each client the ascending indices of its examples.
///
/// Equal arguments give equal parts, on every machine. Only Dirichlet *with* replacement may give an
/// example to several clients, or twice to one.
///
/// # Errors
/// If a client would be left without an example, if a parameter is out of its range, or if the data
/// lacks what the division goes by (labels, keys).
pub fn partition(
    dataset: &Dataset,
    spec: &PartitionSpec,
    clients: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    let mut job = Job { dataset, clients, kind: name(spec), rng: stream("partition", &[seed]) };
    job.require(clients > 0, "the number of clients must be at least 1")?;
    job.require(dataset.len() >= clients, "every client needs at least one example")?;
    let mut parts = match *spec {
        PartitionSpec::Iid {} => job.by_size(0.0),
        PartitionSpec::Size { exponent } => {
            job.require(
                exponent.is_finite() && exponent >= 0.0,
                "`exponent` must be finite and not negative",
            )?;
            job.by_size(exponent)
        }
        PartitionSpec::Dirichlet { alpha, replacement } => {
            // Below 1e-6 the logarithms of the variates lose the digits that tell clients apart.
            job.require((1e-6..=1e6).contains(&alpha), "`alpha` must be between 1e-6 and 1e6")?;
            if replacement { job.dirichlet_with_replacement(alpha)? } else { job.dirichlet(alpha)? }
        }
        PartitionSpec::Pathological { classes } => job.pathological(classes)?,
        PartitionSpec::Natural {} => job.natural()?,
    };
    for part in &mut parts {
        part.sort_unstable();
    }
    Ok(parts)
}

fn name(spec: &PartitionSpec) -> &'static str {
    match spec {
        PartitionSpec::Iid {} => "iid",
        PartitionSpec::Dirichlet { .. } => "dirichlet",
        PartitionSpec::Pathological { .. } => "pathological",
        PartitionSpec::Natural {} => "natural",
        PartitionSpec::Size { .. } => "size",
    }
}

/// One division in the making.
struct Job<'a> {
    dataset: &'a Dataset,
    clients: usize,
    kind: &'static str,
    rng: Rng,
}

impl Job<'_> {
    fn refuse(&self, problem: impl Into<String>) -> DataError {
        let (kind, clients, examples) = (self.kind, self.clients, self.dataset.len());
        DataError::Partition { kind, examples, clients, problem: problem.into() }
    }

    fn require(&self, holds: bool, problem: &str) -> Result<(), DataError> {
        if holds { Ok(()) } else { Err(self.refuse(problem)) }
    }

    /// Shuffled examples, sizes proportional to `(i+1)^-exponent` and at least 1; exponent 0 gives
    /// equal sizes, the first clients one more where it does not come out even.
    fn by_size(&mut self, exponent: f64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        shuffle(&mut order, &mut self.rng);
        let weights: Vec<f64> = (1..=self.clients).map(|i| libm::pow(i as f64, -exponent)).collect();
        let mut rest = order.as_slice();
        let mut parts = Vec::with_capacity(self.clients);
        for size in sizes(&weights, order.len()) {
            let (part, tail) = rest.split_at(size);
            parts.push(part.to_vec());
            rest = tail;
        }
        parts
    }

    /// Whole keys, the largest first, each to the client that has least so far.
    fn natural(&self) -> Result<Vec<Vec<usize>>, DataError> {
        let Some(Keys { names, of }) = self.dataset.keys() else {
            return Err(self.refuse("the data carries no natural key; choose another partition"));
        };
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (example, key) in of.iter().enumerate() {
            groups[*key as usize].push(example);
        }
        groups.retain(|group| !group.is_empty());
        if groups.len() < self.clients {
            let keys = groups.len();
            return Err(self.refuse(format!("the data has only {keys} keys, and a key is not divided")));
        }
        // Stable, so that keys of equal size stay in the data's own order.
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let mut parts: Vec<Vec<usize>> = vec![Vec::new(); self.clients];
        for group in groups {
            let least = parts.iter_mut().min_by_key(|part| part.len()).expect("there is a client");
            least.extend(group);
        }
        Ok(parts)
    }
}

/// Whole numbers proportional to `weights` that sum to `total`, each at least 1 (largest remainder).
///
/// `total` must be at least the number of weights.
fn sizes(weights: &[f64], total: usize) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let spare = total - weights.len();
    let shares: Vec<f64> = weights.iter().map(|w| w / sum * spare as f64).collect();
    let mut sizes: Vec<usize> = shares.iter().map(|share| 1 + *share as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()));
    let missing = total.saturating_sub(sizes.iter().sum());
    for &i in order.iter().cycle().take(missing) {
        sizes[i] += 1;
    }
    sizes
}
