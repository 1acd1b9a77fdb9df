//! What privacy costs in time: a step of DP-SGD against a plain one on the same records, in turns in one
//! process, and the noise that a coordinator adds to a sum.

use super::round::Size;
use crate::{
    exit::{Code, Failure},
    output, process, table,
};
use privacy::{
    ClipNorm, Grid, NoiseMultiplier,
    sampler::{Key, Kind, SHARD, Sampler},
};
use proto::spec::RunSpec;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use rayon::prelude::*;
use serde_json::json;
use std::{hint::black_box, num::NonZeroU64, sync::Arc, time::Instant};
use worker::{
    data::{Source, Split},
    engine::Model,
    trainer::{NoisySteps, Private, Promise, draw_key},
};

/// Measures a DP-SGD step (per-example clipping, exact noise) against a plain step on the same records, and
/// central noise against the key stream that it is made of and a plain pass over the same memory.
///
/// Reading the batch belongs to both steps, the update of the weights to neither. JSON: one object a line:
/// for steps with model, parameters, batch, threads, plain_ms, private_ms, noise_ms (medians) and ratio; for
/// noise with parameters, threads, seconds, draws_per_second, gigabytes_per_second (read and written),
/// stream_gigabytes_per_second (ChaCha20, one thread) and pass_seconds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models
    #[arg(long, value_name = "M,…", value_delimiter = ',', default_values = ["mlp", "lenet", "cnn"])]
    models: Vec<String>,
    /// Records in a step
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [50_u16, 500],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Vec<u16>,
    /// Threads of a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: u16,
    /// Times that each step is measured
    #[arg(long, value_name = "N", default_value_t = 31, value_parser = clap::value_parser!(u16).range(3..=10_000))]
    repeats: u16,
    /// Elements of the sum that gets central noise; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "100M")]
    parameters: Size,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for model in &args.models {
        for batch in &args.batch {
            let step = step(model, usize::from(*batch), args)?;
            if args.json {
                output::line(json!({
                    "model": model, "parameters": step.parameters, "batch": batch, "threads": args.threads,
                    "plain_ms": step.plain, "private_ms": step.private, "noise_ms": step.noise,
                    "ratio": step.private / step.plain,
                }))?;
            }
            let ms = [step.plain, step.private, step.noise].map(|ms| format!("{ms:.2}"));
            let names = vec![model.clone(), step.parameters.to_string(), batch.to_string()];
            rows.push([names, ms.to_vec(), vec![format!("{:.2}", step.private / step.plain)]].concat());
        }
    }
    if !args.json {
        let heading = ["model", "parameters", "records", "plain ms", "DP-SGD ms", "of it noise ms", "ratio"];
        output::line(table::table(&heading, &rows))?;
    }
    noise(args)
}

struct Step {
    parameters: usize,
    /// Milliseconds, medians.
    plain: f64,
    private: f64,
    noise: f64,
}

