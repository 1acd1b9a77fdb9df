//! Kinds of schedules by name: which faults a run is under. A profile, an algorithm and a seed name a
//! run, so that a failure can be replayed by one line.

use crate::{Faults, Millis, Promise, Schedule, Vice};
use algorithms::{seed, staleness::Staleness};
use proto::spec::AsyncSpec;

/// A kind of schedule.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What goes wrong in it.
    pub about: &'static str,
    make: fn(&str, u64) -> Schedule,
}

impl Profile {
    /// The schedule for an algorithm and a seed.
    pub fn schedule(&self, algorithm: &str, seed: u64) -> Schedule {
        Schedule { profile: self.name, ..(self.make)(algorithm, seed) }
    }

    /// The profile of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.name == name)
    }
}

/// Every profile.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "hostile",
        about: "lost, late and repeated messages, broken connections, crashes, pauses",
        make: Schedule::hostile,
    },
    Profile {
        name: "silent",
        about: "the same, losses go unnoticed, messages of a session overtake each other",
        make: |algorithm, seed| with(algorithm, seed, Faults { silent: true, reorder: 0.05, ..HOSTILE }),
    },
    Profile {
        name: "impatient",
        about: "the same with so short deadlines that substitutes are asked all the time",
        make: |algorithm, seed| {
            let faults = Faults { silent: seed % 2 == 1, ..HOSTILE };
            Schedule { deadline_s: 3, rejoin_s: 2, ..with(algorithm, seed, faults) }
        },
    },
    Profile {
        name: "partitioned",
        about: "partitions in one direction or both, on a network that is good otherwise",
        make: |algorithm, seed| {
            with(algorithm, seed, Faults { partitions: 6.0, down_ms: 12_000, until: UNTIL, ..LIGHT })
        },
    },
    Profile {
        name: "slow",
        about: "trainings that take longer than the deadline, and some that hang",
        make: |algorithm, seed| with(algorithm, seed, Faults { slow: 2.0, stuck: 1.5, ..LIGHT }),
    },
    Profile {
        name: "disks",
        about: "disks that fail for a while on both sides, workers that lose theirs",
        make: |algorithm, seed| {
            let disks = Faults { full_disks: 1.0, disk_losses: 0.3, store_failures: 3.0, ..HOSTILE };
            with(algorithm, seed, disks)
        },
    },
    Profile {
        name: "byzantine",
        about: "three of nine workers mean harm, under light faults",
        make: byzantine,
    },
    Profile {
        name: "everything",
        about: "all of it at once",
        make: |algorithm, seed| {
            let faults = Faults {
                reorder: 0.02,
                partitions: 2.0,
                slow: 0.7,
                stuck: 0.3,
                full_disks: 0.4,
                disk_losses: 0.1,
                store_failures: 1.5,
                ..HOSTILE
            };
            Schedule { faults, ..byzantine(algorithm, seed) }
        },
    },
    Profile {
        name: "private",
        about: "clipped sums with noise, cohorts drawn in secret, a coordinator that crashes all the time",
        make: |_, seed| Schedule { cohort: None, min_updates: 1, ..private(Promise::CENTRAL, seed) },
    },
    Profile {
        name: "correlated",
        about: "the same with noise that is correlated over rounds (DP-FTRL) and a cap on a worker's rounds",
        make: correlated,
    },
    Profile {
        name: "shares",
        about: "noise that workers add together, workers and coordinator that crash all the time",
        make: |_, seed| {
            let base = Schedule { cohort: None, min_updates: 3, ..hurried(Promise::SHARED, seed) };
            // Every other pair with deadlines at which few have arrived.
            if seed / 2 % 2 == 0 { base } else { Schedule { deadline_s: 3, rejoin_s: 2, ..base } }
        },
    },
    Profile {
        name: "ledgers",
        about: "noise of each worker by itself, which pays from its own ledger, under the same",
        make: |_, seed| hurried(Promise::LOCAL, seed),
    },
    Profile {
        name: "buffered",
        about: "no rounds: buffers, mixes and old models under everything else",
        make: buffered,
    },
    Profile { name: "full", about: "everybody takes part in every round, whatever fails", make: full },
    Profile {
        name: "everybody",
        about: "the same, and a round cannot do without anybody",
        make: |algorithm, seed| Schedule { min_updates: 6, ..full(algorithm, seed) },
    },
];

