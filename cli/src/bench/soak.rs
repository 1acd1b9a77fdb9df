//! A long run while workers leave, are killed, come and come back: the coordinator's memory, open files
//! and disk must not grow beyond what the run needs.

use super::crowd::Crowd;
use crate::{
    client::Operator,
    exit::{Code, Failure},
    fleet::{Fleet, Plan},
    life, output, process, run,
    run::Seen,
    table,
};
use indicatif::{ProgressBar, ProgressStyle};
use proto::event::RunEvent;
use serde_json::json;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};
use worker::data::Source;

/// Samples that are taken over the run.
const SAMPLES: u32 = 40;
/// Resident memory may differ by so much between the first and the last third: allocators keep pages.
const MEMORY_SLACK: f64 = 8e6;

/// Runs many rounds while workers come and go, and checks that nothing grows in the coordinator.
///
/// After every round one worker leaves (every second one is killed) and another comes; names come back
/// after a while. Ends with code 1 if memory, open files or disk grow. JSON: one object with workers, parameters,
/// rounds, seconds, joined (workers started), short (rounds with less than the whole cohort),
/// resident_bytes, open_files, disk_bytes (each a list over the run), resident_growth (bytes, last
/// third to first), open_files_growth, disk_bytes_per_round, verdict (`flat`, or what grew).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    rounds: u32,
    /// Workers that are there at the same time
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=1000))]
    workers: u32,
    /// Scalars of the model
    #[arg(long, value_name = "P", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    parameters: u32,
    /// Encrypts, and everybody has a certificate
    #[arg(long)]
    tls: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// One look at the coordinator.
#[derive(Debug, Clone, Copy)]
struct Sample {
    round: u64,
    resident: u64,
    files: usize,
    disk: u64,
}

#[derive(Debug, Default)]
struct Measured {
    samples: Vec<Sample>,
    joined: u32,
    short: u64,
    seconds: f64,
}

/// Runs, and says what grew.
pub(crate) async fn measure(args: &Args) -> Result<(), Failure> {
    life::raise_file_limit();
    let folder = tempfile::Builder::new().prefix("starling-soak-").tempdir();
    let folder = folder.map_err(|error| Failure::new(Code::Create, format!("temporary folder: {error}")))?;
    let data = ("bench".to_owned(), Source::Digits { train: 10, test: 10, seed: 0 });
    let plan = Plan { folder: folder.path().to_owned(), workers: 0, data, tls: args.tls };
    let mut fleet = life::interruptible(Fleet::start(&plan)).await?;
    let mut crowd = Crowd::new(&plan, fleet.target())?;
    let store = plan.folder.join("coordinator");
    let measured = life::interruptible(one(args, (&mut fleet, &mut crowd), &store)).await;
    let left = crowd.leave().await;
    let stopped = fleet.stop().await;
    let measured = measured?;
    left?;
    stopped?;
    print(args, &measured)
}

/// Who is here and who is away; names come back in order.
struct Shift {
    here: VecDeque<String>,
    away: VecDeque<String>,
    turns: u32,
}

impl Shift {
    fn new(workers: u32) -> Self {
        let names = |range: std::ops::Range<u32>| range.map(|number| format!("w{number}")).collect();
        Self { here: names(0..workers), away: names(workers..2 * workers), turns: 0 }
    }

    /// The oldest leaves, the one that was away for longest comes.
    fn turn(&mut self, crowd: &mut Crowd) -> Result<(), Failure> {
        let (Some(leaves), Some(comes)) = (self.here.pop_front(), self.away.pop_front()) else {
            return Ok(());
        };
        if self.turns.is_multiple_of(2) {
            crowd.kill(&leaves);
        } else {
            crowd.ask_to_leave(&leaves);
        }
        crowd.add(&comes)?;
        self.turns += 1;
        self.away.push_back(leaves);
        self.here.push_back(comes);
        Ok(())
    }
}

async fn one(
    args: &Args,
    (fleet, crowd): (&mut Fleet, &mut Crowd),
    store: &Path,
) -> Result<Measured, Failure> {
    let id = fleet.ids().0.ok_or_else(|| Failure::internal("the coordinator is gone"))?;
    let bar = ProgressBar::new(u64::from(args.rounds));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds  {elapsed}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut shift = Shift::new(args.workers);
    shift.here.iter().try_for_each(|name| crowd.add(name))?;
    let submitted = Operator::connect(fleet.target()).await?.submit(spec(args)).await?;
    let every = u64::from((args.rounds / SAMPLES).max(1));
    let mut measured = Measured { joined: args.workers, ..Measured::default() };
    let began = std::time::Instant::now();
    let each = |seen: Seen<'_>| {
        let Seen::Event(run::Logged { event: Some(RunEvent::RoundMetrics { metrics }), .. }) = seen else {
            return Ok(());
        };
        bar.set_position(metrics.round + 1);
        measured.short += u64::from(metrics.participants < cohort(args) as usize);
        if metrics.round.is_multiple_of(every) {
            let resident = process::resident_memory(id).unwrap_or(0);
            let files = process::open_files(id).unwrap_or(0);
            let disk = disk_usage(store).unwrap_or(0);
            measured.samples.push(Sample { round: metrics.round, resident, files, disk });
        }
        measured.joined += 1;
        shift.turn(crowd)
    };
    let ended = fleet.follow(&submitted.id, each).await?;
    run::verdict(&submitted.id, &ended)?;
    measured.seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Ok(measured)
}

