//! `kill -9` at any instant: the run goes on by itself and gives the bits of an undisturbed run.
//!
//! `STARLING_CRASH_S=3600` goes on for so many seconds; `STARLING_CRASH_SEED` starts at another seed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod fleet;

use fleet::{Fleet, WORKERS, now_ms, signal, terminate, undisturbed, until};
use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 12;
const STEPS: u64 = 2_000;
const KILLS: u64 = 10;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

/// One run with kills at moments drawn from `seed`; the number of kills and the results.
fn disturbed(seed: u64) -> (u64, Vec<String>) {
    let mut random = Random(seed);
    let mut fleet = Fleet::new(true);
    fleet.start();
    let run = fleet.submit(ROUNDS, STEPS);
    let mut watch = fleet.watch(&run);
    let mut kills = 0;
    let ended = loop {
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        if let Some(status) = watch.try_wait().unwrap() {
            break status;
        }
        if kills == KILLS {
            break until("the end of the run", || watch.try_wait().unwrap());
        }
        // Each of the four is drawn before one is drawn again.
        let victim = (usize::try_from(kills + seed).unwrap() * 3) % (WORKERS + 1);
        let pause = Duration::from_millis(random.below(600));
        if victim == WORKERS {
            fleet.kill_coordinator();
            std::thread::sleep(pause);
            fleet.start_coordinator();
        } else {
            fleet.kill_worker(victim);
            std::thread::sleep(pause);
            fleet.start_worker(victim);
        }
        kills += 1;
    };
    assert!(ended.success(), "seed {seed}: the run ended with {ended}");
    (kills, fleet.results(&run))
}

#[test]
fn a_run_survives_every_kill() {
    let want = undisturbed(true, ROUNDS, STEPS);
    let start = Instant::now();
    let budget = Duration::from_secs(variable("STARLING_CRASH_S").unwrap_or(0));
    let first = variable("STARLING_CRASH_SEED").unwrap_or(1);
    let (mut kills, mut rounds) = (0, 0);
    for seed in first.. {
        println!("seed {seed}");
        let (killed, results) = disturbed(seed);
        assert_eq!(results, want, "STARLING_CRASH_SEED={seed}: another model than undisturbed");
        kills += killed;
        rounds += ROUNDS;
        if start.elapsed() >= budget {
            break;
        }
    }
    assert!(kills >= 4, "the run was over before enough was killed: {kills} kills");
    println!("{kills} kills, {rounds} rounds, {:.0} s", start.elapsed().as_secs_f64());
}

/// The first event of a kind, of those given, after an instant.
fn first_after(fleet: &Fleet, kinds: &[&str], after_ms: u64) -> u64 {
    let of = |event: &Value| {
        let time = event["time_ms"].as_u64()?;
        (time >= after_ms && kinds.contains(&event["event"].as_str()?)).then_some(time)
    };
    until(&format!("one of {kinds:?}"), || fleet.watched().iter().find_map(of))
}

const TRAINING: &[&str] = &["update_applied", "round_committed"];

#[test]
fn what_died_is_noticed_and_what_was_restarted_trains() {
    let mut fleet = Fleet::new(true);
    fleet.start();
    let run = fleet.submit(1_000_000, 50);
    let mut watch = fleet.watch(&run);
    first_after(&fleet, TRAINING, 0);

    // Dead: the kernel closes its connections. Frozen: nothing does, only the silence tells.
    for (how, index) in [("killed", 0), ("frozen", 1)] {
        let start = Instant::now();
        if how == "killed" {
            fleet.kill_worker(index);
        } else {
            signal(fleet.workers[index].as_ref().unwrap(), Signal::STOP);
        }
        until("a lost worker", || (!fleet.is_connected(index)).then_some(()));
        println!("{how} worker noticed after {:.2} s", start.elapsed().as_secs_f64());
        assert!(start.elapsed() <= Duration::from_secs(5), "{how}: {:?}", start.elapsed());
        fleet.kill_worker(index);
        let start = now_ms();
        fleet.start_worker(index);
        first_after(&fleet, TRAINING, start);
    }

    for _ in 0..3 {
        fleet.kill_coordinator();
        let start = now_ms();
        fleet.start_coordinator();
        let again = first_after(&fleet, TRAINING, start) - start;
        println!("restarted coordinator trains again after {:.2} s", again as f64 / 1e3);
        assert!(again < 5_000, "{again} ms");
    }

    // Asked to stop, everybody ends cleanly, and the run goes on afterwards.
    let status = terminate(fleet.workers[2].take().unwrap());
    assert_eq!(status.code(), Some(0), "{}", fleet.log("worker-3"));
    let start = now_ms();
    fleet.start_worker(2);
    first_after(&fleet, TRAINING, start);
    let asked = Instant::now();
    let status = terminate(fleet.coordinator.take().unwrap());
    assert_eq!(status.code(), Some(0), "{}", fleet.log("coordinator"));
    println!("coordinator stopped within {:.2} s", asked.elapsed().as_secs_f64());
    assert!(asked.elapsed() < Duration::from_secs(12));
    let start = now_ms();
    fleet.start_coordinator();
    first_after(&fleet, TRAINING, start);
    fleet.ask(&["run", "cancel", &run]).unwrap();
    until("the end of the watch", || watch.try_wait().unwrap());
}
