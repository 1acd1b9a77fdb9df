//! Seeded fault schedules against the real machines, over every rule whose workers keep state, and
//! proof that the invariants can fail.

use simulation::{
    Faults, Incidents, PROFILES, Profile, Report, Schedule, TRAPS, invariants, run, spring, stateful,
};

/// Seeds of each profile, spread over the rules.
const SEEDS: u64 = 240;

fn profile(name: &str) -> &'static Profile {
    Profile::named(name).unwrap_or_else(|| panic!("no profile `{name}`"))
}

fn sound(schedule: &Schedule) -> Report {
    let report = run(schedule).expect("the schedule is valid");
    assert!(report.violation.is_none(), "{}", report.explain());
    report
}

/// Runs the seeds of one profile; what went wrong on the way, for asking whether anything did.
fn survives(name: &str) -> Incidents {
    let (mut total, rules) = (Incidents::default(), stateful());
    for seed in 0..SEEDS {
        let algorithm = rules[seed as usize % rules.len()];
        total.add(&sound(&profile(name).schedule(algorithm, seed)).incidents);
    }
    total
}

fn often(total: &Incidents, names: &[&str]) {
    for (name, count) in total.named().iter().filter(|(name, _)| names.contains(name)) {
        assert!(*count > SEEDS / 4, "{name}: {count} times only, {total:?}");
    }
    assert!(names.iter().all(|name| total.named().iter().any(|(known, _)| known == name)), "{names:?}");
}

const NETWORK: &[&str] =
    &["dropped", "duplicated", "cuts", "worker_crashes", "coordinator_crashes", "retries"];

#[test]
fn a_hostile_network_and_crashes() {
    often(&survives("hostile"), NETWORK);
}

#[test]
fn losses_that_nobody_notices_and_reordering() {
    often(&survives("silent"), &["dropped", "duplicated", "reordered", "pauses"]);
}

#[test]
fn deadlines_that_are_missed_all_the_time() {
    often(&survives("impatient"), &["late"]);
}

#[test]
fn partitions_in_one_direction_and_in_both() {
    often(&survives("partitioned"), &["partitions", "dropped"]);
}

#[test]
fn slow_workers_and_stuck_ones() {
    often(&survives("slow"), &["slow", "stuck", "late", "named_stuck"]);
}

#[test]
fn disks_that_fail_and_are_mended_and_disks_that_are_lost() {
    often(&survives("disks"), &["full_disks", "disk_losses", "store_failures", "coordinator_crashes"]);
}

#[test]
fn private_runs_whose_coordinator_crashes_all_the_time() {
    often(&survives("private"), &["coordinator_crashes", "store_failures", "retries"]);
}

#[test]
fn noise_that_is_correlated_over_rounds() {
    often(&survives("correlated"), &["coordinator_crashes", "store_failures", "retries"]);
}

#[test]
fn noise_that_workers_add_together() {
    often(&survives("shares"), &["coordinator_crashes", "worker_crashes", "retries"]);
}

#[test]
fn noise_of_each_worker_and_its_ledger() {
    often(&survives("ledgers"), &["coordinator_crashes", "worker_crashes", "full_disks", "retries"]);
}

#[test]
fn runs_without_rounds() {
    often(
        &survives("buffered"),
        &["coordinator_crashes", "worker_crashes", "retries", "rejected", "late", "slow"],
    );
}

#[test]
fn workers_that_mean_harm() {
    often(&survives("byzantine"), &["rejected", "quarantined"]);
}

#[test]
fn everything_at_once() {
    often(&survives("everything"), &["rejected", "partitions", "store_failures", "worker_crashes"]);
}

#[test]
fn rounds_that_cannot_do_without_anybody() {
    often(&survives("everybody"), &["retries", "store_failures"]);
}

#[test]
fn faults_leave_no_trace_in_the_model() {
    let mut total = Incidents::default();
    for algorithm in stateful().into_iter().chain(["fedavg"]) {
        for seed in 0..60 {
            let schedule = profile("full").schedule(algorithm, seed);
            let disturbed = sound(&schedule);
            total.add(&disturbed.incidents);
            let calm = sound(&Schedule { faults: Faults::CALM, ..schedule });
            assert_eq!(calm.incidents, Incidents::default());
            let checked = invariants::undisturbed(&disturbed, &calm);
            assert_eq!(checked, Ok(()), "{}", disturbed.explain());
        }
    }
    often(&total, NETWORK);
    often(&total, &["partitions", "store_failures"]);
}

#[test]
fn a_missing_worker_leaves_a_trace() {
    // The check above is not blind: noise in training, or a worker less, is another model.
    let schedule = Schedule { faults: Faults::CALM, ..profile("full").schedule("scaffold", 3) };
    let calm = sound(&schedule);
    let noisy = sound(&Schedule { noise: 1e-3, ..schedule.clone() });
    let fewer = sound(&Schedule { workers: 5, min_workers: 5, ..schedule });
    assert!(invariants::undisturbed(&noisy, &calm).is_err());
    assert!(invariants::undisturbed(&fewer, &calm).is_err());
}

#[test]
fn equal_seeds_give_equal_bytes() {
    for profile in PROFILES {
        for algorithm in stateful() {
            let first = sound(&profile.schedule(algorithm, 1));
            let second = sound(&profile.schedule(algorithm, 1));
            assert_eq!(invariants::replay(&first, &second), Ok(()));
            let other = sound(&profile.schedule(algorithm, 1_001));
            assert!(invariants::replay(&first, &other).is_err());
        }
    }
}

#[test]
fn deliberate_defects_are_caught() {
    // Rules whose server mirrors all that workers keep: there a lost or doubled state shows as such.
    for trap in TRAPS {
        for algorithm in ["scaffold", "feddyn"] {
            let found = spring(trap, algorithm);
            let caught = found.is_some_and(|(_, invariant)| trap.caught_by.contains(&invariant));
            assert!(caught, "{algorithm}: {:?} gave {found:?}, expected {:?}", trap.mutation, trap.caught_by);
        }
    }
}

#[test]
fn a_failure_says_how_to_replay_it() {
    let trap = &TRAPS[0];
    let (seed, _) = spring(trap, "scaffold").expect("the defect is found");
    let mutation = trap.mutation;
    let report = run(&Schedule { mutation, ..profile(trap.profile).schedule("scaffold", seed) }).unwrap();
    let text = report.explain();
    assert!(
        text.contains(&format!("--profile {} --algorithm scaffold --from {seed} --seeds 1", trap.profile))
    );
    assert!(report.trail.len() > 5, "{text}");
}

#[test]
fn a_wrong_schedule_is_refused_by_name() {
    let message = |change: fn(&mut Schedule)| {
        let mut schedule = Schedule::hostile("scaffold", 0);
        change(&mut schedule);
        run(&schedule).unwrap_err().to_string()
    };
    assert!(message(|s| s.workers = 0).contains("workers"));
    assert!(message(|s| s.byzantine = vec![simulation::Vice::Mute; 7]).contains("7 byzantine workers of 6"));
    assert!(message(|s| s.faults.drop = 1.5).contains("faults.drop"));
    assert!(message(|s| s.faults.cuts = f64::NAN).contains("faults.cuts"));
    assert!(message(|s| s.rounds = 0).contains("rounds"));
    assert!(message(|s| s.algorithm.0 = "scafold".into()).contains("scaffold"));
}
