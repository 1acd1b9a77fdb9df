//! What a submission is told: with an empty ledger, a used one, and beside others under way.

use super::*;
use proto::spec::RunSpec;

const LENGTH: usize = 4;

fn guard(section: &str) -> Guard {
    let text = format!(
        "name='r'\nrounds=10\n[model]\nkind='flat'\nparameters={LENGTH}\n[data]\nname='d'\n\
         [cohort]\npopulation=100\n[privacy]\nunit='client'\nadjacency='zero_out'\nclip_norm=1.0\ndelta=1e-5\n\
         mechanism='central_gaussian'\nsampling={{kind='poisson',rate=0.1}}\n{section}\n"
    );
    let spec = RunSpec::from_toml(&text).unwrap();
    let algorithm = spec.algorithm.make().unwrap();
    Guard::of(&spec, algorithm.as_ref(), LENGTH).unwrap().unwrap()
}

fn empty(guard: &Guard) -> Journal {
    Journal::open("d", guard.spec().unit(), guard.spec().adjacency())
}

fn pay(journal: &mut Journal, run: &str, guard: &Guard, rounds: std::ops::RangeInclusive<u64>) {
    for round in rounds {
        journal.release(run, round, guard.plan().each_round.clone().unwrap()).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let guard = guard("epsilon=2.0");
    let mut journal = empty(&guard);
    guard.admit(&journal, 10, &[]).unwrap();
    pay(&mut journal, "other-1", &guard, 1..=4);
    let error = guard.admit(&journal, 10, &[]).unwrap_err();
    assert!(error.contains("above the budget of 2") && error.contains("at most 6 rounds fit"), "{error}");
    assert!(!error.contains("under way"), "{error}");
    guard.admit(&journal, 6, &[]).unwrap();
    assert!(guard.hides_cohort());
}

#[test]
fn what_runs_under_way_have_still_to_release_is_reserved() {
    let guard = guard("epsilon=2.0");
    let mut journal = empty(&guard);
    let active = [Active { run: "a-1", guard: &guard, rounds: 7 }];
    // Before its first round and after some, the same is spoken for.
    for paid in [0, 3] {
        pay(&mut journal, "a-1", &guard, 1..=paid);
        let error = guard.admit(&journal, 10, &active).unwrap_err();
        let rest = format!("under way: `a-1` ({} rounds)", 7 - paid);
        assert!(error.contains("at most 3 rounds fit") && error.contains(&rest), "{paid}: {error}");
        guard.admit(&journal, 3, &active).unwrap();
    }
    // One that has ended holds nothing but what it released.
    guard.admit(&journal, 7, &[]).unwrap();
    assert!(guard.admit(&journal, 8, &[]).is_err());
    pay(&mut journal, "a-1", &guard, 4..=7);
    assert!(!guard.admit(&journal, 4, &active).unwrap_err().contains("under way"));
}

#[test]
fn a_run_may_not_take_what_another_was_promised() {
    let (strict, generous, open) =
        (guard("epsilon=2.0"), guard("epsilon=8.0"), guard("noise_multiplier=1.0"));
    let journal = empty(&strict);
    let active = [Active { run: "strict-1", guard: &strict, rounds: 10 }];
    for guard in [&generous, &open] {
        let error = guard.admit(&journal, 5, &active).unwrap_err();
        assert!(
            error.contains("the budget of run `strict-1`") && error.contains("above the budget of 2"),
            "{error}"
        );
        assert!(error.contains("not even one round fits"), "{error}");
        guard.admit(&journal, 10, &[]).unwrap();
    }
    // A run that watches no budget still counts for those that do.
    let active = [Active { run: "open-1", guard: &open, rounds: 10 }];
    assert!(strict.admit(&journal, 10, &active).unwrap_err().contains("`open-1` (10 rounds)"));
}
