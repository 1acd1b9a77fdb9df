//! How near the vector kernels come to what memory allows: each against a plain copy on the same device,
//! in turns, after each was checked against arithmetic in f64.

mod noise;

use super::round::Size;
use crate::{
    exit::{Code, Failure},
    output, process, table,
};
use serde_json::json;
use std::{hint::black_box, str::FromStr, sync::Arc, time::Instant};
use worker::engine::{
    cuda::{Cuda, Device, DeviceError, default_folder},
    vectors::{
        Cpu, VectorKernels,
        cases::{Case, Found, MEMORY_BYTES, Memory, check},
    },
};

/// Scalars of the vectors that kernels are checked on: no multiple of four.
const CHECKED: usize = 1_000_005;

/// Checks the vector kernels, then measures them in GB/s, against a copy (`y = x`, read and written bytes) in
/// turns.
///
/// Ends with 1 if an error is above its bound. JSON: one object a line for each kernel, with kernel, device,
/// parameters, threads (of the CPU), bytes (read and written in one call), seconds (median),
/// gigabytes_per_second, copy_gigabytes_per_second, ratio (above 1 where more is read than written, or where lines
/// are written that are not read first, as an ordinary store and this copy do); processor_ratio (of a CPU's processor
/// times, for a machine that has other things to do); error
/// (the largest against f64, relative to numbers above 1, on 1,000,005 scalars), bound, from_cpu (the largest
/// difference from the CPU's kernel). On a GPU then exact Gaussian noise on sums, as a private run needs it: one
/// object for each law, with noise, variance, parameters, seconds, per_second, and equal (whether all of
/// 196,685 sums are the CPU's).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scalars of a vector; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "25M")]
    parameters: Size,
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Place,
    /// Threads of the CPU
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: u16,
    /// Times that each is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Where kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Cpu,
    Cuda(usize),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        ordinal.map(Self::Cuda).ok_or_else(|| format!("`{text}`; expected cpu, cuda or cuda:N"))
    }
}

/// A device, and how often a kernel runs between two looks at the clock.
struct Bench<'a, K> {
    args: &'a Args,
    kernels: K,
    name: String,
    runs: u32,
}

