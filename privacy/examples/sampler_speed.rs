//! Processor time of one draw: our exact samplers, opendp's exact one, and rand_distr's inexact normal
//! rounded to integers, all in one run. What `BENCHMARKS.md` reports.
//!
//! `cargo build --workspace --examples && target/debug/examples/sampler_speed`

use std::{hint::black_box, num::NonZeroU64, sync::Mutex, thread, time::Instant};

use opendp::{
    domains::{AtomDomain, VectorDomain},
    measurements::make_gaussian,
    measures::ZeroConcentratedDivergence,
    metrics::L2Distance,
};
use privacy::sampler::{Key, Kind, SHARD, Sampler, Short, shards, short::DRAWS};
use rand_chacha_09::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use rand_distr::{Distribution, StandardNormal};

/// Processor nanoseconds of this thread so far; the kernel counts them in steps of a few milliseconds.
fn processor_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has this file");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("it opens with a number")
}

/// Prints the processor time of one of the draws that a call makes.
fn report(name: &str, draws: usize, mut call: impl FnMut(u64)) {
    let began = processor_ns();
    let mut calls = 0;
    while processor_ns() - began < 4e8 {
        // The clock costs as much as hundreds of draws.
        for _ in 0..10 {
            call(calls);
            calls += 1;
        }
    }
    println!("{:10.1} ns  {name}", (processor_ns() - began) / (calls as f64 * draws as f64));
}

/// What a release of a large model costs, on all cores.
#[allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn report_large() {
    let mut sum = vec![1_i64; 100_000_000];
    let variance = NonZeroU64::new(1 << 36).expect("not 0");
    let sampler = Sampler::new(Kind::Rounded, variance).expect("in bounds");
    let key = Key::new([1; 32]).release(1);
    let (began, cores) = (Instant::now(), thread::available_parallelism().map_or(1, usize::from));
    let spent = Mutex::new(0.0);
    let work = Mutex::new(shards(&mut sum));
    let next = || work.lock().expect("nobody panics with it").next();
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((shard, part)) = next() {
                    key.add_noise(&sampler, (0, shard), part, 1);
                }
                *spent.lock().expect("nobody panics with it") += processor_ns() / 1e9;
            });
        }
    });
    let (wall, spent) = (began.elapsed().as_secs_f64(), spent.into_inner().expect("all threads have ended"));
    println!("{wall:10.2} s   noise for 100 M parameters on {cores} cores ({spent:.2} processor seconds)");
    drop(work);
    black_box(&sum);
}

fn main() {
    report_large();
    let mut sum = vec![0_i64; SHARD];
    let mut random = ChaCha20Rng::seed_from_u64(1);
    let mut bytes = vec![0; 8 * SHARD];
    report("ChaCha20 alone: the 8 bytes of a draw", SHARD, |_| random.fill_bytes(&mut bytes));
    for deviation in [4_u64, 32, 1 << 10, 1 << 16, 1 << 24] {
        for kind in [Kind::Rounded, Kind::Discrete] {
            let variance = NonZeroU64::new(deviation * deviation).expect("not 0");
            let sampler = Sampler::new(kind, variance).expect("in bounds");
            let key = Key::new([1; 32]);
            if let (Kind::Rounded, Some(short)) = (kind, Short::new(variance)) {
                report(&format!("ours, 32 bits a draw, sigma {deviation}"), SHARD, |call| {
                    let release = key.release(call);
                    let mut draws = short.draws(&release, (0, 0));
                    for _ in 0..SHARD / DRAWS {
                        black_box(draws.next_batch());
                    }
                });
            }
            report(&format!("ours, {kind:?}, sigma {deviation}"), SHARD, |call| {
                key.release(call).add_noise(&sampler, (0, 0), &mut sum, 1);
            });
        }
    }
    report("rand_distr StandardNormal f64 with ChaCha20, rounded to an integer (inexact)", SHARD, |_| {
        for x in &mut sum {
            let normal: f64 = StandardNormal.sample(&mut random);
            *x = x.wrapping_add((normal * 1024.0).round() as i64);
        }
    });
    for deviation in [4.0, 1024.0, 65_536.0] {
        let domain = VectorDomain::new(AtomDomain::<i64>::default());
        let noise = make_gaussian::<_, _, ZeroConcentratedDivergence>(
            domain,
            L2Distance::<f64>::default(),
            deviation,
            None,
        );
        let (noise, zeros) = (noise.expect("a mechanism"), vec![0; 1000]);
        report(&format!("opendp make_gaussian i64, sigma {deviation}"), zeros.len(), |_| {
            black_box(noise.invoke(&zeros).expect("noise"));
        });
    }
    black_box(&sum);
}
