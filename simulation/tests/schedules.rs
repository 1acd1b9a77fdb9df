//! Seeded fault schedules against the real machines, and proof that the invariants can fail.

use simulation::{Faults, Incidents, Mutation, Report, Schedule, invariants, run};

const STATEFUL: [&str; 2] = ["scaffold", "feddyn"];
const ALL: [&str; 3] = ["fedavg", "scaffold", "feddyn"];
const SEEDS: u64 = 600;

fn sound(schedule: &Schedule) -> Report {
    let report = run(schedule).expect("the schedule is valid");
    assert!(report.violation.is_none(), "{}\n{}", schedule.algorithm.0, report.explain());
    report
}

fn add(total: &mut Incidents, one: &Incidents) {
    total.dropped += one.dropped;
    total.duplicated += one.duplicated;
    total.cuts += one.cuts;
    total.worker_crashes += one.worker_crashes;
    total.coordinator_crashes += one.coordinator_crashes;
    total.pauses += one.pauses;
    total.retries += one.retries;
}

fn survives(algorithm: &str) {
    let mut total = Incidents::default();
    for seed in 0..SEEDS {
        let mut schedule = Schedule::hostile(algorithm, seed);
        // Every other seed on a network that is worse than any real one.
        schedule.faults.silent = seed % 2 == 1;
        // Every third one with so little patience that substitutes are asked all the time.
        if seed % 3 == 0 {
            (schedule.deadline_s, schedule.rejoin_s) = (3, 2);
        }
        add(&mut total, &sound(&schedule).incidents);
    }
    // Otherwise nothing was tested.
    let each = [total.dropped, total.duplicated, total.cuts, total.worker_crashes, total.retries];
    assert!(each.iter().all(|count| *count > SEEDS), "{total:?}");
    assert!(total.coordinator_crashes.min(total.pauses) > SEEDS / 4, "{total:?}");
}

#[test]
fn fedavg_survives_a_hostile_network_and_heals() {
    survives("fedavg");
}

#[test]
fn scaffold_survives_a_hostile_network_and_heals() {
    survives("scaffold");
}

#[test]
fn feddyn_survives_a_hostile_network_and_heals() {
    survives("feddyn");
}

#[test]
fn equal_seeds_give_equal_bytes() {
    for algorithm in ALL {
        for seed in 0..5 {
            let schedule = Schedule::hostile(algorithm, seed);
            let (first, second) = (sound(&schedule), sound(&schedule));
            assert_eq!(invariants::replay(&first, &second), Ok(()));
            let other = sound(&Schedule::hostile(algorithm, seed + 1_000));
            assert!(invariants::replay(&first, &other).is_err());
        }
    }
}

/// Everybody takes part in every round; whoever is lost comes back in time.
fn full(algorithm: &str, seed: u64) -> Schedule {
    Schedule {
        cohort: None,
        min_updates: 2,
        min_workers: 6,
        deadline_s: 900,
        rejoin_s: 300,
        noise: 0.0,
        ..Schedule::hostile(algorithm, seed)
    }
}

#[test]
fn faults_leave_no_trace_in_the_model() {
    for algorithm in ALL {
        for seed in 0..30 {
            let schedule = full(algorithm, seed);
            let disturbed = sound(&schedule);
            let calm = sound(&Schedule { faults: Faults::CALM, ..schedule });
            assert_eq!(calm.incidents, Incidents::default());
            assert_eq!(
                invariants::undisturbed(&disturbed, &calm),
                Ok(()),
                "{algorithm}\n{}",
                disturbed.explain()
            );
        }
    }
}

#[test]
fn a_missing_worker_leaves_a_trace() {
    // The check above is not blind: noise in training, or a worker less, is another model.
    let schedule = full("scaffold", 3);
    let calm = sound(&Schedule { faults: Faults::CALM, ..schedule.clone() });
    let noisy = sound(&Schedule { noise: 1e-3, faults: Faults::CALM, ..schedule.clone() });
    let fewer = sound(&Schedule { workers: 5, min_workers: 5, faults: Faults::CALM, ..schedule });
    assert!(invariants::undisturbed(&noisy, &calm).is_err());
    assert!(invariants::undisturbed(&fewer, &calm).is_err());
}

/// The invariant that finds a mutation first.
fn caught(schedule: fn(&str, u64) -> Schedule, algorithm: &str, mutation: Mutation) -> &'static str {
    (0..50)
        .map(|seed| run(&Schedule { mutation, ..schedule(algorithm, seed) }).expect("the schedule is valid"))
        .find_map(|report| report.violation.map(|violation| violation.invariant))
        .unwrap_or_else(|| panic!("{algorithm}: {mutation:?} was not caught within 50 seeds"))
}

#[test]
fn deliberate_defects_are_caught() {
    let hostile = Schedule::hostile;
    for algorithm in STATEFUL {
        assert_eq!(caught(hostile, algorithm, Mutation::CommitEarly), "confirmed");
        assert_eq!(caught(hostile, algorithm, Mutation::ConfirmBeforeDisk), "confirmed");
        assert_eq!(caught(hostile, algorithm, Mutation::RetrainOnRetry), "balance");
        assert_eq!(caught(hostile, algorithm, Mutation::UploadBeforeSave), "balance");
    }
    // Where no substitute can help, a lost upload must be sent again.
    let everybody = |algorithm: &str, seed| Schedule { min_updates: 6, ..full(algorithm, seed) };
    for algorithm in ALL {
        assert_eq!(caught(hostile, algorithm, Mutation::CountTwice), "once");
        assert_eq!(caught(everybody, algorithm, Mutation::ForgetRetry), "bounded");
    }
}

#[test]
fn a_wrong_schedule_is_refused_by_name() {
    let message = |change: fn(&mut Schedule)| {
        let mut schedule = Schedule::hostile("scaffold", 0);
        change(&mut schedule);
        run(&schedule).unwrap_err().to_string()
    };
    assert!(message(|s| s.workers = 0).contains("workers"));
    assert!(message(|s| s.faults.drop = 1.5).contains("faults.drop"));
    assert!(message(|s| s.faults.cuts = f64::NAN).contains("faults.cuts"));
    assert!(message(|s| s.rounds = 0).contains("rounds"));
    assert!(message(|s| s.algorithm.0 = "scafold".into()).contains("scaffold"));
}