/// Checks, measures and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let needed = args.parameters.get() * MEMORY_BYTES as u64;
    if args.device == Place::Cpu && process::available_memory().is_some_and(|free| needed > free / 10 * 9) {
        let message =
            format!("{} parameters need about {}: choose fewer", args.parameters.get(), table::bytes(needed));
        return Err(Failure::new(Code::Failed, message));
    }
    match args.device {
        Place::Cpu => {
            let kernels = Cpu::new(args.threads.into());
            Bench { args, kernels, name: format!("cpu, {} threads", args.threads), runs: 1 }.measure()
        }
        Place::Cuda(ordinal) => {
            let device = Device::open(ordinal, default_folder()).map_err(failed)?;
            let name = device.name().to_owned();
            let kernels = Cuda::new(Arc::clone(&device)).map_err(failed)?;
            // Launches and waits are far shorter than the work of so many.
            let vectors = Bench { args, kernels, name, runs: 10 }.measure();
            let noise = noise::measure(args, &device);
            vectors.and(noise)
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: DeviceError) -> Failure {
    let hint = "see `starling worker devices` for what this machine has";
    Failure::new(Code::Failed, format!("{error}; {hint}"))
}

impl<K: VectorKernels> Bench<'_, K> {
    fn measure(&self) -> Result<(), Failure> {
        let checked = check(&self.kernels, CHECKED).map_err(failed)?;
        let mut memory =
            Memory::new(&self.kernels, self.args.parameters.get() as usize, false).map_err(failed)?;
        let mut rows = Vec::new();
        for case in Case::ALL {
            let (kernel, copy) = self.time(case, &mut memory).map_err(failed)?;
            let rate = |bytes: f64, seconds: f64| bytes * memory.len() as f64 / seconds / 1e9;
            let processor_ratio = case.bytes() / kernel.processor / (8.0 / copy.processor);
            let seconds = kernel.wall;
            let (ours, copy) = (rate(case.bytes(), seconds), rate(8.0, copy.wall));
            let Some(found) = checked.iter().find(|found| found.case == case) else { continue };
            if self.args.json {
                output::line(json!({
                    "kernel": case.name(),
                    "device": self.name,
                    "parameters": memory.len(),
                    "threads": self.args.threads,
                    "bytes": case.bytes() * memory.len() as f64,
                    "seconds": seconds,
                    "gigabytes_per_second": ours,
                    "copy_gigabytes_per_second": copy,
                    "ratio": ours / copy,
                    "processor_ratio": processor_ratio,
                    "error": found.error,
                    "bound": found.bound,
                    "from_cpu": found.from_cpu,
                }))?;
            }
            let mut row = vec![case.name(), format!("{:.3}", seconds * 1e3)];
            row.extend([ours, copy].map(|value| format!("{value:.1}")));
            row.push(format!("{:.2}", ours / copy));
            row.extend([found.error, found.bound, found.from_cpu].map(|value| format!("{value:.1e}")));
            rows.push(row);
        }
        if !self.args.json {
            let head = ["kernel", "ms", "GB/s", "copy GB/s", "ratio", "error", "bound", "from cpu"];
            output::line(table::table(&head, &rows))?;
            output::line(format!("{}, {} parameters", self.name, memory.len()))?;
        }
        verdict(&checked)
    }

    /// Medians of what a run and a copy took.
    fn time(&self, case: Case, memory: &mut Memory<K>) -> Result<(Took, Took), DeviceError> {
        let (mut seconds, mut copies) = (Vec::new(), Vec::new());
        // A vector whose small parts are gone is another problem.
        let runs = if case == Case::KeepLargest { 1 } else { self.runs };
        for _ in 0..=self.args.repeats {
            copies.push(self.timed(self.runs, || memory.copy(&self.kernels))?);
            seconds.push(self.timed(runs, || {
                black_box(case.run(&self.kernels, memory));
            })?);
        }
        Ok((Took::median(&seconds[1..]), Took::median(&copies[1..])))
    }

    /// What one of so many calls takes.
    fn timed(&self, runs: u32, mut call: impl FnMut()) -> Result<Took, DeviceError> {
        self.kernels.wait()?;
        let (began, used) = (Instant::now(), processor());
        (0..runs).for_each(|_| call());
        self.kernels.wait()?;
        let (wall, processor) = (began.elapsed().as_secs_f64(), processor() - used);
        Ok(Took { wall: wall / f64::from(runs), processor: processor / f64::from(runs) })
    }
}

/// Seconds.
#[derive(Debug, Clone, Copy)]
struct Took {
    wall: f64,
    /// Of all threads of this process.
    processor: f64,
}

impl Took {
    fn median(all: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| median(&mut all.iter().map(of).collect::<Vec<_>>());
        Self { wall: median(|took| took.wall), processor: median(|took| took.processor) }
    }
}

/// Processor seconds so far.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn verdict(checked: &[Found]) -> Result<(), Failure> {
    let bad: Vec<String> = checked
        .iter()
        .filter(|found| !found.good())
        .map(|found| {
            let (error, bound, from_cpu) = (found.error, found.bound, found.from_cpu);
            format!("{}: error {error:e}, from the CPU's {from_cpu:e}, at most {bound:e}", found.case.name())
        })
        .collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(Code::Failed, bad.join("; "))) }
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_names() {
        assert_eq!("cpu".parse(), Ok(Place::Cpu));
        assert_eq!("cuda".parse(), Ok(Place::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Place::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            let reason = wrong.parse::<Place>().unwrap_err();
            assert!(reason.contains("cuda:N"), "{reason}");
        }
    }
}
