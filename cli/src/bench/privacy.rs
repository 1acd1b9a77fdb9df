//! What privacy costs in time: a step of DP-SGD against a plain one on the same records, in turns in one
//! process, and the noise that a coordinator adds to a sum.

use super::round::Size;
use crate::{
    exit::{Code, Failure},
    output, process, table,
};
use privacy::{
    ClipNorm, Grid, NoiseMultiplier,
    sampler::{Key, Kind, ReleaseKey, SHARD, Sampler, Short, short::DRAWS},
};
use proto::spec::RunSpec;
use rand_chacha::rand_core::Rng;
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
/// for steps with model, parameters, batch, threads, plain_ms, private_ms, noise_ms (medians) and ratio, and
/// the same of processor time (plain_processor_ms, …, means over all threads; a busy machine shows in the
/// others first); for noise with parameters, threads, seconds, draws_per_second, gigabytes_per_second (read and written),
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
    /// Seconds of each kind of step
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Elements of the sum that gets central noise; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "100M")]
    parameters: Size,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err(format!("`{text}`: expected seconds above 0 and at most 3600")),
    }
}

/// Measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for model in &args.models {
        for batch in &args.batch {
            let step = step(model, usize::from(*batch), args)?;
            let ([plain, private, noise], cpu) = (step.wall(), step.processor());
            let ratios = [private / plain, cpu[1] / cpu[0]];
            if args.json {
                output::line(json!({
                    "model": model, "parameters": step.parameters, "batch": batch, "threads": args.threads,
                    "plain_ms": plain, "private_ms": private, "noise_ms": noise, "ratio": ratios[0],
                    "plain_processor_ms": cpu[0], "private_processor_ms": cpu[1], "noise_processor_ms": cpu[2],
                    "processor_ratio": ratios[1],
                }))?;
            }
            let names = vec![model.clone(), step.parameters.to_string(), batch.to_string()];
            let cells = [plain, private, ratios[0], cpu[0], cpu[1], cpu[2], ratios[1]];
            rows.push([names, cells.map(|value| format!("{value:.2}")).to_vec()].concat());
        }
    }
    if !args.json {
        let heading = [
            "model",
            "parameters",
            "records",
            "plain ms",
            "DP-SGD ms",
            "ratio",
            "plain, processor ms",
            "DP-SGD, processor ms",
            "of it noise",
            "ratio",
        ];
        output::line(table::table(&heading, &rows))?;
    }
    noise(args)
}

/// Blocks of each kind, in turns.
const BLOCKS: usize = 5;

struct Times {
    /// Seconds of each.
    wall: Vec<f64>,
    /// Seconds of all, on all threads.
    processor: f64,
}

/// Of a plain step, a private one, and its noise alone.
struct Step {
    parameters: usize,
    times: [Times; 3],
    counts: [usize; 3],
}

impl Step {
    /// Milliseconds: the median.
    fn wall(&self) -> [f64; 3] {
        self.times.each_ref().map(|times| 1e3 * median(&mut times.wall.clone()))
    }

    /// Milliseconds of the processor: the mean.
    fn processor(&self) -> [f64; 3] {
        let mut counts = self.counts.iter();
        let mean =
            |times: &Times| 1e3 * times.processor / (BLOCKS * counts.next().copied().unwrap_or(1)) as f64;
        self.times.each_ref().map(mean)
    }
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
    let (mut plain_grad, parameters) = (grad.clone(), grad.len());
    let all: Vec<usize> = (0..batch).collect();
    let secret = Private::new(Arc::clone(&promise), draw_key().map_err(Failure::internal)?);
    let mut steps = NoisySteps::new(&secret, &model, &data).map_err(Failure::internal)?;
    let plan = promise.plan();
    let variance = plan.grid.variance(plan.update_noise).map_err(Failure::internal)?;
    let sampler = Short::new(variance).ok_or_else(|| Failure::internal("steps draw no short noise"))?;
    let (key, mut number) = (draw_key().map_err(Failure::internal)?, 0);
    let mut kinds: [&mut dyn FnMut() -> Result<(), Failure>; 3] = [
        &mut || {
            let done = model.gradient(&w, &data.batch(&all, None), &mut plain_grad);
            done.map(drop).map_err(Failure::internal)
        },
        &mut || steps.gradient(&w, &mut grad).map_err(Failure::internal),
        &mut || {
            number += 1;
            draw(&sampler, &key.release(number), parameters);
            Ok(())
        },
    ];
    let mut times = [const { Times { wall: Vec::new(), processor: 0.0 } }; 3];
    for (kind, times) in kinds.iter_mut().zip(&mut times) {
        // The first ones warm caches and allocators, and say how many fit a block.
        kind()?;
        let first = timed(&mut **kind);
        first.1?;
        times.wall.push(first.0);
    }
    let steps = |first: f64| ((args.seconds / BLOCKS as f64 / first) as usize).clamp(1, 10_000);
    let counts = times.each_ref().map(|times| steps(times.wall[0]));
    for _ in 0..BLOCKS {
        for ((kind, times), count) in kinds.iter_mut().zip(&mut times).zip(counts) {
            let before = processor();
            for _ in 0..count {
                let (seconds, done) = timed(&mut **kind);
                done?;
                times.wall.push(seconds);
            }
            times.processor += processor() - before;
        }
    }
    Ok(Step { parameters, times, counts })
}

/// Seconds that this process has computed, on all threads.
fn processor() -> f64 {
    process::cpu_seconds(std::process::id()).unwrap_or(0.0)
}

/// The noise of a step.
fn draw(sampler: &Short, release: &ReleaseKey, parameters: usize) {
    for first in (0..parameters).step_by(SHARD) {
        let mut draws = sampler.draws(release, (0, (first / SHARD) as u32));
        for _ in 0..(parameters - first).min(SHARD).div_ceil(DRAWS) {
            black_box(draws.next_batch());
        }
    }
}

fn add(sampler: &Sampler, release: &ReleaseKey, sum: &mut [i64]) {
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
    let mut stream = key.release(1).stream(0, 0);
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