fn step(name: &str, batch: usize, args: &Args) -> Result<Step, Failure> {
    let text = format!(
        "name='bench'\nrounds=1\nmodel={{kind='{name}'}}\ndata={{name='digits'}}\nlocal={{steps=1}}\n[privacy]\n\
         unit='record'\nadjacency='zero_out'\nmechanism='dp_sgd'\nclip_norm=1.0\nnoise_multiplier=1.0\ndelta=1e-5\n\
         sampling={{kind='everyone'}}\n"
    );
    let spec = RunSpec::from_toml(&text).map_err(Failure::usage)?;
    let algorithm = spec.algorithm.make().map_err(Failure::usage)?;
    let data = Source::Digits { train: batch.max(10), test: 10, seed: 0 };
    let data = data.load(Split::Train, 80).map_err(Failure::internal)?;
    let data = data.subset(&(0..batch).collect::<Vec<_>>());
    let model = Model::new(&spec.model, data.info()).map_err(Failure::usage)?;
    let model = model.with_threads(args.threads.into());
    let promise = Promise::of(&spec, algorithm.as_ref(), model.parameters()).map_err(Failure::usage)?;
    let promise = promise.map(Arc::new).ok_or_else(|| Failure::internal("the run promises nothing"))?;
    let (w, mut grad) = (model.initial(0), vec![0.0; model.parameters()]);
    let all: Vec<usize> = (0..batch).collect();
    let (plan, key) = (promise.plan(), draw_key().map_err(Failure::internal)?);
    let variance = plan.grid.variance(plan.update_noise).map_err(Failure::internal)?;
    let sampler = Sampler::new(Kind::Rounded, variance).map_err(Failure::internal)?;
    let mut quanta = vec![0; grad.len()];
    let secret = Private::new(Arc::clone(&promise), draw_key().map_err(Failure::internal)?);
    let mut steps = NoisySteps::new(&secret, &model, &data).map_err(Failure::internal)?;
    let mut times = [const { Vec::new() }; 3];
    for number in 0..=args.repeats {
        let plain = timed(|| model.gradient(&w, &data.batch(&all, None), &mut grad).map(drop));
        let noisy = timed(|| steps.gradient(&w, &mut grad));
        let release = key.release(number.into());
        let noise = timed(|| add(&sampler, &release, &mut quanta));
        plain.1.map_err(Failure::internal)?;
        noisy.1.map_err(Failure::internal)?;
        // The first ones warm caches and allocators.
        if number > 0 {
            times.iter_mut().zip([plain.0, noisy.0, noise.0]).for_each(|(all, one)| all.push(one * 1e3));
        }
    }
    let [plain, private, noise] = times.map(|mut times| median(&mut times));
    Ok(Step { parameters: grad.len(), plain, private, noise })
}

fn add(sampler: &Sampler, release: &privacy::sampler::ReleaseKey, sum: &mut [i64]) {
    let shards = sum.par_chunks_mut(SHARD).enumerate();
    shards.for_each(|(shard, sum)| release.add_noise(sampler, (0, shard as u32), sum, 1));
}

fn noise(args: &Args) -> Result<(), Failure> {
    let size = args.parameters.get() as usize;
    let needed = size as u64 * 8;
    if process::available_memory().is_some_and(|available| needed > available / 10 * 9) {
        let message = format!("{size} parameters need about {}: choose fewer", table::bytes(needed));
        return Err(Failure::new(Code::Failed, message));
    }
    let length = NonZeroU64::new(size as u64).ok_or_else(|| Failure::usage("no parameters"))?;
    let norm = ClipNorm::new(1.0).map_err(Failure::internal)?;
    let grid = Grid::new(norm, length).map_err(Failure::internal)?;
    let variance = NoiseMultiplier::new(1.0).and_then(|z| grid.variance(z)).map_err(Failure::internal)?;
    let sampler = Sampler::new(Kind::Rounded, variance).map_err(Failure::internal)?;
    let key: Key = draw_key().map_err(Failure::internal)?;
    let mut sum = vec![1_i64; size];
    let pass = timed(|| sum.par_chunks_mut(SHARD).for_each(|sum| sum.iter_mut().for_each(|x| *x += 1))).0;
    let seconds = timed(|| add(&sampler, &key.release(0), &mut sum)).0;
    black_box(&sum);
    let mut stream = ChaCha20Rng::from_seed([1; 32]);
    let mut bytes = vec![0_u8; 1 << 20];
    let rate = timed(|| (0..256).for_each(|_| stream.fill_bytes(&mut bytes))).0;
    black_box(&bytes);
    let stream_rate = 256.0 * bytes.len() as f64 / rate / 1e9;
    let (draws, gigabytes) = (size as f64 / seconds, 16.0 * size as f64 / seconds / 1e9);
    let threads = rayon::current_num_threads();
    if args.json {
        return output::line(json!({
            "parameters": size, "threads": threads, "seconds": seconds, "draws_per_second": draws,
            "gigabytes_per_second": gigabytes, "stream_gigabytes_per_second": stream_rate, "pass_seconds": pass,
        }));
    }
    output::line(format!(
        "central noise on {size} elements: {seconds:.2} s on {threads} threads, {:.1} M draws/s, {gigabytes:.2} \
         GB/s (ChaCha20 alone: {stream_rate:.2} GB/s of key stream on one thread; a plain pass over the memory: \
         {pass:.2} s)",
        draws / 1e6
    ))
}

fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let value = f();
    (began.elapsed().as_secs_f64(), value)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
