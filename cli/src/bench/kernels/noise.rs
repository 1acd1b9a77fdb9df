//! Exact Gaussian noise on a GPU: the CPU's integers, and how many a second.

use super::{Args, failed, median};
use crate::{
    exit::{Code, Failure},
    output, table,
};
use privacy::sampler::{Key, Kind, ReleaseKey, SHARD, Sampler, shards};
use serde_json::json;
use std::{num::NonZeroU64, sync::Arc, time::Instant};
use worker::engine::{
    cuda::{Cuda, Device, DeviceError, Gaussian},
    vectors::VectorKernels,
};

const TWO: NonZeroU64 = NonZeroU64::MIN.saturating_add(1);
/// Laws, and binary logarithms of variances.
const LAWS: [(Kind, u32); 4] =
    [(Kind::Discrete, 4), (Kind::Discrete, 20), (Kind::Rounded, 20), (Kind::Discrete, 40)];

/// Checks, measures and prints.
pub(super) fn measure(args: &Args, device: &Arc<Device>) -> Result<(), Failure> {
    let kernels = Cuda::new(Arc::clone(device)).map_err(failed)?;
    // A key that everybody knows: these numbers protect nobody.
    let key = Key::new([1; 32]).release(1);
    let (mut rows, mut unequal) = (Vec::new(), Vec::new());
    for (kind, exponent) in LAWS {
        let variance = TWO.saturating_pow(exponent);
        let sampler =
            Sampler::new(kind, variance).map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        let gaussian = Gaussian::new(device, &sampler).map_err(failed)?;
        let name = format!("{kind:?}, variance 2^{exponent}").to_lowercase();
        let equal = agrees(&kernels, &gaussian, &sampler, &key).map_err(failed)?;
        let seconds = seconds(args, &kernels, &gaussian, &key).map_err(failed)?;
        let (parameters, rate) = (args.parameters.get(), args.parameters.get() as f64 / seconds);
        if args.json {
            output::line(json!({
                "noise": name, "variance": variance, "device": device.name(), "parameters": parameters,
                "seconds": seconds, "per_second": rate, "equal": equal,
            }))?;
        }
        let cells = [format!("{:.3}", seconds * 1e3), format!("{:.2}", rate / 1e9)];
        rows.push([vec![name.clone()], cells.to_vec(), vec![equal.to_string()]].concat());
        if !equal {
            unequal.push(name);
        }
    }
    if !args.json {
        output::line(table::table(&["exact noise", "ms", "milliards a second", "the CPU's"], &rows))?;
    }
    if unequal.is_empty() {
        return Ok(());
    }
    let message = format!("noise that is not the CPU's: {}", unequal.join("; "));
    Err(Failure::new(Code::Failed, message))
}

/// Whether three shards and a bit get the integers that the CPU draws.
fn agrees(
    kernels: &Cuda,
    gaussian: &Gaussian,
    sampler: &Sampler,
    key: &ReleaseKey,
) -> Result<bool, DeviceError> {
    let mut want: Vec<i64> = (0..3 * SHARD as i64 + 77).collect();
    let mut sums = kernels.put(&want)?;
    gaussian.add(&mut sums, key, 2, 3)?;
    for (shard, sum) in shards(&mut want) {
        key.add_noise(sampler, (2, shard), sum, 3);
    }
    Ok(kernels.get::<i64>(&sums)? == want)
}

/// Median of one call.
fn seconds(args: &Args, kernels: &Cuda, gaussian: &Gaussian, key: &ReleaseKey) -> Result<f64, DeviceError> {
    let mut sums = kernels.put(&vec![0_i64; args.parameters.get() as usize])?;
    let mut seconds = Vec::new();
    for vector in 0..=u32::from(args.repeats) {
        kernels.wait()?;
        let began = Instant::now();
        gaussian.add(&mut sums, key, vector, 1)?;
        kernels.wait()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(median(&mut seconds[1..]))
}