const HOSTILE: Faults = Faults::HOSTILE;
const UNTIL: Millis = 60_000;
const LIGHT: Faults = Faults {
    delay_ms: 200,
    drop: 0.01,
    duplicate: 0.05,
    cuts: 0.3,
    worker_crashes: 0.3,
    coordinator_crashes: 0.7,
    down_ms: 4_000,
    until: UNTIL,
    ..Faults::CALM
};

fn with(algorithm: &str, seed: u64, faults: Faults) -> Schedule {
    Schedule { faults, ..Schedule::hostile(algorithm, seed) }
}

/// One of these mechanisms, under a coordinator that crashes all the time.
fn private(promises: &[Promise], seed: u64) -> Schedule {
    let faults = Faults { coordinator_crashes: 6.0, store_failures: 1.5, ..HOSTILE };
    let promise = promises[seed as usize % promises.len()];
    Schedule { private: Some(promise), evaluate_every: 0, ..with("fedavg", seed, faults) }
}

/// A worker that is in two rounds is not in the one between.
fn correlated(_: &str, seed: u64) -> Schedule {
    let base = Schedule {
        cohort: Some(2),
        min_updates: 1,
        min_workers: 2,
        workers: 12,
        ..private(Promise::CORRELATED, seed)
    };
    // A tree is paid for one round of a worker.
    if base.private == Some(Promise::Tree) { Schedule { rounds: 4, ..base } } else { base }
}

/// Workers that crash as often, and whose disks are full at times.
fn hurried(promises: &[Promise], seed: u64) -> Schedule {
    let base = private(promises, seed);
    let faults = Faults { worker_crashes: 4.0, full_disks: 0.5, ..base.faults };
    Schedule { faults, ..base }
}

/// Three vices, drawn from the seed.
fn byzantine(algorithm: &str, seed: u64) -> Schedule {
    let draw = |n| Vice::ALL[(seed::derive(seed, "vice", &[n]) % Vice::ALL.len() as u64) as usize];
    Schedule { workers: 9, byzantine: (0..3).map(draw).collect(), ..with(algorithm, seed, LIGHT) }
}

/// FedBuff and FedAsync in turns, under faults that go in turns, too.
fn buffered(_: &str, seed: u64) -> Schedule {
    let (staleness, max_staleness) = (Staleness::default(), if seed.is_multiple_of(5) { 2 } else { 20 });
    let concurrency = [None, Some(4), Some(2)][(seed / 2 % 3) as usize];
    let (section, rounds) = if seed.is_multiple_of(2) {
        let buffer_size = [3, 2, 9][(seed / 4 % 3) as usize];
        (AsyncSpec::FedBuff { buffer_size, concurrency, staleness, max_staleness }, 24)
    } else {
        (AsyncSpec::FedAsync { alpha: 0.6, concurrency, staleness, max_staleness }, 50)
    };
    let algorithm = if seed % 4 == 2 { "fedadam" } else { "fedavg" };
    let faults = match seed / 2 % 4 {
        0 => Faults { coordinator_crashes: 5.0, store_failures: 1.5, ..HOSTILE },
        1 => Faults { silent: true, reorder: 0.05, partitions: 2.0, ..HOSTILE },
        2 => Faults { slow: 2.0, stuck: 1.5, ..LIGHT },
        _ => LIGHT,
    };
    let base = if seed / 2 % 4 == 3 { byzantine(algorithm, seed) } else { with(algorithm, seed, faults) };
    let least = [1, 2][(seed / 8 % 2) as usize].min(section.buffer_size());
    let (cohort, evaluate_every, deadline_s, rejoin_s) = (None, 0, 8, 4);
    Schedule {
        asynchronous: Some(section),
        rounds,
        cohort,
        evaluate_every,
        deadline_s,
        rejoin_s,
        min_updates: least,
        ..base
    }
}

/// Whoever is lost comes back in time, and training does not depend on when it happens: the model must
/// be that of a run without faults.
fn full(algorithm: &str, seed: u64) -> Schedule {
    let faults = Faults { partitions: 2.0, store_failures: 1.5, ..HOSTILE };
    Schedule {
        cohort: None,
        min_workers: 6,
        deadline_s: 900,
        rejoin_s: 300,
        noise: 0.0,
        ..with(algorithm, seed, faults)
    }
}
