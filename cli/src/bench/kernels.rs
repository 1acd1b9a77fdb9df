//! How near the vector kernels come to what memory allows: each against a plain copy on the same
//! threads, in turns.

use super::round::Size;
use crate::{
    exit::{Code, Failure},
    output, process, table,
};
use ::gossip::kernel as mix;
use serde_json::json;
use std::{hint::black_box, time::Instant};
use worker::engine::vectors::{Adam, Cpu, QUANTUM, Step, VectorKernels};

/// Measures the vector kernels in GB/s, against a copy (`y = x`, read and written bytes) in turns.
///
/// JSON: one object a line for each kernel, with kernel, parameters, threads, bytes (read and written in
/// one call), seconds (median), gigabytes_per_second, copy_gigabytes_per_second, ratio (above 1 where more
/// is read than written).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scalars of a vector; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "25M")]
    parameters: Size,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: u16,
    /// Times that each is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Vectors that kernels work on.
struct Memory {
    x: Vec<Vec<f32>>,
    sums: Vec<i64>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

/// A kernel: its name, bytes that one scalar costs, and a call.
type Kernel = (&'static str, f64, fn(&Cpu, &mut Memory));

const KERNELS: [Kernel; 15] = [
    ("combine, 2 terms", 12.0, |k, m| {
        let [to, a, b, ..] = &mut m.x[..] else { return };
        k.combine(to, &[(0.5, a), (0.25, b)]);
    }),
    ("combine, 6 terms", 28.0, |k, m| {
        let [to, a, b, c, d, e, f] = &mut m.x[..] else { return };
        k.combine(to, &[(0.5, a), (0.25, b), (0.1, c), (0.1, d), (0.1, e), (0.1, f)]);
    }),
    ("dot", 8.0, |k, m| {
        black_box(k.dot(&m.x[0], &m.x[1]));
    }),
    ("square", 4.0, |k, m| {
        black_box(k.square(&m.x[0]));
    }),
    ("clip", 12.0, |k, m| {
        let norm = k.clip(&mut m.x[0], 1e-3);
        m.x[0][0] = norm as f32;
    }),
    ("perturb", 16.0, |k, m| {
        let [to, w, g, ..] = &mut m.x[..] else { return };
        k.perturb(to, w, g, 0.01);
    }),
    ("descend", 12.0, |k, m| {
        let [w, g, ..] = &mut m.x[..] else { return };
        k.descend(w, g, None, &Step { lr: 1e-3, scale: 1.0, weight_decay: 1e-4, ..Step::default() });
    }),
    ("descend, momentum, shift and prox", 28.0, |k, m| {
        let [w, g, momentum, shift, start, ..] = &mut m.x[..] else { return };
        let step = Step {
            lr: 1e-3,
            scale: 1.0,
            weight_decay: 1e-4,
            prox: 0.1,
            momentum: 0.9,
            shift: Some(shift),
            start: Some(start),
        };
        k.descend(w, g, Some(momentum), &step);
    }),
    ("adam", 28.0, |k, m| {
        let [w, g, first, second, ..] = &mut m.x[..] else { return };
        let adam = Adam { lr: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.0 };
        k.adam(w, g, [first, second], &adam);
    }),
    ("encode", 20.0, |k, m| k.encode(&mut m.sums, &m.x[0], 1e6)),
    ("quantise", 5.0, |k, m| k.quantise(&m.x[0], &mut m.codes, &mut m.scales)),
    ("dequantise", 5.0, |k, m| k.dequantise(&m.codes, &m.scales, &mut m.x[0])),
    // A peer's mixing: what is sent is fresh memory, and one thread does it.
    ("mix: split a share off", 20.0, |_, m| {
        let share: Vec<f32> = mix::scaled(0.5, &m.x[0]);
        mix::axpy(&mut m.x[0], -1.0, &share);
        m.x[6] = share;
    }),
    ("mix: add a share", 12.0, |_, m| {
        let [to, share, ..] = &mut m.x[..] else { return };
        mix::add(to, share);
    }),
    ("keep 2 of 4", 8.0, |k, m| k.keep_of(&mut m.x[6], 2, 4)),
];

/// Measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let size = args.parameters.get() as usize;
    let needed = size as u64 * (7 * 4 + 8 + 1);
    if process::available_memory().is_some_and(|available| needed > available / 10 * 9) {
        let message = format!("{size} parameters need about {}: choose fewer", table::bytes(needed));
        return Err(Failure::new(Code::Failed, message));
    }
    let kernels = Cpu::new(args.threads.into());
    let mut memory = Memory {
        x: (0..7)
            .map(|i| (0..size).map(|j| ((i * 31 + j * 7) % 113) as f32 * 0.01 + 0.01).collect())
            .collect(),
        sums: vec![0; size],
        codes: vec![0; size],
        scales: vec![0.0; size.div_ceil(QUANTUM)],
    };
    let mut rows = Vec::new();
    for (name, bytes, call) in KERNELS {
        let (mut seconds, mut copies) = (Vec::new(), Vec::new());
        for _ in 0..=args.repeats {
            copies.push(timed(|| {
                let [to, from, ..] = &mut memory.x[..] else { return };
                kernels.combine(to, &[(1.0, from)]);
            }));
            seconds.push(timed(|| call(&kernels, &mut memory)));
        }
        let (seconds, copy) = (median(&mut seconds[1..]), median(&mut copies[1..]));
        let rate = |bytes: f64, seconds: f64| bytes * size as f64 / seconds / 1e9;
        let (ours, copy) = (rate(bytes, seconds), rate(8.0, copy));
        if args.json {
            output::line(json!({
                "kernel": name,
                "parameters": size,
                "threads": args.threads,
                "bytes": bytes * size as f64,
                "seconds": seconds,
                "gigabytes_per_second": ours,
                "copy_gigabytes_per_second": copy,
                "ratio": ours / copy,
            }))?;
        }
        let cells = [seconds * 1e3, ours, copy].map(|value| format!("{value:.1}"));
        rows.push([vec![name.to_owned()], cells.to_vec(), vec![format!("{:.2}", ours / copy)]].concat());
    }
    if args.json {
        return Ok(());
    }
    output::line(table::table(&["kernel", "ms", "GB/s", "copy GB/s", "ratio"], &rows))
}

fn timed(f: impl FnOnce()) -> f64 {
    let began = Instant::now();
    f();
    began.elapsed().as_secs_f64()
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
