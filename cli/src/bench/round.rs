//! How long a round takes, what the coordinator needs for it, and what travels, when nobody trains.
//!
//! Real processes on loopback, model kind `flat`, FedAvg. The first round is not counted: workers
//! fetch the model for the first time, and connections open. A round lasts from one commit to the next,
//! the disk's time included. What the machine allows is measured before and after, without the processes.

use super::limit::Limit;
use crate::{
    client::Operator,
    exit::{Code, Failure},
    fleet::{Fleet, Plan},
    life, output, process, run,
    run::Seen,
    table,
};
use indicatif::{ProgressBar, ProgressStyle};
use proto::{
    event::{Metrics, RunEvent},
    limits,
};
use serde_json::json;
use std::{path::Path, str::FromStr, time::Instant};
use worker::data::Source;

/// Measures seconds, memory and traffic of a round, without training.
///
/// Starts a coordinator and workers for each pair of sizes. JSON: one object a line for each pair, with workers, parameters, rounds, seconds_median, seconds_min,
/// seconds_max (from one commit to the next), limit_bytes_seconds (the same bytes over loopback TCP, nothing
/// else), ratio_bytes (median to that), limit_seconds (those, the checksums, digests, copies and folds that
/// the bytes need, the server's step, and a model to disk), ratio (median to that), ratio_cpu (processor seconds to those of the
/// limit: the one that other programs on the machine hardly change), limit_loopback_cpu_seconds,
/// limit_passes_cpu_seconds and limit_disk_seconds (waiting for the disk; what the limits are made of), coordinator_cpu_seconds and
/// workers_cpu_seconds (of a round; all workers together), coordinator_peak_bytes, worker_peak_bytes (the largest of
/// all), bytes_down, bytes_up (of a round).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Numbers of workers
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [2_u16, 10],
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Vec<u16>,
    /// Model sizes in scalars; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_values = ["100k", "1M", "10M"])]
    parameters: Vec<Size>,
    /// Rounds to measure, after the first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Encrypts, as deployments do; without it the cost of federation alone is measured
    #[arg(long)]
    tls: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// A number of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    /// The number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}`: expected a number such as 5000, 100k, 10M or 1G");
        let scales = [('k', 1_000_u64), ('M', 1_000_000), ('G', 1_000_000_000)];
        let scale = scales.into_iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
        let (digits, scale) = scale.unwrap_or((text, 1));
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        match number {
            Some(size) if (1..=limits::PARAMETERS_MAX).contains(&size) => Ok(Self(size)),
            Some(size) => Err(format!("{size} is out of range, expected 1 to {}", limits::PARAMETERS_MAX)),
            None => Err(wrong()),
        }
    }
}

/// What one pair of sizes measured.
struct Measured {
    workers: u16,
    parameters: u64,
    /// Of each counted round, sorted.
    seconds: Vec<f64>,
    limit: Limit,
    /// Processor seconds a round: the coordinator's, and all workers'.
    cpu: (f64, f64),
    coordinator_peak: Option<u64>,
    worker_peak: Option<u64>,
    bytes_down: u64,
    bytes_up: u64,
}

/// Measures all pairs and prints them.
pub(crate) async fn measure(args: &Args) -> Result<(), Failure> {
    let pairs: Vec<(u16, u64)> = args
        .parameters
        .iter()
        .flat_map(|&Size(size)| args.workers.iter().map(move |&workers| (workers, size)))
        .collect();
    if let Some(available) = process::available_memory() {
        pairs.iter().try_for_each(|&(workers, size)| fits(workers, size, available))?;
    }
    let bar = ProgressBar::new(pairs.len() as u64 * (args.rounds + 1));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds  {elapsed}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut all = Vec::new();
    for (workers, size) in pairs {
        bar.set_message(format!("{workers} workers, {size} parameters"));
        let measured = one((workers, size), args.rounds, args.tls, &bar).await?;
        if args.json {
            bar.suspend(|| output::line(measured.json()))?;
        }
        all.push(measured);
    }
    bar.finish_and_clear();
    if args.json { Ok(()) } else { output::line(listing(&all)) }
}

/// Memory that the processes need together: beside a base each, the coordinator holds the old and the
/// new model, the accumulator (8 bytes a scalar) and three payloads; a worker the model, its change and a
/// vector on its way (9 bytes a scalar were measured).
fn memory(workers: u16, parameters: u64) -> u64 {
    const BASE: u64 = 48 << 20;
    (BASE + 28 * parameters) + u64::from(workers) * (BASE + 12 * parameters)
}

