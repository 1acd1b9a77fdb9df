//! Every algorithm of the registry under faults: a new file is tested without being named. Whatever a
//! rule declares of itself (client state, mirrored and recalled vectors, uploads of several lengths) has
//! to survive crashes, retries and losses on both sides.

use algorithms::rules::RULES;
use simulation::{Faults, Profile, Report, Schedule, invariants, run};

const SEEDS: u64 = 30;

fn sound(schedule: &Schedule) -> Report {
    let report = run(schedule).expect("the schedule is valid");
    assert!(report.violation.is_none(), "{}\n{}", schedule.algorithm.0, report.explain());
    report
}

fn hostile(rule: &algorithms::Rule, seed: u64) -> Schedule {
    let mut schedule = Schedule::hostile(rule.name, seed);
    let algorithm = (rule.make)(&schedule.algorithm.1).expect("an empty section is valid");
    if algorithm.needs_everyone() {
        schedule.cohort = None;
    }
    schedule.faults.silent = seed % 2 == 1;
    schedule
}

#[test]
fn every_algorithm_survives_a_hostile_network() {
    for rule in RULES {
        for seed in 0..SEEDS {
            sound(&hostile(rule, seed));
        }
    }
}

#[test]
fn equal_seeds_give_equal_bytes_for_every_algorithm() {
    for rule in RULES {
        let schedule = hostile(rule, 3);
        assert_eq!(invariants::replay(&sound(&schedule), &sound(&schedule)), Ok(()), "{}", rule.name);
    }
}

#[test]
fn faults_leave_no_trace_in_the_model_of_any_algorithm() {
    for rule in RULES {
        for seed in 0..SEEDS / 3 {
            let full = Profile::named("full").expect("the profile of runs that lose nobody");
            let schedule = full.schedule(rule.name, seed);
            let disturbed = sound(&schedule);
            let calm = sound(&Schedule { faults: Faults::CALM, ..schedule });
            assert_eq!(invariants::undisturbed(&disturbed, &calm), Ok(()), "{}", rule.name);
        }
    }
}
