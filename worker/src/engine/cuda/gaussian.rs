//! Exact Gaussian noise on a GPU: the integers that `privacy::sampler` draws on the CPU from the same key.

use super::launch::{Arg, Kernels};
use super::vectors::upload;
use super::{Device, DeviceError, Source, Vector};
use privacy::sampler::{ReleaseKey, SHARD, Sampler};
use std::sync::Arc;

const SOURCE: Source = Source { name: "gaussian.cu", text: include_str!("gaussian.cu") };

/// Threads of a block, an attempt each.
const BATCH: u64 = 512;

/// A sampler for one law in a GPU's memory.
#[derive(Debug)]
pub struct Gaussian {
    kernels: Kernels,
    slots: Vector<u64>,
    cuts: Vector<u64>,
    plan: Vector<u64>,
}

impl Gaussian {
    /// Brings the sampler's tables there.
    ///
    /// # Errors
    /// As of [`Device::module`], or if there is no memory.
    pub fn new(device: &Arc<Device>, sampler: &Sampler) -> Result<Self, DeviceError> {
        let tables = sampler.tables();
        let head = [[tables.discrete].as_slice(), &tables.shape].concat();
        let plan =
            [head.as_slice(), &[tables.known_bits, tables.kappa.to_bits()], &tables.exact_kappa].concat();
        Ok(Self {
            kernels: Kernels::load(device, &SOURCE)?,
            slots: upload(device, &tables.slots)?,
            cuts: upload(device, tables.cuts.as_flattened())?,
            plan: upload(device, &plan)?,
        })
    }

    /// Adds noise, times `unit`, to a whole vector of the release, as
    /// [`ReleaseKey::add_noise`] does shard by shard. Returns before it is done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn add(
        &self,
        sums: &mut Vector<i64>,
        key: &ReleaseKey,
        vector: u32,
        unit: i64,
    ) -> Result<(), DeviceError> {
        let words = key.expose();
        let secret =
            words.as_chunks::<2>().0.iter().map(|[low, high]| u64::from(*high) << 32 | u64::from(*low));
        let secret = secret.map(Arg::Long);
        let tables = [self.slots.pointer(), self.cuts.pointer(), self.plan.pointer()];
        let mut arguments = vec![sums.pointer(), Arg::Long(sums.len() as u64), Arg::Long(unit as u64)];
        arguments.extend(secret);
        arguments.push(Arg::Int(vector));
        arguments.extend(tables);
        let shards = sums.len().div_ceil(SHARD) as u64;
        self.kernels.try_launch("gaussian", (shards, BATCH), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::vectors::download;
    use privacy::sampler::{Key, Kind, shards};
    use std::num::NonZeroU64;

    #[test]
    fn the_noise_is_the_cpus() {
        let device = match Device::open(0, None) {
            Ok(device) => device,
            Err(reason) => return println!("skipped: {reason}"),
        };
        let release = Key::new([7; 32]).release(3);
        for (kind, variance) in [
            (Kind::Discrete, 1),
            (Kind::Discrete, 1 << 20),
            (Kind::Rounded, 3),
            (Kind::Rounded, 1 << 32),
            (Kind::Discrete, 1 << 58),
            (Kind::Rounded, 1 << 56),
        ] {
            let sampler = Sampler::new(kind, NonZeroU64::new(variance).unwrap()).unwrap();
            let gaussian = Gaussian::new(&device, &sampler).unwrap();
            let start: Vec<i64> = (0..2 * SHARD as i64 + 77).collect();
            let mut sums = upload(&device, &start).unwrap();
            gaussian.add(&mut sums, &release, 5, 3).unwrap();
            let mut want = start;
            for (shard, sum) in shards(&mut want) {
                release.add_noise(&sampler, (5, shard), sum, 3);
            }
            assert!(download(&device, &sums).unwrap() == want, "{kind:?} {variance}");
        }
    }
}