/// Half of those who are here: one who leaves is missed now and then.
fn cohort(args: &Args) -> u32 {
    args.workers / 2
}

fn spec(args: &Args) -> String {
    let Args { rounds, parameters, .. } = args;
    let (cohort, fewest) = (cohort(args), cohort(args) / 2);
    format!(
        "name = \"soak\"\nrounds = {rounds}\n[model]\nkind = \"flat\"\nparameters = {parameters}\n\
         [data]\nname = \"bench\"\n[algorithm]\nkind = \"scaffold\"\n[local]\nsteps = 1\nbatch = 1\n\
         [cohort]\nsize = {cohort}\nmin_workers = {cohort}\nmin_updates = {fewest}\ndeadline_s = 10\nrejoin_s = 1\n\
         [evaluation]\nevery = 0\n"
    )
}

/// Bytes of all files under a folder.
fn disk_usage(folder: &Path) -> std::io::Result<u64> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            // A file may vanish in this instant.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() { folders.push(entry.path()) } else { bytes += about.len() }
        }
    }
    Ok(bytes)
}

/// The mean of the last third less the mean of the first, without the very first sample.
fn growth(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let samples = &samples[samples.len().min(1)..];
    let third = (samples.len() / 3).max(1);
    let mean = |part: &[Sample]| part.iter().map(&of).sum::<f64>() / part.len().max(1) as f64;
    mean(&samples[samples.len().saturating_sub(third)..]) - mean(&samples[..third.min(samples.len())])
}

/// What grew beyond what the run needs; empty: nothing.
fn grown(args: &Args, samples: &[Sample]) -> (Vec<&'static str>, f64, f64, f64) {
    let memory = growth(samples, |sample| sample.resident as f64);
    let files = growth(samples, |sample| sample.files as f64);
    let span = growth(samples, |sample| sample.round as f64).max(1.0);
    let disk = growth(samples, |sample| sample.disk as f64) / span;
    let mut grown = Vec::new();
    if memory > MEMORY_SLACK + 0.1 * samples.first().map_or(0.0, |sample| sample.resident as f64) {
        grown.push("memory");
    }
    // As many connections more as workers may be on their way out.
    if files > f64::from(args.workers) {
        grown.push("open files");
    }
    // The log of a round, and less than a vector that stays behind.
    if disk > f64::from(args.parameters) * 2.0 {
        grown.push("disk");
    }
    (grown, memory, files, disk)
}

fn print(args: &Args, measured: &Measured) -> Result<(), Failure> {
    let samples = &measured.samples;
    let (grown, memory, files, disk) = grown(args, samples);
    let verdict = if grown.is_empty() { "flat".to_owned() } else { format!("{} grew", grown.join(", ")) };
    if args.json {
        output::line(json!({
            "workers": args.workers, "parameters": args.parameters, "rounds": args.rounds,
            "seconds": measured.seconds, "joined": measured.joined, "short": measured.short,
            "resident_bytes": samples.iter().map(|sample| sample.resident).collect::<Vec<_>>(),
            "open_files": samples.iter().map(|sample| sample.files).collect::<Vec<_>>(),
            "disk_bytes": samples.iter().map(|sample| sample.disk).collect::<Vec<_>>(),
            "resident_growth": memory, "open_files_growth": files, "disk_bytes_per_round": disk,
            "verdict": verdict,
        }))?;
    } else {
        let last = samples.last().map_or(0, |sample| sample.resident);
        output::line(table::pairs(&[
            ("rounds", format!("{} in {:.0} s", args.rounds, measured.seconds)),
            ("workers started", measured.joined.to_string()),
            ("rounds without some of the cohort", measured.short.to_string()),
            ("memory at the end, growth", format!("{}, {:+.1} MB", table::bytes(last), memory * 1e-6)),
            ("open files, growth", format!("{files:+.1}")),
            ("disk a round", format!("{disk:.0} B")),
            ("verdict", verdict.clone()),
        ]))?;
    }
    if grown.is_empty() { Ok(()) } else { Err(Failure::new(Code::Failed, verdict)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_named() {
        let args = Args { rounds: 100, workers: 8, parameters: 10_000, tls: false, json: true };
        let run = |memory: u64, files: usize, disk: u64| -> Vec<Sample> {
            let of = |n: u64| Sample {
                round: n * 10,
                resident: 30_000_000 + n * memory,
                files: 20 + n as usize * files,
                disk: 1_000_000 + n * disk,
            };
            (0..10).map(of).collect()
        };
        assert!(grown(&args, &run(10_000, 0, 20_000)).0.is_empty());
        assert_eq!(grown(&args, &run(3_000_000, 0, 0)).0, ["memory"]);
        assert_eq!(grown(&args, &run(0, 3, 0)).0, ["open files"]);
        // A vector of 40 kB each round.
        assert_eq!(grown(&args, &run(0, 0, 400_000)).0, ["disk"]);
    }
}