fn fits(workers: u16, parameters: u64, available: u64) -> Result<(), Failure> {
    let needed = memory(workers, parameters);
    if needed <= available / 10 * 9 {
        return Ok(());
    }
    Err(Failure::new(
        Code::Failed,
        format!(
            "{workers} workers with {parameters} parameters need about {}, but only {} of memory are available: \
             choose fewer --workers or smaller --parameters",
            table::bytes(needed),
            table::bytes(available)
        ),
    ))
}

fn spec(workers: u16, parameters: u64, rounds: u64) -> String {
    format!(
        "name = \"bench-{workers}-{parameters}\"\nrounds = {}\n[model]\nkind = \"flat\"\nparameters = {parameters}\n\
         [data]\nname = \"bench\"\npartition = {{ kind = \"iid\" }}\n[local]\nsteps = 1\nbatch = 1\n\
         [cohort]\nmin_workers = {workers}\nmin_updates = {workers}\n[evaluation]\nevery = 0\n",
        rounds + 1
    )
}

async fn one(
    (workers, parameters): (u16, u64),
    rounds: u64,
    tls: bool,
    bar: &ProgressBar,
) -> Result<Measured, Failure> {
    let folder = tempfile::Builder::new().prefix("starling-bench-").tempdir();
    let folder = folder.map_err(|error| Failure::new(Code::Create, format!("temporary folder: {error}")))?;
    let source = Source::Digits { train: usize::from(workers) * 10, test: 10, seed: 0 };
    let plan = Plan {
        folder: folder.path().to_owned(),
        workers: usize::from(workers),
        data: ("bench".to_owned(), source),
        tls,
    };
    let before = measure_limit(workers, parameters, folder.path()).await?;
    let mut fleet = life::interruptible(Fleet::start(&plan)).await?;
    let ids = fleet.ids();
    let mut metrics: Vec<Metrics> = Vec::new();
    let (mut cpu, mut ends) = (Vec::new(), Vec::new());
    let work = async {
        let run = Operator::connect(fleet.target()).await?.submit(spec(workers, parameters, rounds)).await?;
        let each = |seen: Seen<'_>| {
            if let Seen::Event(run::Logged {
                event: Some(RunEvent::RoundMetrics { metrics: line }), ..
            }) = seen
            {
                metrics.push(line.clone());
                ends.push(Instant::now());
                cpu.push(cpu_seconds(&ids));
                bar.inc(1);
            }
            Ok(())
        };
        let ended = fleet.follow(&run.id, each).await?;
        run::verdict(&run.id, &ended)
    };
    let done = life::interruptible(work).await;
    let (coordinator_peak, worker_peak) = fleet.peak_memory();
    let stopped = fleet.stop().await;
    done?;
    stopped?;
    let limit = before.or_better(measure_limit(workers, parameters, folder.path()).await?);
    let mut seconds: Vec<f64> = ends.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    let last = metrics.last().ok_or_else(|| Failure::internal("the run ended without metrics"))?;
    let (bytes_down, bytes_up) = (last.bytes_down, last.bytes_up);
    let cpu = a_round(&cpu);
    Ok(Measured {
        workers,
        parameters,
        seconds,
        limit,
        cpu,
        coordinator_peak,
        worker_peak,
        bytes_down,
        bytes_up,
    })
}

async fn measure_limit(workers: u16, parameters: u64, folder: &Path) -> Result<Limit, Failure> {
    let folder = folder.to_owned();
    let measured = tokio::task::spawn_blocking(move || Limit::measure(workers, parameters, &folder)).await;
    measured
        .map_err(Failure::internal)?
        .map_err(|error| Failure::new(Code::Failed, format!("the machine cannot be measured: {error}")))
}

/// Processor seconds so far: the coordinator's, and all workers'.
fn cpu_seconds((coordinator, workers): &(Option<u32>, Vec<u32>)) -> (f64, f64) {
    let of = |id: &u32| process::cpu_seconds(*id).unwrap_or(f64::NAN);
    (coordinator.as_ref().map_or(f64::NAN, of), workers.iter().map(of).sum())
}

/// The mean growth from the end of the first round on.
fn a_round(so_far: &[(f64, f64)]) -> (f64, f64) {
    let (Some(first), Some(last)) = (so_far.first(), so_far.last()) else { return (f64::NAN, f64::NAN) };
    let rounds = (so_far.len() - 1) as f64;
    ((last.0 - first.0) / rounds, (last.1 - first.1) / rounds)
}

