//! Many seeds, or one again: runs schedules over all profiles and stateful rules, says what went
//! wrong, and ends with code 1 if anything did.
//!
//! ```text
//! cargo run --release -p simulation --example soak -- --seeds 100000
//! cargo run -p simulation --example soak -- --profile disks --algorithm scaffold --from 17 --seeds 1
//! ```

use simulation::{Incidents, PROFILES, Profile, Report, run, stateful};
use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Failures that are shown in full.
const SHOWN: usize = 5;

struct Plan {
    profiles: Vec<&'static Profile>,
    algorithms: Vec<String>,
    from: u64,
    seeds: u64,
}

/// What all threads add to.
#[derive(Default)]
struct Total {
    seeds: u64,
    rounds: u64,
    events: u64,
    virtual_s: u64,
    incidents: Incidents,
    failures: Vec<String>,
}

fn plan() -> Result<Plan, String> {
    let algorithms = stateful().into_iter().map(str::to_owned).collect();
    let mut plan = Plan { profiles: PROFILES.iter().collect(), algorithms, from: 0, seeds: 1_000 };
    let mut words = std::env::args().skip(1);
    while let Some(key) = words.next() {
        let value = words.next().ok_or_else(|| format!("{key} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{key} {value}: {error}"));
        match key.as_str() {
            "--from" => plan.from = number()?,
            "--seeds" => plan.seeds = number()?,
            "--algorithm" => plan.algorithms = vec![value],
            "--profile" => {
                let known: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
                let found = Profile::named(&value);
                plan.profiles = vec![found.ok_or(format!("--profile {value}, expected one of {known:?}"))?];
            }
            _ => return Err(format!("{key}: expected --from, --seeds, --algorithm or --profile")),
        }
    }
    Ok(plan)
}

impl Plan {
    /// The run of a seed: profiles and algorithms in turns, unless one is given.
    fn run(&self, seed: u64) -> Result<Report, String> {
        let profile = self.profiles[seed as usize % self.profiles.len()];
        let algorithm = &self.algorithms[seed as usize / self.profiles.len() % self.algorithms.len()];
        run(&profile.schedule(algorithm, seed)).map_err(|error| error.to_string())
    }

    fn work(&self, next: &AtomicU64, total: &Mutex<Total>, began: Instant) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.from + self.seeds {
                return;
            }
            let report = self.run(seed);
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.take(seed, report);
            if total.seeds.is_multiple_of(5_000) {
                let (seeds, failed) = (total.seeds, total.failures.len());
                println!(
                    "{seeds} of {} seeds, {failed} failed, {:.0} s",
                    self.seeds,
                    began.elapsed().as_secs_f64()
                );
            }
        }
    }
}

impl Total {
    fn take(&mut self, seed: u64, report: Result<Report, String>) {
        self.seeds += 1;
        match report {
            Ok(report) => {
                self.rounds += report.rounds.len() as u64;
                self.events += report.events;
                self.virtual_s += report.finished.unwrap_or_default() / 1_000;
                self.incidents.add(&report.incidents);
                if report.violation.is_some() {
                    self.failures.push(report.explain());
                }
            }
            Err(error) => self.failures.push(format!("seed {seed}: {error}")),
        }
    }
}

fn main() -> ExitCode {
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let (next, total, began) = (AtomicU64::new(plan.from), Mutex::new(Total::default()), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| plan.work(&next, &total, began));
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    for failure in total.failures.iter().take(SHOWN) {
        println!("\n{failure}");
    }
    println!(
        "\n{} seeds, {} rounds, {} events, {} virtual hours, {:.1} s, {} failed",
        total.seeds,
        total.rounds,
        total.events,
        total.virtual_s / 3_600,
        began.elapsed().as_secs_f64(),
        total.failures.len()
    );
    for (name, count) in total.incidents.named() {
        println!("{count:>12} {name}");
    }
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
