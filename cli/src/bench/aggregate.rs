//! How far aggregation is from what memory allows: the coordinator's fixed-point fold against a pass
//! that moves the same bytes (reads the update, reads and writes the sum) and computes nothing but an
//! integer addition. Both run in turns, in this process, on all cores.

use super::round::Size;
use crate::{
    exit::{Code, Failure},
    output, process, table,
};
use algorithms::{
    fold::{Accumulator, Fold, Scale, UploadFacts, Weighting},
    seed,
};
use rayon::prelude::*;
use serde_json::json;
use std::{hint::black_box, time::Instant};

const FOLD: Fold = Fold { into: "delta", from: "delta", weighting: Weighting::Examples, scale: Scale::One };
const FACTS: UploadFacts = UploadFacts { examples: 600, steps: 12, lr: 0.05 };
/// As the coordinator's fold: 256 KiB of sum and update together.
const BLOCK: usize = 16 * 1024;

/// Folds updates into an accumulator and compares with a plain pass over the same memory.
///
/// JSON: one object with updates, parameters, repeats, fold_seconds, pass_seconds (medians for all
/// updates), ratio, fold_gigabytes_per_second (20 bytes a scalar).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Updates in a round
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=40))]
    updates: u16,
    /// Scalars in an update; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "25M")]
    parameters: Size,
    /// Times that both are measured
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let size = args.parameters.get() as usize;
    let needed = size as u64 * (16 + 2 * 4);
    if process::available_memory().is_some_and(|available| needed > available / 10 * 9) {
        let message = format!("{size} parameters need about {}: choose fewer", table::bytes(needed));
        return Err(Failure::new(Code::Failed, message));
    }
    // Two different updates, in turns: one alone could stay in the cache if it is small.
    let updates: Vec<Vec<f32>> = (0..2).map(|u| noise(size, u)).collect();
    let mut accumulators = [Accumulator::new(FOLD, size)];
    let mut plain = vec![0_i64; size];
    let (mut fold, mut pass) = (Vec::new(), Vec::new());
    for _ in 0..=args.repeats {
        let began = Instant::now();
        for turn in 0..usize::from(args.updates) {
            coordinator::fold(&mut accumulators, &[("delta", size)], &updates[turn % 2], &FACTS);
        }
        fold.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        for turn in 0..usize::from(args.updates) {
            add(&mut plain, &updates[turn % 2]);
        }
        pass.push(began.elapsed().as_secs_f64());
    }
    black_box((&accumulators, &plain));
    let (fold, pass) = (median(&mut fold[1..]), median(&mut pass[1..]));
    let rate = size as f64 * f64::from(args.updates) * 20.0 / fold / 1e9;
    if args.json {
        return output::line(json!({
            "updates": args.updates,
            "parameters": size,
            "repeats": args.repeats,
            "fold_seconds": fold,
            "pass_seconds": pass,
            "ratio": fold / pass,
            "fold_gigabytes_per_second": rate,
        }));
    }
    output::line(format!(
        "{} updates of {size} scalars: fold {:.1} ms, plain pass over the same memory {:.1} ms, ratio {:.2}, {rate:.1} GB/s",
        args.updates,
        fold * 1e3,
        pass * 1e3,
        fold / pass
    ))
}

fn noise(size: usize, update: u64) -> Vec<f32> {
    (0..size as u64).map(|i| (seed::unit(seed::mix(i ^ (update << 40))) as f32 - 0.5) * 0.01).collect()
}

/// The plain pass: reads the update, reads and writes the sums, adds integers.
fn add(sum: &mut [i64], update: &[f32]) {
    sum.par_chunks_mut(BLOCK).zip(update.par_chunks(BLOCK)).for_each(|(sum, update)| {
        for (sum, x) in sum.iter_mut().zip(update) {
            *sum = sum.wrapping_add(i64::from(x.to_bits()));
        }
    });
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