impl Measured {
    fn median(&self) -> f64 {
        let middle = self.seconds.len() / 2;
        match self.seconds.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => self.seconds[middle],
            _ => f64::midpoint(self.seconds[middle - 1], self.seconds[middle]),
        }
    }

    /// Processor seconds of a round, to those that it needs.
    fn ratio_cpu(&self) -> f64 {
        (self.cpu.0 + self.cpu.1) / (self.limit.loopback + self.limit.passes)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "workers": self.workers, "parameters": self.parameters, "rounds": self.seconds.len(),
            "seconds_median": self.median(), "seconds_min": self.seconds.first(),
            "seconds_max": self.seconds.last(), "limit_bytes_seconds": self.limit.bytes(),
            "ratio_bytes": self.median() / self.limit.bytes(), "limit_seconds": self.limit.seconds(),
            "ratio": self.median() / self.limit.seconds(), "ratio_cpu": self.ratio_cpu(), "limit_loopback_cpu_seconds": self.limit.loopback,
            "limit_passes_cpu_seconds": self.limit.passes, "limit_disk_seconds": self.limit.disk,
            "coordinator_cpu_seconds": self.cpu.0, "workers_cpu_seconds": self.cpu.1,
            "coordinator_peak_bytes": self.coordinator_peak,
            "worker_peak_bytes": self.worker_peak, "bytes_down": self.bytes_down, "bytes_up": self.bytes_up,
        })
    }
}

fn listing(all: &[Measured]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                one.workers.to_string(),
                one.parameters.to_string(),
                format!("{:.3}", one.median()),
                format!("{:.3} {:.1} ×", one.limit.bytes(), one.median() / one.limit.bytes()),
                format!("{:.3} {:.2} ×", one.limit.seconds(), one.median() / one.limit.seconds()),
                format!("{:.2} + {:.2} {:.2} ×", one.cpu.0, one.cpu.1, one.ratio_cpu()),
                table::or_dash(one.coordinator_peak, table::bytes),
                table::or_dash(one.worker_peak, table::bytes),
                table::bytes(one.bytes_down),
                table::bytes(one.bytes_up),
            ]
        })
        .collect();
    let heading = [
        "workers",
        "parameters",
        "s/round (median)",
        "bytes alone",
        "limit",
        "CPU s/round (coordinator + workers)",
        "coordinator peak",
        "largest worker peak",
        "down/round",
        "up/round",
    ];
    table::table(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::RunSpec;

    #[test]
    fn sizes_in_words() {
        for (text, want) in [("7", 7), ("100k", 100_000), ("10M", 10_000_000), ("1G", 1_000_000_000)] {
            assert_eq!(text.parse::<Size>(), Ok(Size(want)));
        }
        for wrong in ["", "k", "1m", "0", "-1", "99999999999999999999", "99G"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_measured_run_is_valid() {
        let spec = RunSpec::from_toml(&spec(10, 1_000_000, 5)).unwrap();
        assert_eq!((spec.rounds, spec.evaluation.every, spec.cohort.min_updates), (6, 0, 10));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        fits(10, 1_000_000, 8 << 30).unwrap();
        let failure = fits(10, 100_000_000, 8 << 30).unwrap_err();
        assert!(failure.message.contains("10 workers") && failure.message.contains("15.4 GB"), "{failure}");
    }

    #[test]
    fn the_middle_of_the_rounds() {
        let with = |seconds: &[f64]| {
            let (coordinator_peak, worker_peak) = (Some(1_000), None);
            let seconds = seconds.to_vec();
            Measured {
                workers: 2,
                parameters: 5,
                seconds,
                limit: Limit { loopback: 0.0, passes: 0.0, disk: 0.75 },
                cpu: (1.0, 2.0),
                coordinator_peak,
                worker_peak,
                bytes_down: 1,
                bytes_up: 1,
            }
        };
        assert_eq!(with(&[1.0, 2.0, 9.0]).median(), 2.0);
        assert_eq!(with(&[1.0, 2.0]).median(), 1.5);
        let listing = listing(&[with(&[1.5])]);
        assert!(listing.contains("1.0 kB") && listing.contains("2.00 ×"), "{listing}");
        assert_eq!(a_round(&[(5.0, 1.0), (6.0, 3.0), (9.0, 5.0)]), (2.0, 2.0));
    }
}
